"""A server that speaks S3 (moto, in memory) that the tests start and kill themselves.

It and its client come from PyPI, once, into a cache outside of the checkout: `integration/s3/requirements.lock`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import Row, free_port, wait_until

LOCK = Path(__file__).parent / "s3" / "requirements.lock"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "streamjob" / "s3"
READY_WITHIN_S = 60.0
ANSWER_WITHIN_S = 60.0
ACCOUNT: Mapping[str, str] = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "s3cret-of-the-tests"}

READ = """
import json, sys, boto3
client = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1")
bucket, does = sys.argv[2], sys.argv[3]
if does == "create":
    client.create_bucket(Bucket=bucket)
    print("{}")
else:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    names = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    print(json.dumps({name: client.get_object(Bucket=bucket, Key=name)["Body"].read().decode() for name in names}))
"""


def packages() -> Path:
    """The folder with the packages, fetched the first time."""
    folder = CACHE / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        parts = CACHE / f".{uuid.uuid4().hex}"
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        command = [*install, "--target", str(parts), "-r", str(LOCK)]
        subprocess.run(command, check=True, capture_output=True, timeout=600)
        try:
            parts.rename(folder)
        except OSError:  # another run was faster
            shutil.rmtree(parts)
    return folder


@dataclass
class S3Server:
    """One server; it keeps its port over restarts, and nothing else."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **ACCOUNT, "PYTHONPATH": str(packages())}

    def start(self, bucket: str) -> S3Server:
        """Starts it with an empty bucket."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until("a server that answers", lambda: self._does(bucket, "create") is not None, READY_WITHIN_S)
        return self

    def kill(self) -> None:
        """SIGKILL: all objects are gone."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(ANSWER_WITHIN_S)

    def objects(self, bucket: str) -> dict[str, list[Row]]:
        """The rows of each object."""
        found = self._does(bucket, "read")
        assert found is not None, (self.folder / "server.log").read_text()[-2000:]
        return {name: json.loads(text) for name, text in found.items()}

    def _does(self, bucket: str, what: str) -> dict[str, Any] | None:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
        done = subprocess.run(
            [sys.executable, "-c", READ, self.url, bucket, what],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=ANSWER_WITHIN_S,
            check=False,
        )
        return json.loads(done.stdout) if done.returncode == 0 else None
