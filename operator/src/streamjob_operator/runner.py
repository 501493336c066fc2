"""One process of the operator: kopf, the election, and the controller while it leads."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp.web
import kopf
import structlog
from prometheus_client import start_http_server

from streamjob_operator import __version__, handlers, metrics, traces
from streamjob_operator.cluster import Cluster, ClusterError
from streamjob_operator.controller import Controller
from streamjob_operator.kinds import STREAM_JOB
from streamjob_operator.leader import Leader
from streamjob_operator.rotation import place_of, rotate
from streamjob_operator.settings import Settings, every_address, in_url

WAIT_FOR_API_S = 5.0
CERTIFICATE_CHECK_S = 0.5
FIRST_CERTIFICATE_S = 10.0
"""What the webhook's certificate gets to come, before jobs are looked after without it."""
RIGHTS_CHECK_S = 30.0
"""How often it is looked whether the right to watch a namespace has been given."""
STOP_LIMIT_S = 20.0
"""What looks under way get to end when the process is told to stop."""
MAX_REVIEW_BYTES = 8 << 20
"""An object of etcd has at most 1.5 MB."""
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

_log = structlog.get_logger("streamjob_operator.runner")


def own_namespace() -> str:
    """The namespace that this pod runs in; `default` outside of a cluster."""
    try:
        return _OWN_NAMESPACE.read_text().strip()
    except OSError:
        return "default"


async def run(settings: Settings, stop: asyncio.Event | None = None) -> int:
    """Runs until it is told to stop (0) or the Lease is lost (1)."""
    stop = stop or _stop_on_signals()
    cluster = await Cluster.connect(lambda verb, kind: metrics.api_calls.labels(verb, kind).inc())
    traces.start(__version__)
    port, address = settings.metrics_port, every_address()
    server = start_http_server(port, addr=address, registry=metrics.registry) if port else None
    try:
        await _until(stop, _wait_for_api(cluster))
        if stop.is_set():
            return 0
        return await _serve(settings, cluster, stop)
    finally:
        if server is not None:
            server[0].shutdown()
            server[0].server_close()
        await cluster.close()
        traces.stop()


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _wait_for_api(cluster: Cluster) -> None:
    while True:
        try:
            if await cluster.serves(STREAM_JOB):
                return
            _log.warning("the cluster has no StreamJobs yet: apply crds/streamjobs.yaml", wait_s=WAIT_FOR_API_S)
        except ClusterError as error:
            _log.warning("the API server cannot be asked", error=str(error), wait_s=WAIT_FOR_API_S)
        await asyncio.sleep(WAIT_FOR_API_S)


async def _serve(settings: Settings, cluster: Cluster, stop: asyncio.Event) -> int:
    namespace = settings.lease_namespace or own_namespace()
    leader = Leader(cluster, namespace, settings.lease_name, settings.holder())
    controller = Controller(cluster, settings, leader.holds)
    watching = asyncio.create_task(_kopf(settings, cluster, controller), name="kopf")
    election = asyncio.create_task(leader.run(), name="election")
    leading = asyncio.create_task(_lead(leader, controller), name="controller")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    certifying = asyncio.create_task(_certify(settings, cluster, namespace), name="certificates")
    beating = asyncio.create_task(controller.beat(), name="heartbeat")
    tasks: set[asyncio.Task[Any]] = {watching, election, leading, stopping, beating, certifying}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # The Lease is handed over last: until then nobody else may write.
        await _cancel(leading)
        await _cancel(watching)
        await _cancel(stopping)
        await _cancel(certifying)
        await _cancel(beating)
        await _cancel(election)
        if not leader.lost.is_set():
            await leader.release()
        await controller.close()
    for task in done:
        if task is not stopping and not task.cancelled() and (error := task.exception()) is not None:
            _log.error("ended by an error", task=task.get_name(), error=repr(error), exc_info=error)
    return 0 if stopping in done else 1


async def _lead(leader: Leader, controller: Controller) -> None:
    await leader.leading.wait()
    await controller.lead()


async def _certify(settings: Settings, cluster: Cluster, namespace: str) -> None:
    """Every replica does: each serves the webhook, whoever leads."""
    place = place_of(settings, namespace)
    if place is None:
        await asyncio.Event().wait()
    else:
        await rotate(cluster, place)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=STOP_LIMIT_S)


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    tasks: set[asyncio.Task[Any]] = {asyncio.create_task(work), asyncio.create_task(stop.wait())}
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        await _cancel(task)


