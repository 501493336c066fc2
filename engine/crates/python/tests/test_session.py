"""A job in process: what each call gives."""

from __future__ import annotations

import json

import pytest
import streamjob_engine

from support import Run, above, column, row, sink, udf

SCORE = udf(
    "def f(x, mean, deviation):\n    return (x - mean) / deviation",
    ["temperature", "stats.temperature.mean", "stats.temperature.stddev"],
    {"score": "float64"},
)


def test_windows_close_as_event_time_advances():
    run = Run()
    result = run.process([row(0, 1.0), row(5, 2.0), row(9.999, 3.0)])
    assert (result["accepted"], result["rejected"], result["errors"]) == (3, 0, [])
    assert result["windows"] == {"per_10s": []}
    (window,) = run.process([row(10, 4.0)])["windows"]["per_10s"]
    assert window == {
        "key": "a",
        "window_start": "1970-01-01T00:00:00Z",
        "window_end": "1970-01-01T00:00:10Z",
        "revision": 0,
        "n": 3,
        "mean": 2.0,
        "_id": "per_10s/a/1970-01-01T00:00:00Z/0",
    }
    assert [window["n"] for window in run.finish()["windows"]["per_10s"]] == [1]
    assert run.finish()["windows"] == {"per_10s": []}


def test_rows_come_in_the_order_of_the_input_and_windows_by_start_and_key():
    run = Run()
    devices = [f"d{number % 50:02}" for number in range(200)]
    result = run.process([row(number / 10, number, device) for number, device in enumerate(devices)])
    assert [event["device_id"] for event in result["events"]["*"]] == devices
    assert [event["_id"] for event in result["events"]["*"]][:2] == ["in@0:0", "in@0:1"]
    closed = result["windows"]["per_10s"] + run.finish()["windows"]["per_10s"]
    keys = [(window["window_start"], window["key"]) for window in closed]
    assert len(keys) == 100
    assert keys == sorted(keys)


def test_a_function_sees_the_statistics_before_its_row_and_zero_deviation_is_null():
    run = Run(udfs=[SCORE], sinks=[sink("alerts", "events", above("score", 3.0))])
    result = run.process([row(0, 1.0), row(1, 1.0), row(2, 4.0), row(3, 20.0)])
    scores = [event["score"] for event in result["events"]["*"]]
    assert scores[:3] == [None, None, None]
    assert scores[3] == pytest.approx(18 / 2**0.5)
    assert [event["temperature"] for event in result["events"]["alerts"]] == [20.0]


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
@pytest.mark.parametrize("kind", ["http", "file", "stdout"])
def test_every_sink_of_events_gives_its_rows(delivery, kind):
    if (delivery, kind) == ("exactly-once", "stdout"):
        pytest.skip("stdout cannot")
    run = Run(
        sinks=[
            sink("hot", "events", above("temperature", 2.5), delivery, kind),
            sink("w", "per_10s", None, "exactly-once"),
        ]
    )
    for _ in range(3):
        result = run.process([row(0, float(number), f"d{number}") for number in range(7)])
        assert [event["temperature"] for event in result["events"]["hot"]] == [3.0, 4.0, 5.0, 6.0]
        assert sorted(result["events"]) == ["*", "hot"]


def test_failed_rows_are_dead_letters_and_enter_no_window():
    poison = udf(
        "def f(x):\n    if (x > 5).any(): raise ValueError('hot')\n    return x", ["temperature"], {"y": "float64"}
    )
    run = Run(udfs=[poison])
    result = run.process([row(0, 1.0), row(1, 9.0), row(2, 2.0)])
    assert [event["y"] for event in result["events"]["*"]] == [1.0, 2.0]
    (letter,) = result["dead_letters"]
    assert letter["reason"] == "udf u: /jobs/functions.py, line 2: f failed: ValueError: hot"
    assert (letter["source"], letter["split"], letter["offset"]) == ("in", "in@0", 1)
    assert letter["row"]["temperature"] == 9.0
    assert run.finish()["windows"]["per_10s"][0]["n"] == 2
    assert run.stats("a")["rows"] == 3


def test_late_and_rejected_rows_are_dead_letters():
    run = Run()
    result = run.process(b'{"device_id": "a"}\n{"device_id": "a", "timestamp": 100000, "temperature": 1}\nnonsense\n')
    assert (result["accepted"], result["rejected"]) == (1, 2)
    assert [(error["row"], error["field"]) for error in result["errors"]] == [(0, "timestamp"), (2, "")]
    assert [letter["offset"] for letter in result["dead_letters"]] == [0, 2]
    (letter,) = run.process([row(1, 1.0)])["dead_letters"]
    assert letter["reason"].startswith("late")


def test_functions_on_windows():
    on_window = udf(
        "def f(key, start, n, mean):\n    return n * mean",
        ["key", "window_start", "n", "mean"],
        {"total": "float64"},
        on="window",
        window="per_10s",
    )
    run = Run(udfs=[on_window])
    run.process([row(0, 1.0), row(1, 2.0), row(1, 5.0, "b")])
    assert [(window["key"], window["total"]) for window in run.finish()["windows"]["per_10s"]] == [
        ("a", 3.0),
        ("b", 5.0),
    ]


