"""The cluster that KUBECONFIG names, as a user has it: kubectl for what is done, watches for what is awaited."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from kubernetes import client, config

Object = dict[str, Any]
T = TypeVar("T")

COMMAND_WITHIN_S = 60.0
"""What one kubectl may take."""
CONNECT_WITHIN_S = 5.0
WATCH_S = 30
"""How long one watch lasts: a connection that died without a word is noticed after that."""
REACHABLE_WITHIN_S = 120.0
"""How long the API server may be away: a node of it is restarted."""
PAUSE_S = 0.2
"""Between two tries of what tells nobody when it changes."""

_STREAMJOB = "/apis/streamjob.dev/v1alpha1"
_PATHS = {
    "StreamJob": (_STREAMJOB, "streamjobs"),
    "StatefulSet": ("/apis/apps/v1", "statefulsets"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "Pod": ("/api/v1", "pods"),
    "Service": ("/api/v1", "services"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Secret": ("/api/v1", "secrets"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "Event": ("/api/v1", "events"),
}


class TooLongError(AssertionError):
    """What was waited for did not come in time."""


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str


def run(command: Sequence[str], stdin: str | None = None, within_s: float = COMMAND_WITHIN_S) -> Finished:
    """Runs a command to its end."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=within_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise TooLongError(f"{' '.join(command)} did not end within {within_s:g} s: {error.stderr!r}") from None
    return Finished(done.returncode, done.stdout, done.stderr)


def wait_until(what: str, look: Callable[[], T | None], within_s: float) -> T:
    """What `look` gives, once that is true. For what nobody can watch; what an API server knows is watched."""
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TooLongError(f"{what} did not come within {within_s:g} s; last seen: {found!r}")
        time.sleep(PAUSE_S)


