"""Cross checks of MQTT sources."""

from __future__ import annotations

from streamjob.models import MqttSource
from streamjob.problems import Path
from streamjob.units import format_duration
from streamjob.validation.common import Examination
from streamjob.validation.formats import check_message_format
from streamjob.validation.metadata import check_metadata_field


def check_mqtt_source(examination: Examination, path: Path, mqtt: MqttSource) -> None:
    """Secrets, filters, and fields that are levels of topics."""
    if (mqtt.username is None) != (mqtt.password is None):
        missing = "username" if mqtt.username is None else "password"
        examination.report(path, f"has no {missing}", fix=f"add {missing}:")
    examination.secret((*path, "password"), mqtt.password)
    examination.client_tls((*path, "tls"), mqtt.tls)
    examination.backoff((*path, "backoff"), mqtt.backoff)
    check_message_format(examination, (*path, "format"), mqtt.format)
    for index, topic in enumerate(mqtt.topics):
        if not _is_filter(topic):
            examination.report(
                (*path, "topics", index),
                "is no filter: + stands for a whole level, # for all that follow at the end",
                got=topic,
                fix="write for example site/+/temperature/#",
            )
    for name in mqtt.levels:
        check_metadata_field(examination, (*path, "levels", name), name, what="a level", type_="string")
    if not 5_000_000 <= mqtt.keep_alive <= 65_535_000_000:
        examination.report(
            (*path, "keepAlive"),
            "must be from 5s to 18h",
            got=format_duration(mqtt.keep_alive),
            fix="use for example 30s",
        )


def _is_filter(topic: str) -> bool:
    *before, last = topic.split("/")
    plain = [*before, "" if last == "#" else last]
    return all(level == "+" or not ("+" in level or "#" in level) for level in plain) and "\0" not in topic
