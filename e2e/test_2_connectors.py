"""A source and a sink in Python, whose code is in a ConfigMap: it changes, pods go, and no row is lost or repeated."""

from __future__ import annotations

from collections import Counter

from cluster import Object
from events import KEYS, ROUND_S
from jobs import job
from steps import OUTPUT, ROLLED_WITHIN_S, VISIBLE_WITHIN_S, Given, Then, When, World

ROWS = 1500
ROWS_A_SECOND = 50
"""So that the source is still reading while the pod is replaced twice."""
READ_WITHIN_S = ROWS / ROWS_A_SECOND + ROLLED_WITHIN_S + VISIBLE_WITHIN_S
CONNECTORS = "connectors"
OBJECTS = "/var/lib/streamjob/data/objects"

_CODE = """
import asyncio
import json
import os

from streamjob import Event, Sink


async def numbers(context, position=None):
    for number in range(0 if position is None else position + 1, {rows}):
        await asyncio.sleep(1 / {rate})
        row = {{"device": f"device-{{number % {keys}:02}}", "at": number / 10, "x": {version}, "id": f"n{{number}}"}}
        yield Event(row, position=number)
    await asyncio.Event().wait()


class Folder(Sink):
    async def open(self):
        os.makedirs("{objects}", exist_ok=True)

    async def write(self, batch):
        path = os.path.join("{objects}", batch.key.replace("/", "_"))
        with open(path + ".part", "w") as file:
            file.writelines(json.dumps(row) + "\\n" for row in batch.rows)
        os.rename(path + ".part", path)
"""


def connectors(version: int) -> Object:
    """The ConfigMap: a source whose rows tell which version of its code made them, and a sink of files."""
    code = _CODE.format(rows=ROWS, rate=ROWS_A_SECOND, keys=KEYS, objects=OBJECTS, version=version)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONNECTORS}, "data": {"code.py": code}}


def expected_rows() -> list[Object]:
    """All rows of the source, but for what its version makes of them."""
    return [{"device": f"device-{n % KEYS:02}", "at": n / 10, "id": f"n{n}"} for n in range(ROWS)]


def test_connectors_in_python_roll_with_their_code(world: World, given: Given, when: When, then: Then) -> None:
    code = {"code": {"configMap": {"name": CONNECTORS, "key": "code.py"}}}
    sinks = job()["spec"]["sinks"]
    sinks.append({"name": "objects", "from": "events", "python": {**code, "class": "Folder", "idempotent": True}})
    world.cluster.apply(world.namespace, connectors(1))
    source = {"name": "numbers", "python": {**code, "function": "numbers", "positions": True}}
    made = given.a_running_job(sources=[source], sinks=sinks, time={"maxOutOfOrderness": f"{ROUND_S}s"})
    made.sender.rows.extend(expected_rows())
    pod = given.its_pod(made)
    then.its_files_have(made, f"{OUTPUT}/events/part-*", 100)
    world.cluster.apply(world.namespace, connectors(2))
    then.an_event_says(made, "Rolling", "job.s", ".python.code")
    then.its_pod_was_replaced(made, pod)
    when.its_pod_is_deleted_by_force(made)
    objects = then.its_files_have(made, f"{OBJECTS}/*", ROWS, READ_WITHIN_S)
    rows = then.each_event_was_written_once(made)
    assert {row["x"] for row in rows} == {1, 2}
    assert Counter(row["id"] for row in objects) == Counter(row["id"] for row in expected_rows())
