"""Posts readings of some devices to the engine at ENGINE_HOST, for ever; now and then one of them is an anomaly.

A request has an Idempotency-Key, so that it may be sent again until it is answered: each reading counts once.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import random
import time
import uuid

ENGINE_HOST = os.environ.get("ENGINE_HOST", "127.0.0.1:8080")
DEVICES = int(os.environ.get("DEVICES", "100"))
EVERY_S = float(os.environ.get("EVERY_S", "0.5"))
ANOMALY_EVERY = 400
LONGEST_WAIT_S = 10.0


def readings(now_ms: int) -> list[dict[str, object]]:
    """One of each device."""
    made = []
    for device in range(DEVICES):
        temperature = 20 + 5 * math.sin(now_ms / 60_000 + device) + random.gauss(0, 0.5)
        if random.randrange(DEVICES * ANOMALY_EVERY // 100) == 0:
            temperature += 60
        row = {"device_id": f"device-{device}", "timestamp": now_ms, "temperature": round(temperature, 2)}
        made.append({**row, "humidity": round(random.uniform(30, 60), 1)})
    return made


def post(body: bytes) -> dict[str, object]:
    """Sends a request until it is answered for good."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
    wait_s = 0.1
    while True:
        connection = http.client.HTTPConnection(ENGINE_HOST, timeout=30)
        try:
            connection.request("POST", "/ingest", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status == 202:
                return dict(json.loads(text))
            problem = f"{answer.status} {text.decode(errors='replace')}"
            if answer.status != 429 and answer.status < 500:
                raise SystemExit(f"the engine refuses the readings: {problem}")
        except OSError as error:
            problem = str(error)
        finally:
            connection.close()
        print(f"{ENGINE_HOST}: {problem}; again in {wait_s:.1f} s", flush=True)
        time.sleep(wait_s * random.uniform(0.5, 1))
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def main() -> None:
    """Posts and says how much was taken."""
    taken, said = 0, 0.0
    while True:
        answer = post(json.dumps(readings(time.time_ns() // 1_000_000)).encode())
        taken += int(str(answer["accepted"]))
        if time.monotonic() - said > 10:
            said = time.monotonic()
            print(f"{taken} readings taken by {ENGINE_HOST}", flush=True)
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
