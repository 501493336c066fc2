"""Times by a pattern: what Python's strptime says of a text is what the engine makes of it."""

from __future__ import annotations

import calendar
import random
from datetime import datetime, timedelta, timezone

import pytest

from support import Run, job

SCHEMA = {
    "key": {"const": "k"},
    "fields": [{"name": "n", "type": "int64"}],
}
DATES = [
    "%Y-%m-%d",
    "%d.%m.%Y",
    "%m/%d/%y",
    "%Y%m%d",
    "%d %b %Y",
    "%A, %B %d %y",
    "%a %b %d %Y",
    "%Y/%j",
    "%j of %y",
    "%G-W%V-%u",
    "%G %V %a",
    "%Y",
    "%Y-%m",
    "%y%m%d",
    "%d%m%Y",
]
TIMES = [
    "",
    "%H",
    "%H:%M",
    "%H:%M:%S",
    "%H%M%S",
    "%I %p",
    "%I:%M:%S %p",
    "%p%I%M",
    "%H:%M:%S.%f",
    "%H:%M:%S,%f",
    "%S%f",
    "%M'%S",
    "%H:%M:%S%z",
    "%H:%M %z",
    "%I:%M",
    "%p",
]
DAMAGE = "0123456789 :-.,aPmMZ+"


def patterns(chosen: random.Random) -> list[str]:
    """Each date with times around it."""
    return [
        f"{date}{between}{time}" if chosen.random() < 0.8 else f"{time}{between}{date}"
        for date in DATES
        for time in chosen.sample(TIMES, 4)
        for between in chosen.sample([" ", "T", "", "  ", "%% "], 1)
    ]


def text_of(pattern: str, chosen: random.Random) -> str:
    """A time as the pattern writes it, sometimes with less padding or a damage."""
    zone = timezone(timedelta(minutes=chosen.randrange(-1000, 1000)))
    time = datetime(1969, 1, 1, tzinfo=zone) + timedelta(microseconds=chosen.randrange(99 * 365 * 86_400_000_000))
    text = time.strftime(pattern)
    if chosen.random() < 0.3:
        text = text.replace(" 0", " ").replace("-0", "-").replace(":0", ":").replace("/0", "/")
    if chosen.random() < 0.2:
        text = text.rstrip("0")
    if chosen.random() < 0.2:
        text = text.upper()
    if chosen.random() < 0.3 and text:
        at = chosen.randrange(len(text))
        text = text[:at] + chosen.choice(["", chosen.choice(DAMAGE)]) + text[at + chosen.randrange(2) :]
    return text


def expected(pattern: str, text: str) -> int | None:
    try:
        time = datetime.strptime(text, pattern)  # noqa: DTZ007 - without a zone it is UTC
    except ValueError:
        return None
    if "%G" in pattern and time.strftime("%G") not in text:
        # older versions take the week 0, and 53 of each year; newer ones and the engine do not
        return None
    whole = calendar.timegm(time.utctimetuple()) if time.tzinfo else calendar.timegm(time.timetuple())
    return whole * 1_000_000 + time.microsecond


@pytest.mark.parametrize("seed", range(12))
def test_the_engine_reads_what_strptime_reads(seed: int) -> None:
    chosen = random.Random(seed)
    read = 0
    for pattern in patterns(chosen):
        texts = [text_of(pattern, chosen) for _ in range(40)]
        time = {"field": "at", "unit": None, "format": pattern, "timezone": "UTC"}
        run = Run(
            schema=SCHEMA | {"time": time},
            windows=[],
            time=job()["time"] | {"max_ahead_us": 9000 * 365 * 86_400_000_000},
        )
        result = run.process([{"at": text, "n": number} for number, text in enumerate(texts)])
        found: list[int | None] = [None] * len(texts)
        for event in result["events"]["*"]:
            found[event["n"]] = micros(event["at"])
        for text, got in zip(texts, found, strict=True):
            assert got == expected(pattern, text), f"{text!r} as {pattern!r}"
            read += got is not None
    assert read > 1000


def micros(written: str) -> int:
    """Of RFC 3339."""
    time = datetime.fromisoformat(written.replace("Z", "+00:00"))
    return calendar.timegm(time.utctimetuple()) * 1_000_000 + time.microsecond
