"""The Compose example: what it says of itself fits together, and its commands do what they should, without Docker."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import skip_or_fail
from harness import free_port, streamjob_command, wait_until
from kafka_broker import Broker, jars

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "compose"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services as they are written."""
    return dict(yaml.safe_load((EXAMPLE / "compose.yaml").read_text(encoding="utf-8"))["services"])


def test_compose_takes_the_file() -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        skip_or_fail("there is no `docker compose`")
    done = subprocess.run(["docker", "compose", "config", "--quiet"], cwd=EXAMPLE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_everything_that_is_mounted_or_depended_on_is_there(services: dict[str, Any]) -> None:
    volumes = yaml.safe_load((EXAMPLE / "compose.yaml").read_text(encoding="utf-8"))["volumes"]
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            assert target.startswith("/"), f"{name}: {volume}"
            assert (EXAMPLE / source).exists() if source.startswith(".") else source in volumes, f"{name}: {volume}"
        assert set(service.get("depends_on", [])) <= set(services)
    build = services["engine"]["build"]
    assert (EXAMPLE / build["context"] / build["dockerfile"]).exists()
    # What is waited for as healthy says when it is.
    conditions = [service["depends_on"] for service in services.values() if isinstance(service.get("depends_on"), dict)]
    healthy = {name for how in conditions for name in how if how[name]["condition"] == "service_healthy"}
    assert healthy
    assert all("healthcheck" in services[name] for name in healthy)


def test_who_talks_to_whom_by_the_right_name_and_port(services: dict[str, Any]) -> None:
    prometheus = yaml.safe_load((EXAMPLE / "prometheus.yml").read_text(encoding="utf-8"))
    (scrape,) = prometheus["scrape_configs"]
    (static,) = scrape["static_configs"]
    listen = services["engine"]["command"][services["engine"]["command"].index("--listen") + 1]
    port = listen.rpartition(":")[2]
    assert static["targets"] == [f"engine:{port}"]
    assert services["client"]["environment"]["ENGINE_HOST"] == f"engine:{port}"
    assert f":{port}/readyz" in " ".join(services["engine"]["healthcheck"]["test"])
    datasources = yaml.safe_load((EXAMPLE / "grafana/datasources.yaml").read_text(encoding="utf-8"))["datasources"]
    hosts = {re.match(r"https?://([^:/]+)", source["url"])[1] for source in datasources}  # type: ignore[index]
    assert hosts <= set(services)
    # The dashboard asks for labels that only the operator's PodMonitor would set otherwise.
    dashboards = [volume for volume in services["grafana"]["volumes"] if volume.endswith("/dashboards:ro")]
    text = next((EXAMPLE / dashboards[0].split(":")[0]).resolve().glob("*.json")).read_text(encoding="utf-8")
    wanted = set(re.findall(r"([a-z_]+)=~\\\"\$", text))
    assert wanted
    assert wanted <= set(static["labels"])


def shell(command: list[str], places: dict[str, str]) -> list[str]:
    """A service's command with the container's places replaced; `$$` is Compose's way to write `$`."""
    replaced = []
    for argument in command:
        text = argument.replace("$$", "$")
        for place, here in places.items():
            text = text.replace(place, here)
        replaced.append(text)
    return replaced


def topics_tool(folder: Path) -> str:
    """A folder with a kafka-topics.sh that needs no image."""
    script = folder / "kafka-topics.sh"
    script.write_text(f'#!/bin/sh\nexec java -Xmx64m -cp "{jars()}/*" org.apache.kafka.tools.TopicCommand "$@"\n')
    script.chmod(0o755)
    return f"{folder}/"


def test_its_commands_run(make_broker: Callable[..., Broker], folder: Path, services: dict[str, Any]) -> None:
    broker = make_broker().start()
    port = free_port()
    shutil.copytree(EXAMPLE, folder / "etc")
    job = folder / "etc" / "job.yaml"
    job.write_text(job.read_text(encoding="utf-8").replace("kafka:9092", broker.address), encoding="utf-8")
    (folder / "state").mkdir()
    places = {
        "/opt/kafka/bin/": topics_tool(folder),
        "kafka:9092": broker.address,
        "/etc/streamjob": str(folder / "etc"),
        "/var/lib/streamjob": str(folder / "state"),
        "0.0.0.0:8080": f"127.0.0.1:{port}",
        "127.0.0.1:8080": f"127.0.0.1:{port}",
        "/app/": f"{folder / 'etc'}/",
    }
    made = subprocess.run(shell(services["topics"]["command"], places), capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    again = subprocess.run(shell(services["topics"]["command"], places), capture_output=True, text=True)
    assert again.returncode == 0, "a second start finds its topics"

    started = shell(services["engine"]["command"], places)
    health = shell(services["engine"]["healthcheck"]["test"][1:], places)
    health[0] = sys.executable
    client = shell(services["client"]["command"], places)
    client[0] = sys.executable
    log = (folder / "log").open("wb")
    engine = subprocess.Popen([*streamjob_command(), *started], stdout=log, stderr=log)
    poster = subprocess.Popen(
        client, stdout=log, stderr=log, env={**os.environ, "ENGINE_HOST": f"127.0.0.1:{port}", "EVERY_S": "0.05"}
    )
    try:
        wait_until("a healthy engine", lambda: subprocess.run(health, capture_output=True).returncode == 0, 60)

        def latest() -> Any:
            url = f"http://127.0.0.1:{port}/v1/windows/latest?window=per_10s"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)["items"]

        wait_until("averages", latest, 60)
        engine.kill()
        engine.wait(30)
        engine = subprocess.Popen([*streamjob_command(), *started], stdout=log, stderr=log)
        wait_until("a healthy engine", lambda: subprocess.run(health, capture_output=True).returncode == 0, 60)
        rows = wait_until("averages in the topic", lambda: broker.rows("averages"), 60)
        assert len({row["_id"] for row in rows}) == len(rows)
    finally:
        for process in (poster, engine):
            process.terminate()
            process.wait(30)
        log.close()
