"""Topics of an MQTT broker, read by paho-mqtt with QoS 1: a message is acknowledged once its row is durable."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from streamjob import Event, SourceContext

KEEPALIVE_S = 15


async def readings(context: SourceContext) -> AsyncIterator[Event]:
    """Yields messages until the connection is lost; then the engine starts the generator again, with another client."""
    loop = asyncio.get_running_loop()
    # No more than the broker sends without an acknowledgement.
    arrived: asyncio.Queue[MQTTMessage | str] = asyncio.Queue()

    def put(what: MQTTMessage | str) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, what)

    def connected(client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            put(f"the broker refuses the client: {reason}")
            return
        client.subscribe(context.config["topic"], qos=1)
        context.connected()

    def message_came(_client: Client, _data: Any, message: MQTTMessage) -> None:
        put(message)

    def lost(_client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        put(f"the connection was lost: {reason}")

    # The broker keeps the session of this client, and with it what was not acknowledged.
    name = context.config["clientId"]
    client = Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=False, manual_ack=True)
    if "password" in context.secrets:
        client.username_pw_set(context.config["username"], context.secrets["password"])
    client.on_connect, client.on_message, client.on_disconnect = connected, message_came, lost
    await asyncio.to_thread(client.connect, context.config["host"], context.config["port"], KEEPALIVE_S)
    client.loop_start()
    try:
        while True:
            message = await arrived.get()
            if isinstance(message, str):
                raise ConnectionError(message)
            yield Event(row(message), acknowledge=lambda message=message: client.ack(message.mid, message.qos))
    finally:
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)


def row(message: MQTTMessage) -> bytes | dict[str, Any]:
    """The message's object, and the levels of its topic as fields. What is no object is left to the dead letters."""
    _, site, sensor = message.topic.split("/")
    try:
        return {**json.loads(message.payload), "site": site, "sensor": sensor}
    except (TypeError, ValueError):
        return message.payload
