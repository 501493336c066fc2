"""A pod that stands for a client within the cluster: it posts to Services and asks them, by their names.

One `kubectl exec` keeps a small program running there, which takes requests as lines of JSON and answers in lines.
"""

from __future__ import annotations

import json
import subprocess
import threading
from typing import Any

from cluster import Cluster, Object

READY_WITHIN_S = 120.0
REQUEST_S = 20.0
"""What one request may take, in the pod."""
ANSWER_WITHIN_S = REQUEST_S + 10.0
NAME = "client"

_PROGRAM = f"""
import json, sys, httpx
for line in sys.stdin:
    asked = json.loads(line)
    try:
        # A connection each, so that each goes where the Service points to now.
        answer = httpx.request(**asked, timeout={REQUEST_S})
        said = {{"status": answer.status_code, "body": answer.text}}
    except httpx.TransportError as error:
        said = {{"status": 0, "body": repr(error)}}
    print(json.dumps(said), flush=True)
"""


def manifest(image: str) -> Object:
    """The pod: the engine's image has Python and an HTTP client."""
    container: Object = {
        "name": "client",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", "import signal; signal.sigwait([signal.SIGTERM])"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec: Object = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME}, "spec": spec}


class ClientPod:
    """Requests from within the cluster. Of several threads, one at a time."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster, self._namespace = cluster, namespace
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def request(self, method: str, url: str, **asked: Any) -> tuple[int, str]:
        """The status and the body of an answer; the status 0 where nobody answered."""
        line = json.dumps({"method": method, "url": url, **asked})
        with self._lock:
            answer = self._exchange(line)
        return (0, "the client's pod does not answer") if answer is None else (answer["status"], answer["body"])

    def close(self) -> None:
        """Ends the program in the pod."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _exchange(self, line: str) -> Object | None:
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        # A node that goes takes the connection along without a word: who does not answer in time is given up.
        guard = threading.Timer(ANSWER_WITHIN_S, process.kill)
        guard.start()
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            return dict(json.loads(process.stdout.readline()))
        except (OSError, ValueError):
            self.close()
            return None
        finally:
            guard.cancel()

    def _start(self) -> subprocess.Popen[str]:
        command = ["kubectl", "-n", self._namespace, "exec", "-i", NAME, "--", "python", "-u", "-c", _PROGRAM]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        return self._process
