"""What nodes would do, as a process of its own: claims are bound, pods get ready, engines answer.

Nothing runs: a pod is said to be ready as soon as it is there. So what is measured is the operator and the API.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import Any

from aiohttp import web
from kubeharness.engine import STATUS
from kubeharness.server import TOKEN, Server, free_port

from fleet.client import MERGE, Api, BenchError, CallError

_PATCHES = 16
"""Statuses that are written at once."""
_START_S, _STOP_S = 30.0, 10.0
_READY = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}


@dataclass
class Nodes:
    """The running process: where its engines answer, and whether their facts change with each answer."""

    process: BaseProcess
    engine_url: str
    moving: Event

    async def last(self) -> None:
        """Waits for the end of the process, which is an error: it lasts as long as the benchmark."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.process.sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self.process.sentinel)
        raise BenchError("the process that stands for nodes has ended; its message stands above")


@contextlib.contextmanager
def nodes(server: Server) -> Iterator[Nodes]:
    """Nodes for an API server."""
    context = multiprocessing.get_context("spawn")
    port, moving, ready = free_port(), context.Event(), context.Event()
    process = context.Process(target=_main, args=(server.url, port, moving, ready), daemon=True)
    process.start()
    try:
        if not ready.wait(_START_S):
            raise BenchError("the process that stands for nodes has not started")
        yield Nodes(process, f"http://127.0.0.1:{port}/{{namespace}}/{{job}}", moving)
    finally:
        process.terminate()
        process.join(_STOP_S)


def _main(url: str, port: int, moving: Event, ready: Event) -> None:
    asyncio.run(_serve(url, port, moving, ready))


async def _serve(url: str, port: int, moving: Event, ready: Event) -> None:
    runner = web.AppRunner(_engines(moving), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    async with Api(url, TOKEN) as api, asyncio.TaskGroup() as tasks:
        wanted: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()  # at most one entry a change of an object
        for _ in range(_PATCHES):
            tasks.create_task(_patch(api, wanted))
        tasks.create_task(_follow(api, "pods", wanted))
        tasks.create_task(_follow(api, "persistentvolumeclaims", wanted))
        ready.set()


async def _follow(api: Api, plural: str, wanted: asyncio.Queue[tuple[str, dict[str, Any]]]) -> None:
    async for event in api.watch(f"/api/v1/{plural}"):
        thing = event["object"]
        metadata, status = thing["metadata"], thing.get("status", {})
        if event["type"] == "DELETED" or metadata.get("deletionTimestamp") or status.get("phase") != "Pending":
            continue
        path = f"/api/v1/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}/status"
        if plural == "pods":
            wanted.put_nowait((path, _READY))
        else:
            capacity = thing["spec"]["resources"]["requests"]
            wanted.put_nowait((path, {"status": {"phase": "Bound", "capacity": capacity}}))


async def _patch(api: Api, wanted: asyncio.Queue[tuple[str, dict[str, Any]]]) -> None:
    while True:
        path, body = await wanted.get()
        try:
            await api.call("PATCH", path, body, MERGE)
        except CallError as error:
            if error.status not in (404, 409):  # it is gone already
                raise


def _engines(moving: Event) -> web.Application:
    """The control interface of every engine, below /NAMESPACE/JOB."""
    checkpoints = 0

    async def status(request: web.Request) -> web.Response:
        _authorise(request)
        said = {**STATUS, "name": request.match_info["job"]}
        if moving.is_set():
            passed = int(time.time() * 1000)
            said |= {"received": passed, "applied": passed, "rate_events_per_s": float(passed % 1_000_003)}
        return web.json_response(said)

    async def checkpoint(request: web.Request) -> web.Response:
        nonlocal checkpoints
        _authorise(request)
        checkpoints += 1
        return web.json_response({"number": checkpoints, "duration_s": 0.01})

    app = web.Application()
    app.router.add_get("/{namespace}/{job}/v1/control/status", status)
    app.router.add_post("/{namespace}/{job}/v1/control/checkpoint", checkpoint)
    return app


def _authorise(request: web.Request) -> None:
    if not request.headers.get("Authorization", "").startswith("Bearer "):
        raise web.HTTPUnauthorized
