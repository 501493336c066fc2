"""What `helm uninstall` runs before all else where `crds.keep` is false: deletes every StreamJob of the cluster.

A job goes only while an operator runs, and its CustomResourceDefinition only after the last job: helm would take the
operator away first, and both would stay for ever. Only Python's own library.
"""

import http.client
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import quote

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
TIMEOUT_S = 10
GONE_WITHIN_S = 240
"""Less than the 5 minutes that helm gives a hook, of which the pod has taken some to start."""
PAUSE_S = 1
"""Between two looks at what is left."""
PAGE = 500
"""Jobs of one answer."""
MAX_NAMED = 10
"""Jobs that a complaint names."""
JOBS = "/apis/streamjob.dev/v1alpha1"
NAMES_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class LeftError(Exception):
    """What could not be done, and what to do."""


class Api:
    """The API server, asked with a token."""

    def __init__(self, server, token, trusted):
        self.server, self.token = server, token
        self.context = ssl.create_default_context(cafile=trusted) if trusted else None

    def ask(self, path, method="GET", accept="application/json"):
        """The status and the JSON of an answer; 0 and why where there was none."""
        headers = {"Authorization": f"Bearer {self.token}", "Accept": accept}
        request = urllib.request.Request(self.server + path, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self.context) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, {"message": error.read().decode(errors="replace")[:500]}
        except (OSError, ValueError, http.client.HTTPException) as error:
            return 0, {"message": f"the API server does not answer: {error}"}


def passing(status):
    """Whether another try may do better: no answer, a change by others, a list that took too long, a busy server."""
    return status in (0, 409, 410, 429) or status >= 500


def delete_all(api, clock=time.monotonic, sleep=time.sleep):
    """Deletes all jobs, and waits until they are gone."""
    until = clock() + GONE_WITHIN_S
    while True:
        left, problem = look(api, lambda: clock() >= until)
        if not left and problem is None:
            print("ok   no StreamJobs are left", flush=True)
            return
        if clock() >= until:
            raise LeftError(complaint(left, problem))
        sleep(PAUSE_S)


def look(api, late):
    """Asks for the deletion of all jobs that are not on their way out; gives those that are there, and what failed."""
    left, problem, more = [], None, ""
    while True:
        status, answer = api.ask(f"{JOBS}/streamjobs?limit={PAGE}&continue={more}", accept=NAMES_ONLY)
        if status == 404:  # nobody knows of StreamJobs any more
            return [], None
        if status != 200 and not passing(status):
            raise LeftError(f"the StreamJobs cannot be listed: {status} {answer['message']}")
        if status != 200:
            return left, answer["message"]
        for job in answer["items"] or ():
            left.append((job["metadata"]["namespace"], job["metadata"]["name"]))
            problem = delete(api, job["metadata"]) or problem
        more = quote(answer["metadata"].get("continue") or "")
        if not more:
            return left, problem
        if late():
            return left, problem or "there are too many to look at all of them in time"


def delete(api, metadata):
    """Asks for a job's deletion, once; gives why that failed where another try may do better."""
    if metadata.get("deletionTimestamp"):
        return None
    namespace, name = metadata["namespace"], metadata["name"]
    status, answer = api.ask(f"{JOBS}/namespaces/{namespace}/streamjobs/{name}", method="DELETE")
    if passing(status):
        return answer["message"]
    if status not in (200, 202, 404):
        raise LeftError(f"{namespace}/{name} cannot be deleted: {status} {answer['message']}")
    print(f"ok   {namespace}/{name} is deleted", flush=True)
    return None


def complaint(left, problem):
    """What is left, why, and what to do."""
    named = ", ".join("/".join(one) for one in left[:MAX_NAMED])
    more = f" and {len(left) - MAX_NAMED} more" if len(left) > MAX_NAMED else ""
    what = f"StreamJobs are left after {GONE_WITHIN_S} s: {named}{more}" if left else "StreamJobs may be left"
    return (
        f"{what}{f' ({problem})' if problem else ''}. Only a running operator lets a job go, after what `kubectl "
        "streamjob explain` says it waits for: look at the operator's pods and log, then run `helm uninstall` again."
    )


def main():
    """All of it."""
    server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    with open(f"{ACCOUNT}/token") as file:
        delete_all(Api(server, file.read(), f"{ACCOUNT}/ca.crt"))


if __name__ == "__main__":
    try:
        main()
    except (LeftError, OSError) as error:
        print(f"FAIL {error}")
        sys.exit(1)
