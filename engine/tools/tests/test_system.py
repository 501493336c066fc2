"""What the set-up takes for libclang, Python and Rust, on a system made of files, and what it does with a `.venv`."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).parents[1] / "system.sh"
REAL = ("bash", "dirname", "env", "sed", "sort", "touch")
"""What of this system the script finds on the other one."""
HAS_VENV = '[ "$2" != "import ensurepip, venv" ] || [ -e "${0%/*}/venv-package" ] || exit 1'
PROGRAMS = {
    "apt-get": 'echo "$*" >>"${0%/*}/apt-log"; case "$*" in *-venv*) touch "${0%/*}/venv-package" ;; esac',
    "c++": "",
    "cargo": "",
    "id": "echo 0",
    "make": "",
    "perl": "",
    "python3": "",
    "rustc": "echo 'rustc 1.90.0-nightly (1159e78c4 2025-09-14)'",
}
"""A system that has all, and what its programs do."""
PYTHON = """\
case "$*" in
    "-m venv .venv") mkdir -p .venv/bin && touch .venv/bin/pip && cp "$0" .venv/bin/python && echo venv >>log ;;
    "-m pip --version") [ -e "${0%/*}/pip" ] ;;
    *--require-hashes*) echo packages >>log ;;
esac
"""
"""A Python that makes virtual environments, each with a copy of itself."""


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


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def set_up(
    folder: Path, *absent: str, python: str = "python3", words: tuple[str, ...] = (), **programs: str
) -> subprocess.CompletedProcess[str]:
    """Runs the script where there are PROGRAMS without `absent`, and with `programs` instead."""
    for name in REAL:
        (folder / name).symlink_to(str(shutil.which(name)))
    for name, text in (PROGRAMS | programs).items():
        if name not in absent:
            write_program(folder / name, text)
    env = {"PATH": str(folder), "LIBCLANG_PATH": "/there", "PYTHON": python}
    return subprocess.run(
        ["bash", str(SCRIPT), *words], env=env, check=False, capture_output=True, text=True, timeout=60
    )


def test_a_system_that_has_all_is_left_alone(tmp_path: Path) -> None:
    result = set_up(tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert not (tmp_path / "apt-log").exists()


# Debian's own python3 is called so by its path; others are asked for their version.
VERSIONED = f"{HAS_VENV}; [[ $2 != *version_info* ]] || echo python3.12-venv"


@pytest.mark.parametrize(
    ("python", "package"),
    [("python3", "python3.12-venv"), ("python3.13", "python3.13-venv"), ("python4", "python3-venv")],
)
def test_the_package_for_virtual_environments_is_installed(tmp_path: Path, python: str, package: str) -> None:
    programs = {"python3": VERSIONED, "python3.13": VERSIONED}
    result = set_up(tmp_path, python=python, **programs)
    asked = (tmp_path / "apt-log").read_text(encoding="utf-8")
    assert asked == f"install -y -qq {package}\n"
    assert (result.returncode == 0) is (python in programs)


def test_the_package_for_virtual_environments_is_named_where_there_is_no_apt(tmp_path: Path) -> None:
    result = set_up(tmp_path, "apt-get", python3=VERSIONED)
    assert result.returncode == 1
    assert "please install python3.12-venv (Debian's package names)" in result.stderr


def test_a_python_that_no_package_helps_is_told(tmp_path: Path) -> None:
    result = set_up(tmp_path, python3="exit 1")
    assert result.returncode == 1
    assert "python3 has not the modules venv and ensurepip" in result.stderr
    assert "make PYTHON=" in result.stderr


@pytest.mark.parametrize(
    "rustc", ["echo 'rustc 1.63.0'", "echo 'rustc 1.9.0 (x)'", "echo 'rustc 1.89.0-beta'", "exit 1"]
)
def test_an_old_rust_is_told_with_where_a_newer_one_is(tmp_path: Path, rustc: str) -> None:
    result = set_up(tmp_path, rustc=rustc)
    assert result.returncode == 1
    assert "Rust 1.90 or newer is needed" in result.stderr
    assert "rustup update stable" in result.stderr


def test_a_newer_rust_is_taken(tmp_path: Path) -> None:
    assert set_up(tmp_path, rustc="echo 'rustc 1.100.1 (x)'").returncode == 0


def test_what_needs_python_alone_asks_for_no_more(tmp_path: Path) -> None:
    result = set_up(tmp_path, "cargo", "c++", "perl", words=("--python",))
    assert (result.returncode, result.stderr) == (0, "")


def test_what_needs_python_alone_asks_for_that(tmp_path: Path) -> None:
    result = set_up(tmp_path, "apt-get", words=("--python",), python3=VERSIONED)
    assert result.returncode == 1
    assert "please install python3.12-venv" in result.stderr


def test_no_rust_is_told(tmp_path: Path) -> None:
    result = set_up(tmp_path, "cargo")
    assert result.returncode == 1
    assert "there is no Rust toolchain (cargo), 1.90 or newer is needed" in result.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile, with a set-up of the system and a Python that note in `log` that they ran."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    write_program(tmp_path / "engine" / "tools" / "system.sh", "echo system $@ >>log")
    write_program(tmp_path / "bin" / "python", PYTHON)
    (tmp_path / "sdk").mkdir()
    (tmp_path / "sdk" / "requirements-dev.lock").touch()
    return tmp_path


def make_tools(checkout: Path) -> list[str]:
    """`make .venv/.tools`, and what it did."""
    log = checkout / "log"
    log.write_text("", encoding="utf-8")
    subprocess.run(
        ["make", "-s", ".venv/.tools", f"PYTHON={checkout}/bin/python"], cwd=checkout, check=True, timeout=60
    )
    return log.read_text(encoding="utf-8").split()


def test_the_system_is_looked_at_before_a_virtual_environment_is_made(checkout: Path) -> None:
    assert make_tools(checkout) == ["system", "--python", "venv", "packages"]
    assert make_tools(checkout) == []


def test_a_virtual_environment_without_pip_is_made_anew(checkout: Path) -> None:
    write_program(checkout / ".venv" / "bin" / "python", PYTHON)
    stale = checkout / ".venv" / "lib" / "python3.11"
    stale.mkdir(parents=True)
    (checkout / ".venv" / ".engine").touch()
    assert make_tools(checkout) == ["system", "--python", "venv", "packages"]
    assert not stale.exists()
    assert (checkout / ".venv" / ".engine").exists()


def test_a_virtual_environment_that_works_is_kept(checkout: Path) -> None:
    make_tools(checkout)
    os.utime(checkout / "engine" / "tools" / "system.sh")
    assert make_tools(checkout) == []
    # Newer packages are no reason to begin again.
    os.utime(checkout / "sdk" / "requirements-dev.lock")
    assert make_tools(checkout) == ["system", "--python", "packages"]