class Cluster:
    """kubectl and the API server. `kind` is the name of the cluster where it is one of kind's, else None."""

    def __init__(self) -> None:
        settings = client.Configuration()
        config.load_kube_config(client_configuration=settings)
        context = ssl.create_default_context(cafile=settings.ssl_ca_cert)
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file)
        token = settings.get_api_key_with_prefix("authorization")
        self._http = httpx.Client(
            base_url=settings.host,
            verify=context,
            headers={"Authorization": token} if token else {},
            timeout=httpx.Timeout(COMMAND_WITHIN_S, connect=CONNECT_WITHIN_S),
        )
        self.nodes = self.get("/api/v1/nodes")["items"]
        self.kind = self._kind()

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    def _kind(self) -> str | None:
        """kind names cluster and container in each node; that docker knows the container is what counts."""
        parts = str(self.nodes[0]["spec"].get("providerID", "")).split("/")
        if parts[0] != "kind:" or shutil.which("docker") is None:
            return None
        known = run(["docker", "inspect", "--format", "{{.State.Running}}", parts[-1]])
        return parts[-2] if known.code == 0 else None

    # ---- what is done

    def kubectl(self, *arguments: str, stdin: str | None = None, within_s: float = COMMAND_WITHIN_S) -> str:
        """Runs kubectl, which must succeed; gives what it printed."""
        done = run(["kubectl", *arguments], stdin, within_s)
        assert done.code == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def refused(self, *arguments: str, stdin: str | None = None) -> str:
        """Runs kubectl, which must fail; gives what it complained of."""
        done = run(["kubectl", *arguments], stdin)
        assert done.code != 0, f"kubectl {' '.join(arguments)} was not refused: {done.stdout}"
        return done.stderr

    def apply(self, namespace: str, *objects: Object) -> None:
        """`kubectl apply` of objects, as JSON, which is YAML."""
        for one in objects:
            self.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(one))

    # ---- what is seen

    def get(self, path: str) -> Object:
        """What the API server has at a path; AssertionError for any answer but 200."""
        response = self._http.get(path)
        assert response.status_code == 200, f"GET {path}: {response.status_code} {response.text[:500]}"
        return dict(response.json())

    def post(self, path: str, body: Object, headers: Sequence[tuple[str, str]] = ()) -> Object:
        """Makes an object."""
        response = self._http.post(path, json=body, headers=list(headers))
        assert response.status_code in (200, 201), f"POST {path}: {response.status_code} {response.text[:500]}"
        return dict(response.json())

    def objects(self, kind: str, namespace: str, labels: str = "") -> dict[str, Object]:
        """The objects of a kind by name."""
        listed = self._list(kind, namespace, labels)
        return {one["metadata"]["name"]: one for one in listed["items"]}

    def one(self, kind: str, namespace: str, name: str) -> Object:
        """One object, which must be there."""
        found = self.objects(kind, namespace)
        assert name in found, f"there is no {kind} {name} in {namespace}, only {sorted(found)}"
        return found[name]

    # ---- what is awaited

    def until(
        self,
        what: str,
        kind: str,
        namespace: str,
        holds: Callable[[dict[str, Object]], T | None],
        within_s: float,
        labels: str = "",
    ) -> T:
        """What `holds` gives for the objects of a kind by name, once that is true: looked at on each change."""
        deadline = time.monotonic() + within_s
        last: dict[str, Object] = {}
        for last in self._states(kind, namespace, labels, deadline):
            found = holds(last)
            if found:
                return found
        raise TooLongError(f"{what} did not come within {within_s:g} s; last seen: {_digest(last)}")

    def _states(self, kind: str, namespace: str, labels: str, deadline: float) -> Iterator[dict[str, Object]]:
        """The objects as they are, then after each change, until the deadline; over lost connections, too."""
        seen: dict[str, Object] = {}
        while time.monotonic() < deadline:
            try:
                listed = self._list(kind, namespace, labels)
                seen = {one["metadata"]["name"]: one for one in listed["items"]}
                yield seen
                for event in self._watch(kind, namespace, labels, listed["metadata"]["resourceVersion"], deadline):
                    name = event["object"]["metadata"].get("name")
                    if event["type"] == "DELETED":
                        seen.pop(name, None)
                    elif event["type"] in ("ADDED", "MODIFIED"):
                        seen[name] = event["object"]
                    else:  # the watch has fallen behind, and begins anew
                        break
                    yield seen
            except (httpx.TransportError, httpx.HTTPStatusError):
                time.sleep(PAUSE_S)

    def _list(self, kind: str, namespace: str, labels: str) -> Object:
        response = self._http.get(_path(kind, namespace), params={"labelSelector": labels})
        response.raise_for_status()
        return dict(response.json())

    def _watch(self, kind: str, namespace: str, labels: str, version: str, deadline: float) -> Iterator[Object]:
        left = max(1, min(WATCH_S, int(deadline - time.monotonic())))
        asked = {"watch": "1", "labelSelector": labels, "resourceVersion": version, "timeoutSeconds": str(left)}
        timeout = httpx.Timeout(left + CONNECT_WITHIN_S, connect=CONNECT_WITHIN_S)
        with self._http.stream("GET", _path(kind, namespace), params=asked, timeout=timeout) as response:
            if response.status_code != 200:
                return
            for line in response.iter_lines():
                yield json.loads(line)

    def until_reachable(self) -> None:
        """Waits for the API server to serve."""

        def serves() -> bool:
            try:
                return self._http.get("/readyz", timeout=CONNECT_WITHIN_S).status_code == 200
            except httpx.TransportError:
                return False

        wait_until("the API server's answer", serves, REACHABLE_WITHIN_S)


def _path(kind: str, namespace: str) -> str:
    root, plural = _PATHS[kind]
    return f"{root}/namespaces/{namespace}/{plural}"


def _digest(objects: dict[str, Object]) -> str:
    """Names and states, short enough for a failure."""
    said = {name: one.get("status") or one.get("message") or "" for name, one in objects.items()}
    return json.dumps(said)[:4000]
