"""What the plugin asks of the API server. The only module of the plugin that imports the Kubernetes client.

Objects come and go as the JSON that they are. Every failure is a `ClusterError`: a sentence for a person.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import urllib3
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from streamjob_operator.plugin.observation import Object, Observation

TIMEOUT_S = 30.0
"""What one request may take."""
WATCH_S = 60
"""How long one watch lasts: that a connection has died without a word is noticed after it."""
WATCH_LATE_S = 5.0
"""How much later than that the API server may end it."""
WATCH_AGAIN_S = 0.5
"""Between a watch that has ended and the next look."""
LOG_CHUNK_BYTES = 16 << 10
MAX_WATCH_LINE_BYTES = 8 << 20
"""A longer line of a watch is no object."""

_JOBS = "/apis/streamjob.dev/v1alpha1"
_HINTS = {
    401: "log in again, or choose another context",
    403: "ask for the role edit (or view) in this namespace",
    409: "it was changed at the same time; try again",
}
_PASSING = (None, 410, 429, 500, 502, 503, 504)
"""Where another try may do better: a lost connection, a watch that fell behind, a server that starts or is busy."""


class ClusterError(RuntimeError):
    """A request that failed; `status` is the HTTP status, or None where nothing answered."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Cluster:
    """One cluster and one namespace, as a kubeconfig names them."""

    def __init__(self, *, kubeconfig: str | None, context: str | None, namespace: str | None) -> None:
        # A kubeconfig that says insecure-skip-tls-verify is its owner's choice; kubectl does not speak of it either.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        settings = client.Configuration()
        try:
            config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=settings)
            self.namespace = namespace or _namespace_of_context(kubeconfig, context)
        except ConfigException as error:
            raise ClusterError(f"no cluster can be reached: {error}; give --kubeconfig or --context") from None
        except (yaml.YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            said = " ".join(str(error).split())
            raise ClusterError(f"the kubeconfig cannot be read: {said}; correct it, or give --kubeconfig") from None
        self._api = client.ApiClient(settings)
        self.kubeconfig, self.context = kubeconfig, context

    def jobs(self, *, everywhere: bool) -> list[Object]:
        """All jobs of the namespace, or of all namespaces."""
        where = "" if everywhere else f"/namespaces/{quote(self.namespace)}"
        return list(self._json("GET", f"{_JOBS}{where}/streamjobs")["items"])

    def job(self, name: str) -> Object:
        """One job."""
        return self._json("GET", self._job_path(name))

    def observe(self, name: str) -> Observation:
        """A job with its pods, volume claims and events."""
        job = self.job(name)
        selector = {"labelSelector": f"streamjob.dev/job={name}"}
        pods, claims = self._core("pods", selector), self._core("persistentvolumeclaims", selector)
        about = [name, *(pod["metadata"]["name"] for pod in pods)]
        events = [
            event for one in about for event in self._core("events", {"fieldSelector": f"involvedObject.name={one}"})
        ]
        return Observation(job, pods, claims, events, datetime.now(UTC))

    def patch(self, name: str, patch: Mapping[str, Any]) -> Object:
        """Changes members of a job by a JSON merge patch; gives the job as it is then."""
        kind = {"Content-Type": "application/merge-patch+json"}
        return self._json("PATCH", self._job_path(name), {"fieldManager": "kubectl-streamjob"}, dict(patch), kind)

    def watch(self, job: Object, seconds: int) -> Iterator[Object]:
        """The job as it is and at every change, for at most `seconds`, over watches and connections that end meanwhile.

        ClusterError where it is deleted, where it may not be watched, and where nothing answers at the end.
        """
        deadline = time.monotonic() + seconds
        known: Object | None = job
        while True:
            broken: ClusterError | None = None
            try:
                # A watch says nothing of what happened between the one before and itself.
                known = known or self._again(job)
                yield known
                yield from self._changes(known, deadline)
            except ClusterError as error:
                if error.status not in _PASSING:
                    raise
                broken = error
            known, left = None, deadline - time.monotonic()
            if left > 0:
                time.sleep(min(left, WATCH_AGAIN_S))
            elif broken is not None:
                raise broken
            else:
                return

    def _again(self, job: Object) -> Object:
        """The same job as it is now."""
        try:
            now = self.job(job["metadata"]["name"])
        except ClusterError as error:
            raise _deleted(job) if error.status == 404 else error from None
        if now["metadata"]["uid"] != job["metadata"]["uid"]:
            raise _deleted(job)
        return now

    def _changes(self, job: Object, deadline: float) -> Iterator[Object]:
        """The job at every change since its version, until one watch ends."""
        seconds = math.ceil(min(WATCH_S, deadline - time.monotonic()))
        if seconds <= 0:
            return
        query = {
            "fieldSelector": f"metadata.name={job['metadata']['name']}",
            "resourceVersion": job["metadata"]["resourceVersion"],
            # They keep a connection alive on which nothing else happens.
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
            "watch": "1",
        }
        path = f"{_JOBS}/namespaces/{quote(self.namespace)}/streamjobs"
        for line in self._lines(self._request("GET", path, query, timeout=(TIMEOUT_S, seconds + WATCH_LATE_S))):
            event = _object(line)
            if event["type"] == "DELETED":
                raise _deleted(job)
            if event["type"] == "ERROR":
                raise ClusterError(f"the watch ended: {event['object'].get('message')}", event["object"].get("code"))
            if event["type"] != "BOOKMARK":
                yield event["object"]

    def logs(self, pod: str, *, follow: bool, previous: bool, tail: int | None, since_s: int | None) -> Iterator[str]:
        """Lines of the engine's log."""
        query = {
            "container": "engine",
            "follow": "true" if follow else None,
            "previous": "true" if previous else None,
            "tailLines": None if tail is None else str(tail),
            "sinceSeconds": None if since_s is None else str(since_s),
        }
        given = {name: value for name, value in query.items() if value is not None}
        path = f"/api/v1/namespaces/{quote(self.namespace)}/pods/{quote(pod)}/log"
        yield from self._lines(self._request("GET", path, given, timeout=None if follow else TIMEOUT_S))

    def _job_path(self, name: str) -> str:
        return f"{_JOBS}/namespaces/{quote(self.namespace)}/streamjobs/{quote(name, safe='')}"

    def _core(self, plural: str, query: Mapping[str, str]) -> list[Object]:
        return list(self._json("GET", f"/api/v1/namespaces/{quote(self.namespace)}/{plural}", query)["items"])

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Object:
        response = self._request(method, path, query or {}, body, headers, timeout=TIMEOUT_S)
        return _object(_body(response))

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float | tuple[float, float] | None,
    ) -> urllib3.BaseHTTPResponse:
        """An answer whose body has not been read."""
        asked = self._api.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", **(headers or {})},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response: urllib3.BaseHTTPResponse = self._api.call_api(*asked, _request_timeout=timeout).response
        except (ApiException, urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(f"the API server does not answer: {error}; is the context right?") from None
        if not 200 <= response.status < 300:
            raise _refused(response)
        return response

    def _lines(self, response: urllib3.BaseHTTPResponse) -> Iterator[str]:
        """The lines of a body, as they come."""
        rest = b""
        try:
            for chunk in response.stream(LOG_CHUNK_BYTES, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
                if len(rest) > MAX_WATCH_LINE_BYTES:
                    raise ClusterError("the API server sent a line that does not end")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _broken(error) from None
        if rest:
            yield rest.decode(errors="replace")


def _namespace_of_context(kubeconfig: str | None, context: str | None) -> str:
    contexts, active = config.list_kube_config_contexts(config_file=kubeconfig)
    named = [one for one in contexts if one["name"] == context] if context else [active]
    return str((named[0].get("context") or {}).get("namespace") or "default") if named else "default"


def _body(response: urllib3.BaseHTTPResponse) -> bytes:
    """The whole body, which is read only now."""
    try:
        return response.data
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _broken(error) from None


def _object(text: str | bytes) -> Object:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        raise ClusterError("the API server's answer is no JSON, or ends in the middle; try again") from None


def _broken(error: Exception) -> ClusterError:
    return ClusterError(f"the connection to the API server broke: {error}; try again")


def _deleted(job: Object) -> ClusterError:
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    said = f"streamjob/{name} was deleted meanwhile: there is nothing left to wait for"
    return ClusterError(f"{said} (kubectl streamjob status -n {namespace} shows what is there)", 404)


def _refused(response: urllib3.BaseHTTPResponse) -> ClusterError:
    text = _body(response).decode(errors="replace")
    try:
        said = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        said = text.strip()[:300] or str(response.reason)
    if response.status == 404 and "could not find the requested resource" in said:
        said, hint = "this cluster knows no StreamJobs", "install the operator's chart"
    else:
        hint = _HINTS.get(response.status, "")
    return ClusterError(f"{said} ({hint})" if hint else said, response.status)
