"""What the images are built with, as far as it can be seen without building them."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SYSTEM = ROOT / "engine" / "tools" / "system.sh"
DOCKERFILES = ("Dockerfile.engine", "Dockerfile.operator")
BUILT = ("dist",)
"""What a build leaves, and a checkout has not."""


def instructions(dockerfile: str) -> list[str]:
    """The instructions of a Dockerfile, each on one line."""
    text = (ROOT / dockerfile).read_text(encoding="utf-8")
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return [line for line in kept.replace("\\\n", " ").splitlines() if line.strip()]


def stage(name: str) -> list[str]:
    """The instructions of one stage of the engine's image."""
    lines = instructions("Dockerfile.engine")
    begin = next(at for at, line in enumerate(lines) if re.match(rf"FROM .* AS {name}$", line))
    end = next((at for at in range(begin + 1, len(lines)) if lines[at].startswith("FROM ")), len(lines))
    return lines[begin + 1 : end]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out of what is built from; its last line that matches decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip().removeprefix("!").removeprefix("**/")
        parents = ["/".join(path.split("/")[: n + 1]) for n in range(path.count("/") + 1)]
        names = path.split("/") if line.lstrip("!").startswith("**/") else parents
        if pattern and not line.startswith("#") and any(fnmatch(one, pattern) for one in names):
            out = not line.startswith("!")
    return out


def test_what_compiles_has_all_that_the_set_up_asks_for() -> None:
    build = SYSTEM.read_text(encoding="utf-8").partition("--servers ]; then")[2].partition("fi\n")[2]
    wanted = set(re.findall(r"missing\+=\(([\w+-]+)\)", build)) - {"valgrind"}
    assert wanted >= {"g++", "libclang-dev", "perl", "make"}
    (install,) = [line for line in stage("engine-compile") if "apt-get install" in line]
    assert wanted <= set(install.split())


def test_nothing_is_compiled_where_a_wheel_is_taken() -> None:
    runs = [line for line in stage("engine-compile") if line.startswith("RUN ")]
    assert runs
    assert all('if [ "$ENGINE" = compile ]' in line for line in runs)


def test_what_was_compiled_on_the_way_is_not_stored() -> None:
    (build,) = [line for line in stage("engine-compile") if "maturin build" in line]
    target = re.search(r"CARGO_TARGET_DIR=(\S+)", build)
    assert target is not None
    assert re.search(rf"rm -rf .*{target[1]}\b", build)


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_what_is_copied_is_there_and_let_through(dockerfile: str) -> None:
    copied = [line.split()[1:-1] for line in instructions(dockerfile) if re.match(r"COPY (?!--from)", line)]
    sources = [source for line in copied for source in line if not source.startswith(BUILT)]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source


def test_the_engine_s_sources_are_let_through() -> None:
    workspace = tomllib.loads((ROOT / "engine" / "Cargo.toml").read_text(encoding="utf-8"))["workspace"]
    for member in workspace["members"]:
        assert not ignored(f"engine/{member}/Cargo.toml"), member
    included = re.compile(r'include_(?:str|bytes)!\("([^"]+)"\)')
    for source in sorted((ROOT / "engine" / "crates").glob("*/src/**/*.rs")):
        for name in included.findall(source.read_text(encoding="utf-8")):
            path = (source.parent / name).resolve()
            assert path.is_relative_to(ROOT / "engine"), f"{source}: {name} is not copied"
            assert not ignored(str(path.relative_to(ROOT))), f"{source}: {name}"


@pytest.mark.parametrize(("path", "kept"), [("engine/crates/core/src/lib.rs", True), ("dist/engine/a.whl", True)])
def test_the_reading_of_dockerignore(path: str, kept: bool) -> None:
    assert ignored(path) is not kept
    assert ignored("docs/job.md")
    assert ignored("engine/fuzz/Cargo.toml")
    assert ignored("engine/target/release/x")
    assert ignored("sdk/src/streamjob/__pycache__/a.pyc")
