"""What the set-up takes for libclang, on a system made of empty files."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "system.sh"


def finds_libclang(root: Path, *files: str) -> bool:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    env = {name: value for name, value in os.environ.items() if name != "LIBCLANG_PATH"}
    command = ["bash", str(SCRIPT), "--has-libclang"]
    return subprocess.run(command, env=env | {"SYSTEM_ROOT": str(root)}, check=False).returncode == 0


@pytest.mark.parametrize(
    "file",
    [
        "usr/lib/llvm-14/lib/libclang.so.1",
        "usr/lib/x86_64-linux-gnu/libclang-14.so.14.0.6",
        "usr/lib64/libclang.so",
        "usr/local/lib/libclang-19.so",
    ],
)
def test_libclang_is_found_where_distributions_have_it(tmp_path: Path, file: str) -> None:
    assert finds_libclang(tmp_path, file)


def test_the_library_of_another_name_is_not_taken_for_it(tmp_path: Path) -> None:
    # Debian's llvm packages bring this one without libclang, and the build fails a minute later.
    others = ["usr/lib/x86_64-linux-gnu/libclang-cpp.so.14", "usr/lib/llvm-14/lib/libclang-cpp.so.14"]
    assert not finds_libclang(tmp_path, *others)