def test_outputs_enter_aggregates_and_the_filter_comes_first():
    windows = [
        {
            "name": "w",
            "tumbling": {"size_us": 10_000_000},
            "aggregates": [{"name": "worst", "function": "max", "argument": column("score")}],
        }
    ]
    double = udf("def f(x):\n    return 2 * x", ["temperature"], {"score": "float64"})
    run = Run(udfs=[double], windows=windows, where=above("temperature", 0.0))
    result = run.process([row(0, -1.0), row(0, 4.0)])
    assert [event["score"] for event in result["events"]["*"]] == [8.0]
    assert run.finish()["windows"]["w"][0]["worst"] == 8.0
    assert run.stats("a")["rows"] == 1


@pytest.mark.parametrize(
    ("body", "accepted", "rejected"),
    [
        (b'{"device_id": "a", "timestamp": 1}', 1, 0),
        (b'\n {"device_id": "a",\n "timestamp": 1}\n', 1, 0),
        (b'{"device_id": "a", "timestamp": 1}\n{"device_id": "a", "timestamp": 2}\n', 2, 0),
        (b'[{"device_id": "a", "timestamp": 1}, {"device_id": "a"}]', 1, 1),
        (b"[]", 0, 0),
        (b'{"device_id": "a"\n{"device_id": "a", "timestamp": 2}', 1, 1),
        (b"nonsense", 0, 1),
    ],
)
def test_both_json_formats_are_told_apart(body, accepted, rejected):
    result = Run().process(body)
    assert (result["accepted"], result["rejected"]) == (accepted, rejected)


@pytest.mark.parametrize("body", [b"", b"  \n", b"[1", b"[{}] x"])
def test_a_body_that_is_no_json_as_a_whole_is_told(body):
    result = Run().process(body)
    assert (result["accepted"], result["rejected"]) == (0, 0)
    ((error),) = result["errors"]
    assert "not JSON" in error["reason"]


def test_errors_are_listed_up_to_a_bound():
    result = Run().process(b"x\n" * 500)
    assert (result["rejected"], len(result["errors"]), len(result["dead_letters"])) == (500, 100, 500)


def test_a_move_of_the_clock_closes_windows_of_a_silent_source():
    time = {
        "max_out_of_orderness_us": 5_000_000,
        "idle_timeout_us": 5_000_000,
        "allowed_lateness_us": 0,
        "max_ahead_us": 86_400_000_000,
        "close_when_idle": True,
    }
    run = Run(now_s=100, time=time)
    run.process([row(1, 1.0), row(12, 2.0)])
    run.session.set_now(104_999_999)
    assert run.process(b"[]")["windows"]["per_10s"] == []
    run.session.set_now(105_000_000)
    result = run.process(b"[]")
    assert result["windows"]["per_10s"][0]["mean"] == 1.0
    assert (result["accepted"], result["rejected"]) == (0, 0)


def test_the_clock_decides_what_is_too_far_ahead():
    run = Run(now_s=0)
    assert run.process([row(2 * 86_400, 1.0)])["rejected"] == 1
    run.session.set_now(86_400_000_000)
    assert run.process([row(2 * 86_400, 1.0)])["accepted"] == 1


def test_statistics_of_a_key():
    run = Run()
    run.process([row(0, 1.0, count=2), row(1, 3.0), row(2, None)])
    assert run.stats("a") == {
        "key": "a",
        "rows": 3,
        "fields": {
            "temperature": {
                "count": 2,
                "mean": 2.0,
                "variance": 1.0,
                "stddev": 1.0,
                "min": 1.0,
                "max": 3.0,
                "last": 3.0,
            },
            "count": {"count": 1, "mean": 2.0, "variance": 0.0, "stddev": 0.0, "min": 2.0, "max": 2.0, "last": 2.0},
        },
    }
    assert run.stats("b") is None


def test_a_job_that_the_engine_does_not_read_is_the_users():
    with pytest.raises(streamjob_engine.EngineError, match="unknown field") as caught:
        streamjob_engine.Session(json.dumps({"nonsense": 1}), 0)
    assert caught.value.actor == "user"


def test_an_interrupt_reaches_the_caller_and_ends_the_session():
    stop = udf("def f(x):\n    raise KeyboardInterrupt", ["temperature"], {"y": "float64"})
    run = Run(udfs=[stop])
    with pytest.raises(KeyboardInterrupt):
        run.process([row(0, 1.0), row(1, 2.0)])
    with pytest.raises(streamjob_engine.EngineError, match="make a new one"):
        run.process([row(2, 1.0)])


def test_a_function_cannot_call_its_own_session():
    again = udf(
        "import sys\ndef f(x):\n    sys._streamjob_session.finish()\n    return x", ["temperature"], {"y": "float64"}
    )
    import sys

    run = Run(udfs=[again])
    sys._streamjob_session = run.session
    try:
        (letter,) = run.process([row(0, 1.0)])["dead_letters"]
    finally:
        del sys._streamjob_session
    assert "another call of this session is running" in letter["reason"]


def test_the_exception_has_its_attributes():
    error = streamjob_engine.EngineError("text")
    assert (error.actor, error.retryable, str(error)) == ("engine", False, "text")
    assert streamjob_engine.__version__.count(".") == 2
