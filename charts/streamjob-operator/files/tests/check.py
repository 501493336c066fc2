"""What `helm test` runs in a pod: is the operator there, and does the API server take jobs as it should?

Only Python's own library. Every answer is printed; the first wrong one ends the test with exit code 1.
"""

import json
import os
import ssl
import sys
import urllib.error
import urllib.request

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
TIMEOUT_S = 10
JOB = {
    "apiVersion": "streamjob.dev/v1alpha1",
    "kind": "StreamJob",
    "metadata": {"name": "helm-test"},
    "spec": {
        "schema": {
            "key": "id",
            "time": {"field": "at", "unit": "ms"},
            "fields": {"id": "string", "value": "float64"},
        },
        "sources": [{"name": "in", "http": {}}],
        "windows": [{"name": "w", "tumbling": "10s", "aggregates": {"n": "count()"}}],
        "sinks": [{"name": "out", "from": "w", "file": {"path": "out"}}],
    },
}


def ask(url, body=None, token=None, trusted=None):
    """The status and the text of an answer."""
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, data=json.dumps(body).encode() if body else None, headers=headers)
    context = ssl.create_default_context(cafile=trusted) if trusted else None
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def expect(what, got, wanted):
    """Prints an answer; ends the test where it is not the one that is wanted."""
    status, text = got
    good = status == wanted
    print(f"{'ok  ' if good else 'FAIL'} {what}: {status}" + ("" if good else f", expected {wanted}\n{text[:2000]}"))
    if not good:
        sys.exit(1)


def main():
    operator = os.environ["OPERATOR"]
    expect("the operator lives", ask(f"http://{operator}:8081/healthz"), 200)
    expect("it gives metrics", ask(f"http://{operator}:9090/metrics"), 200)
    if "CREATE" not in os.environ:
        return
    server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    url = f"{server}/apis/streamjob.dev/v1alpha1/namespaces/{os.environ['CREATE']}/streamjobs?dryRun=All"
    with open(f"{ACCOUNT}/token") as file:
        token = file.read()
    trusted = f"{ACCOUNT}/ca.crt"
    expect("a good job is taken (dry run)", ask(url, JOB, token, trusted), 201)
    wrong = json.loads(json.dumps(JOB))
    wrong["spec"]["shards"] = 0
    expect("a job with 0 shards is refused", ask(url, wrong, token, trusted), 422)


if __name__ == "__main__":
    main()