async def refused_namespaces(settings: Settings, cluster: Cluster) -> tuple[str, ...]:
    """The listed namespaces whose jobs the operator may not see."""
    asked = [(namespace, await cluster.may_list(STREAM_JOB, namespace)) for namespace in settings.namespaces]
    return tuple(namespace for namespace, allowed in asked if allowed is False)


async def until_granted(cluster: Cluster, refused: tuple[str, ...], check_s: float = RIGHTS_CHECK_S) -> None:
    """Waits until one of these namespaces may be seen, asked for every `check_s` seconds."""
    while True:
        await asyncio.sleep(check_s)
        for namespace in refused:
            if await cluster.may_list(STREAM_JOB, namespace):
                return


async def _kopf(settings: Settings, cluster: Cluster, controller: Controller) -> None:
    """kopf, started anew with the webhook once there is a certificate for it, and with namespaces once it may see them.

    It ends by an error alone. A watch that is refused is one for kopf, so it is given no such namespace, and where one
    has become so it begins anew: what is known of the jobs there is needed to let them go.
    """
    if settings.webhook_cert_dir:
        # Most often it is there in a moment, and a pod that is ready without its webhook would be sent reviews.
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_CERTIFICATE_S):
                await _until_certificate(settings)
    while True:
        refused = await refused_namespaces(settings, cluster)
        if refused:
            _log.error("no right to see StreamJobs: the other namespaces go on", namespaces=refused)
        served = tuple(one for one in settings.namespaces if one not in refused)
        watched = bool(served) or not settings.namespaces
        certificate = _certificate(settings)
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        given = replace(settings, namespaces=served)
        work = asyncio.to_thread(_kopf_thread, given, controller, certificate, loop, stop, watched)
        kopf_task = asyncio.create_task(work)
        tasks: set[asyncio.Task[Any]] = {kopf_task}
        if settings.webhook_cert_dir and certificate is None:
            tasks.add(asyncio.create_task(_until_certificate(settings)))
        if refused:
            tasks.add(asyncio.create_task(until_granted(cluster, refused)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if kopf_task.done():
                lost = set(await refused_namespaces(settings, cluster)) - set(refused)
                error = kopf_task.exception() or RuntimeError("kopf has ended by itself")
                if not lost:
                    raise error
                _log.warning("kopf begins anew: a watch was refused", namespaces=sorted(lost), error=repr(error))
        finally:
            stop.set()
            await asyncio.wait({kopf_task}, timeout=STOP_LIMIT_S)
            for task in tasks - {kopf_task}:
                await _cancel(task)


class WebhookServer(kopf.WebhookServer):
    """Takes reviews of the largest jobs: that of an update has the job twice, and kopf's own takes 1 MiB."""

    @staticmethod
    async def _serve(fn: Any, request: aiohttp.web.Request) -> aiohttp.web.Response:
        return await kopf.WebhookServer._serve(fn, request.clone(client_max_size=MAX_REVIEW_BYTES))


async def _until_certificate(settings: Settings) -> None:
    while _certificate(settings) is None:  # noqa: ASYNC110 - files tell nobody that they have come
        await asyncio.sleep(CERTIFICATE_CHECK_S)


def _certificate(settings: Settings) -> tuple[Path, Path] | None:
    folder = Path(settings.webhook_cert_dir or "/nonexistent")
    certificate, key = folder / "tls.crt", folder / "tls.key"
    return (certificate, key) if certificate.is_file() and key.is_file() else None


def _kopf_thread(
    settings: Settings,
    controller: Controller,
    certificate: tuple[Path, Path] | None,
    loop: asyncio.AbstractEventLoop,
    stop: threading.Event,
    watched: bool,
) -> None:
    """kopf with a loop and a thread of its own: it cancels every task of its loop when it ends, and takes signals.

    Where it has no namespace to be `watched` it serves the webhook and the liveness probe alone.
    """
    registry = kopf.OperatorRegistry()
    handlers.register(registry, controller, loop, watched=watched, webhook=certificate is not None)
    options = handlers.settings_of_kopf()
    if certificate is not None:
        options.admission.server = WebhookServer(
            addr=every_address(),
            port=settings.webhook_port,
            certfile=certificate[0],
            pkeyfile=certificate[1],
        )
    health = f"http://{in_url(every_address())}:{settings.health_port}/healthz" if settings.health_port else None

    async def serve() -> None:
        try:
            await kopf.operator(
                registry=registry,
                settings=options,
                standalone=True,
                clusterwide=not settings.namespaces,
                namespaces=settings.namespaces,
                liveness_endpoint=health,
                stop_flag=stop,
            )
        finally:
            # kopf waits for it in a thread of the loop, which would not end after an error.
            stop.set()

    asyncio.run(serve())
