"""The same job on Flink: its jars come from Maven Central, once, into a cache outside of the checkout."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import uuid
from pathlib import Path

import psutil

from driver.broker import ROOT, cache
from driver.engine import BenchError, Usage

FOLDER = ROOT / "bench" / "flink"
PARALLELISM = 2
HEAP = "2g"
_OPENS = ("java.base/java.util", "java.base/java.lang", "java.base/java.util.concurrent.atomic")


def missing() -> str | None:
    """Why it cannot run here."""
    absent = [tool for tool in ("java", "javac", "mvn") if shutil.which(tool) is None]
    return f"Flink is left out: there is no {' and no '.join(absent)}" if absent else None


def _classes() -> tuple[Path, Path]:
    """The folders with Flink's jars and with the compiled job, made the first time."""
    text = b"".join((FOLDER / name).read_bytes() for name in ("pom.xml", "Windows.java"))
    made = cache() / "flink" / hashlib.sha256(text).hexdigest()[:16]
    if not made.exists():
        parts = made.with_name(f".{uuid.uuid4().hex}")
        (parts / "out").mkdir(parents=True)
        maven = ["mvn", "-q", "-B", "-f", str(FOLDER / "pom.xml"), "dependency:copy-dependencies"]
        subprocess.run([*maven, f"-DoutputDirectory={parts / 'lib'}"], check=True, capture_output=True, timeout=600)
        compiler = ["javac", "-nowarn", "-cp", f"{parts / 'lib'}/*", "-d", str(parts / "out")]
        subprocess.run([*compiler, str(FOLDER / "Windows.java")], check=True, capture_output=True, timeout=300)
        parts.rename(made)
    return made / "lib", made / "out"


def run(address: str, source: str, sink: str, timeout_s: float) -> dict[str, float]:
    """Seconds from the first reading to the end, processor seconds and peak memory of the whole process."""
    lib, out = _classes()
    opens = [argument for package in _OPENS for argument in ("--add-opens", f"{package}=ALL-UNNAMED")]
    logs = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
    command = ["java", f"-Xmx{HEAP}", *opens, logs, "-cp", f"{lib}/*:{out}", "Windows", address, source, sink]
    with psutil.Popen([*command, str(PARALLELISM)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as java:
        usage = Usage(java.pid)
        times = None
        while java.poll() is None:
            try:
                times = java.cpu_times()
                java.wait(0.1)
            except psutil.TimeoutExpired:
                timeout_s -= 0.1
                if timeout_s <= 0:
                    java.kill()
                    raise BenchError("Flink did not get to the end of the topic") from None
            except psutil.NoSuchProcess:
                break
        usage.stop()
        stdout, stderr = java.stdout.read(), java.stderr.read()
    if java.returncode != 0 or times is None:
        raise BenchError(f"Flink ended with {java.returncode}: {stderr[-1000:]}")
    seconds = json.loads(stdout.strip().splitlines()[-1])["seconds"]
    return {"seconds": seconds, "cpu_s": times.user + times.system, "rss_bytes": usage.rss_peak}
