"""Durations and sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamjob.units import UnitError, format_duration, format_size, parse_duration, parse_size


@given(st.integers(0, 2**62))
def test_duration_survives_printing(microseconds: int) -> None:
    assert parse_duration(format_duration(microseconds)) == microseconds


@given(st.integers(0, 2**62))
def test_size_survives_printing(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("10s", 10_000_000),
        ("250ms", 250_000),
        ("1ms", 1_000),
        ("7us", 7),
        ("1h30m", 5_400_000_000),
        ("1d", 86_400_000_000),
        ("30d", 2_592_000_000_000),
        ("1w", 604_800_000_000),
        ("1.5s", 1_500_000),
        ("0s", 0),
    ],
)
def test_durations(text: str, microseconds: int) -> None:
    assert parse_duration(text) == microseconds


@pytest.mark.parametrize(
    ("text", "size"), [("64Mi", 2**26), ("1Gi", 2**30), ("500k", 500_000), ("1.5Ki", 1536), (123, 123), ("0", 0)]
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("value", ["10", "s", "10 s", "-1s", "10x", "1e3s", "", 10, 1.5, True, None, [], "0.5us"])
def test_wrong_durations_say_what_to_do(value: object) -> None:
    with pytest.raises(UnitError) as caught:
        parse_duration(value)
    assert caught.value.fix


@pytest.mark.parametrize("value", ["64 Mi", "x", "-1", -1, 1.5, True, None, "64MB", "0.3k0", "1.0001k"])
def test_wrong_sizes_say_what_to_do(value: object) -> None:
    with pytest.raises(UnitError) as caught:
        parse_size(value)
    assert caught.value.fix


@pytest.mark.parametrize(("text", "fix"), [("64MB", "64M"), ("64MiB", "64Mi"), ("5 KB", "5k"), ("5KiB", "5Ki")])
def test_other_spellings_of_sizes_are_corrected(text: str, fix: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_size(text)
    assert caught.value.fix == f'write "{fix}"'
    parse_size(fix)
