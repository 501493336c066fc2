"""An authority, and a certificate of 127.0.0.1 that it has signed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

MISSING = None if shutil.which("openssl") else "there is no openssl to make certificates with"


def certificates(folder: Path) -> Path:
    """Makes `ca.pem`, `server.key`, `server.pem` and `both.pem` in the folder."""
    folder.mkdir()
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n", encoding="utf-8")
    new_key = ["-newkey", "rsa:2048", "-nodes", "-subj"]
    sign = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
    for command in (
        ["req", "-x509", *new_key, "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2"],
        ["req", "-new", *new_key, "/CN=server", "-keyout", "server.key", "-out", "server.csr"],
        ["x509", "-req", "-in", "server.csr", *sign, "-out", "server.pem"],
    ):
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    both = (folder / "server.key").read_text() + (folder / "server.pem").read_text()
    (folder / "both.pem").write_text(both, encoding="utf-8")
    return folder
