"""A stand-in for the engine, to test the command line without it: says what it was asked and gives fixed figures."""

import json
import os
import sys


class EngineError(Exception):
    def __init__(self, message, actor="engine", retryable=False):
        super().__init__(message)
        self.actor = actor
        self.retryable = retryable


def run(
    job_json,
    *,
    state_dir,
    listen,
    exit_at_end,
    for_us,
    on_ready,
    on_progress,
    progress_interval_us,
    control_token=None,
    control_token_file=None,
):
    job = json.loads(job_json)
    imported = sorted({"pydantic", "sqlglot", "yaml", "rich", "asyncio"} & set(sys.modules))
    if os.environ.get("FAKE_ENGINE_FAILS"):
        raise EngineError("port 8080 is in use: choose another with --listen", actor="user")
    os.makedirs(state_dir, exist_ok=True)
    on_ready(f"http://{listen}")
    progress = {
        "uptime_us": 1_500_000,
        "received": 12,
        "applied": 10,
        "filtered": 0,
        "late": 1,
        "rejected": 1,
        "failed": 0,
        "duplicate": 0,
        "windows": 3,
        "anomalies": 1,
        "rate_events_per_s": 8.0,
        "queue_rows": 0,
        "watermark_us": 0,
        "sinks": [{"name": "out", "sent_rows": 3, "pending_rows": 0}],
        "latest_windows": [{"key": "a", "window_start": "1970-01-01T00:00:00Z", "n": 3, "_id": "per_10s/a/0/0"}],
        "latest_events": [{"device_id": "a", "timestamp": 1000, "temperature": 90.5, "score": None}],
        "message": None,
    }
    if on_progress:
        on_progress(json.dumps(progress))
    return json.dumps(
        {
            "received": 12,
            "applied": 10,
            "late": 1,
            "rejected": 1,
            "windows": 3,
            "anomalies": 1,
            "resumed": False,
            "imported": imported,
            "source": job["udfs"][0]["source"],
            "asked": [job["name"], state_dir, listen, exit_at_end, for_us, progress_interval_us],
            "control_token": control_token,
            "control_token_file": control_token_file,
            "sources": [udf["source"] for udf in job["udfs"]],
        }
    )
