"""Runs a job's sources and sinks in Python for the engine: one event loop, in a thread of its own.

    generator ─▶ asyncio.Queue ─▶ batches ─▶ Intake.offer ─▶ the engine ─▶ Source.durable ─▶ acknowledge, next batch

The engine calls `Host`, from any thread, and waits for nothing but what is loaded. What this side calls of the engine
(`Intake`, `Answers`) never waits: a source has at most `BATCHES_UNDER_WAY` batches with the engine, which has room.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from streamjob.connectors import Secrets, SinkContext, SourceContext
from streamjob.hosted_sink import Answers, HostedSink
from streamjob.hosted_source import HostedSource, Intake
from streamjob.udf_host import UdfLoadError, UserModule

__all__ = ["ConnectorLoadError", "Host", "check"]

ConnectorLoadError = UdfLoadError
"""Code that cannot be loaded; says where and why."""


_MODULES: dict[tuple[str, str], UserModule] = {}
"""The modules of the process's jobs: what several connectors share is run once."""


def check(config_json: str) -> None:
    """Loads the code of a source or sink. Raises ConnectorLoadError."""
    config = json.loads(config_json)
    if "class" in config:
        _sink_class(config)
    else:
        _takes_position(_load(config, "function"), config)


def _load(config: Mapping[str, Any], member: str) -> Callable[..., Any]:
    """The function or class that a connector names. Raises ConnectorLoadError."""
    code = config["code"]
    key = (code["filename"], code["source"])
    if key not in _MODULES:
        _MODULES[key] = UserModule(code["source"], code["filename"])
    return _MODULES[key].function(config[member])


def _sink_class(config: Mapping[str, Any]) -> Callable[..., Any]:
    """What makes a sink. Raises ConnectorLoadError."""
    made = _load(config, "class")
    if isinstance(made, type) and not callable(getattr(made, "write", None)):
        place = config["code"]["filename"]
        raise ConnectorLoadError(f"{place}: {config['class']} has no write; add async def write(self, batch)")
    return made


class Host:
    """The event loop and what runs in it. One for an opening of the state."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._tasks: list[HostedSource | HostedSink] = []
        self._thread = threading.Thread(target=self._run, name="connectors", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def source(
        self, name: str, config_json: str, secrets: dict[str, str], position: str | None, intake: Intake
    ) -> HostedSource:
        """A source that begins at `position`, once it is told to. Raises ConnectorLoadError."""
        config = json.loads(config_json)
        function = _load(config, "function")
        takes_position = _takes_position(function, config)
        context = SourceContext(name, config["code"]["config"], Secrets(secrets), intake.connected, intake.failed)

        def generator(at: Any) -> Any:
            return function(context, position=at) if takes_position else function(context)

        source = HostedSource(config, context, generator, position, intake, self._loop)
        self._tasks.append(source)
        return source

    def sink(self, name: str, config_json: str, secrets: dict[str, str], answers: Answers) -> HostedSink:
        """A sink that takes batches. Raises ConnectorLoadError."""
        config = json.loads(config_json)
        made = _sink_class(config)
        context = SinkContext(name, config["code"]["config"], Secrets(secrets), answers.connected, answers.failed)
        sink = HostedSink(lambda: made(context), context, answers, self._loop)
        self._tasks.append(sink)
        return sink

    def stop(self, within_s: float) -> bool:
        """Ends what still runs, and the loop. False if something did not end within that time."""
        ended = asyncio.run_coroutine_threadsafe(self._end(within_s), self._loop)
        try:
            ended.result(within_s + 1.0)
        except TimeoutError:
            return False
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(within_s)
        return not self._thread.is_alive()

    async def _end(self, within_s: float) -> None:
        ending = [asyncio.ensure_future(task.end()) for task in self._tasks]
        if ending:
            await asyncio.wait(ending, timeout=within_s)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()


def _takes_position(function: Callable[..., Any], config: Mapping[str, Any]) -> bool:
    """Whether a generator function is called with a position. Raises ConnectorLoadError where the job and it differ."""
    filename, name = config["code"]["filename"], config["function"]
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise ConnectorLoadError(f"{filename}: {name} is no asynchronous generator; write async def, and yield in it")
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return bool(config["positions"])
    named = "position" in parameters
    if config["positions"] and not named:
        raise ConnectorLoadError(
            f"{filename}: {name} takes no position, which positions: true gives; write {name}(context, position=None)"
        )
    return named
