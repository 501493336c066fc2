"""What `helm test` runs in a pod: is the operator there, does it run jobs, and does the API server refuse bad ones?

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
RENEWED_WITHIN_S = 30
"""A leader renews every 2 s; one that was killed is followed after 15 s."""
SEEN_WITHIN_S = 45
GONE_WITHIN_S = 45
"""A job that never ran has nothing to wait for; its `deletionDeadline` is shorter."""
MARK = "streamjob.dev/helm-test"
JOB = {
    "apiVersion": "streamjob.dev/v1alpha1",
    "kind": "StreamJob",
    "metadata": {"name": "helm-test", "labels": {MARK: "true"}},
    "spec": {
        "suspend": True,
        "deletionPolicy": "Delete",
        "deletionDeadline": "30s",
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


class WrongAnswerError(Exception):
    """An answer that is not the one that is wanted."""


def ask(url, body=None, token=None, trusted=None, method=None, timeout=TIMEOUT_S, read=None):
    """The status and the text of an answer; of a good one, what `read` makes of it."""
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    context = ssl.create_default_context(cafile=trusted) if trusted else None
    try:
        with urllib.request.urlopen(request, timeout=timeout, context=context) as answer:
            return answer.status, read(answer) if read else answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def expect(what, got, wanted):
    """Prints an answer, and gives its text where it is one of the wanted."""
    status, text = got
    if status not in wanted:
        raise WrongAnswerError(f"{what}: {status}, expected {' or '.join(map(str, wanted))}\n{text[:2000]}")
    print(f"ok   {what}: {status}", flush=True)
    return text


class Api:
    """The API server, asked with a token."""

    def __init__(self, server, token, trusted):
        self.server, self.token, self.trusted = server, token, trusted

    def ask(self, path, body=None, method=None, **more):
        """The status and the text of an answer."""
        return ask(self.server + path, body, self.token, self.trusted, method, **more)

    def until(self, what, path, name, holds, within_s, since=""):
        """Waits for an event about an object, since a version or as it is now, for which `holds` gives something."""

        def read(answer):
            for line in answer:
                found = holds(json.loads(line))
                if found:
                    return found
            return None

        query = f"?watch=true&fieldSelector=metadata.name%3D{name}&timeoutSeconds={within_s}&resourceVersion={since}"
        try:
            status, found = self.ask(path + query, timeout=within_s + TIMEOUT_S, read=read)
        except TimeoutError:
            status, found = 200, None
        if status != 200:
            raise WrongAnswerError(f"{what}: {status}\n{found[:2000]}")
        if not found:
            raise WrongAnswerError(f"{what}: not within {within_s} s; see the operator's log")
        print(f"ok   {what}: {found}", flush=True)


def look_at_leader(api, namespace, lease):
    """One replica leads, and renews its Lease meanwhile."""
    first = []

    def renewed(event):
        spec = event.get("object", {}).get("spec", {})
        seen = (spec.get("holderIdentity"), spec.get("renewTime"))
        first.append(seen)
        return seen[0] if seen[0] and seen != first[0] else None

    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    api.until("a leader renews its Lease", path, lease, renewed, RENEWED_WITHIN_S)


def run_a_job(api, namespace):
    """A suspended job is looked after: its status speaks of it, and it goes when it is deleted."""
    name = JOB["metadata"]["name"]
    path = f"/apis/streamjob.dev/v1alpha1/namespaces/{namespace}/streamjobs"
    status, text = api.ask(f"{path}/{name}")
    if status == 200:
        if MARK not in json.loads(text)["metadata"].get("labels", {}):
            raise WrongAnswerError(f"there is a StreamJob {name} in {namespace} that is no test's: delete or rename it")
        remove(api, path, name)  # a test that was cut off has left it
    expect("a job is made", api.ask(path, JOB), (201,))
    try:
        api.until("the operator looks after it", path, name, is_suspended, SEEN_WITHIN_S)
    except WrongAnswerError:
        api.ask(f"{path}/{name}", method="DELETE")
        raise
    remove(api, path, name)


def is_suspended(event):
    """Whether the status says that the spec as it is has been carried out."""
    job = event.get("object", {})
    status = job.get("status", {})
    current = status.get("observedGeneration") == job.get("metadata", {}).get("generation")
    return status["phase"] if current and status.get("phase") == "Suspended" else None


def remove(api, path, name):
    """Deletes the job, and waits until it is gone."""
    text = expect("it is deleted", api.ask(f"{path}/{name}", method="DELETE"), (200, 202, 404))
    if json.loads(text).get("kind") != "StreamJob":
        return  # it was held by nobody
    gone = lambda event: event.get("type") == "DELETED" and "DELETED"  # noqa: E731
    version = json.loads(text)["metadata"]["resourceVersion"]
    api.until("it is gone", path, name, gone, GONE_WITHIN_S, version)


def main():
    """All of it."""
    operator = os.environ["OPERATOR"]
    expect("the operator lives", ask(f"http://{operator}:8081/healthz"), (200,))
    expect("it gives metrics", ask(f"http://{operator}:9090/metrics"), (200,))
    server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    with open(f"{ACCOUNT}/token") as file:
        api = Api(server, file.read(), f"{ACCOUNT}/ca.crt")
    namespace = os.environ["JOBS"]
    url = f"/apis/streamjob.dev/v1alpha1/namespaces/{namespace}/streamjobs?dryRun=All"
    wrong = json.loads(json.dumps(JOB))
    wrong["metadata"]["name"] += "-wrong"
    wrong["spec"]["shards"] = 0
    expect("a job with 0 shards is refused", api.ask(url, wrong), (422,))
    look_at_leader(api, os.environ["LEASE_NAMESPACE"], os.environ["LEASE"])
    run_a_job(api, namespace)


if __name__ == "__main__":
    try:
        main()
    except (WrongAnswerError, OSError) as error:
        print(f"FAIL {error}")
        sys.exit(1)
