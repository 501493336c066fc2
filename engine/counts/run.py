#!/usr/bin/env python3
"""Counts the instructions that the hot path takes for a row, and compares them with the stored baseline.

    engine/counts/run.py              compare; exit status 1 where a step is more than 5 % above
    engine/counts/run.py --update     store what was counted as the new baseline
    engine/counts/run.py --profile aggregate    also name the functions that take most of a step

Callgrind runs the program on a simulated processor, so that other load on the machine changes nothing. Neither does
the processor's generation: valgrind presents every x86-64 processor with AVX2 as the same one without AVX-512, and the
libraries that choose code at run time (memcpy, memchr, crc32) choose by that. What does change the counts is the
compiler: they are binding for the rustc of the baseline only, else differences are told and nothing fails.

The engine's own crate is built in one codegen unit and not incrementally: otherwise how its code is cut for the
optimizer depends on the path of the checkout. (Dependencies are built as for a release, so that a target directory can
be shared with one.) The environment is emptied, because its size moves the stack. Rust's hash maps have a random seed,
which is worth less than 0.1 %; the tolerance is far above.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENGINE = HERE.parent
BASELINE = HERE / "baseline.json"
STEPS = ["decode", "nested", "avro", "route", "aggregate", "windows", "commit", "journal_encode", "journal_decode"]
TOLERANCE = 0.05


def build() -> Path:
    """The benchmark program, built as a release is but for the codegen units."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamjob"
    environment = os.environ | {
        "CARGO_TARGET_DIR": os.environ.get("CARGO_TARGET_DIR") or str(cache / "counts-target"),
        "CARGO_PROFILE_BENCH_INCREMENTAL": "false",
    }
    environment.pop("RUSTFLAGS", None)
    command = ["cargo", "bench", "--quiet", "--locked", "--no-run", "--package", "streamjob-core", "--bench", "counts"]
    one_unit = "profile.bench.package.streamjob-core.codegen-units=1"
    result = subprocess.run(
        [*command, "--config", one_unit, "--message-format", "json-render-diagnostics"],
        cwd=ENGINE,
        env=environment,
        stdout=subprocess.PIPE,
    )
    if result.returncode:
        sys.exit("counts: the benchmark could not be built")
    messages = [json.loads(line) for line in result.stdout.splitlines() if line.startswith(b"{")]
    programs = [message["executable"] for message in messages if message.get("executable")]
    return Path(programs[-1])


def count(program: Path, step: str, profile: bool) -> float:
    """Instructions of one step for a row."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        command = ["valgrind", "--tool=callgrind", f"--toggle-collect=*counted_{step}*", f"--callgrind-out-file={out}"]
        environment = {"PATH": os.environ.get("PATH", "/usr/bin"), "LC_ALL": "C"}
        result = subprocess.run([*command, str(program), step], env=environment, capture_output=True, text=True)
        if result.returncode:
            sys.exit(f"counts: {step} failed under valgrind:\n{result.stderr}{result.stdout}")
        name, rows = result.stdout.split()
        totals = [line.split()[1] for line in out.read_text().splitlines() if line.startswith("totals:")]
        if name != step or not totals or int(totals[0]) == 0:
            sys.exit(f"counts: nothing was counted for {step}; is its counted_{step} function still there?")
        if profile:
            show(out, int(rows))
        return int(totals[0]) / int(rows)


def show(out: Path, rows: int) -> None:
    """The most expensive functions: instructions a row, and from which file they were inlined."""
    command = ["callgrind_annotate", "--threshold=95", "--auto=no", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.findall(r"^ *([\d,]+) \([ \d.]+%\) +(\S+?):(.*)$", result.stdout, re.MULTILINE)
    for instructions, file, function in found[:20]:
        name = function.partition(" [/")[0].replace("streamjob_core::", "")
        place = "/".join(Path(file).parts[-2:])
        print(f"    {int(instructions.replace(',', '')) / rows:9.1f}  {place:<32} {name}")


def compiler() -> str:
    return subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--update", action="store_true", help="store the counts as the new baseline")
    parser.add_argument("--profile", metavar="STEP", choices=STEPS, help="name the most expensive functions of a step")
    arguments = parser.parse_args()

    if not shutil.which("valgrind"):
        sys.exit("counts: valgrind is needed; install it with the system's package manager")
    program = build()
    if arguments.profile:
        print(f"{arguments.profile}: instructions a row, by function")
        print(f"    {count(program, arguments.profile, profile=True):9.1f} in all")
        return 0
    counted = {step: round(count(program, step, profile=False), 2) for step in STEPS}
    here = {"rustc": compiler(), "machine": platform.machine()}
    if arguments.update:
        BASELINE.write_text(json.dumps(here | {"instructions_per_row": counted}, indent=2) + "\n")
    stored = json.loads(BASELINE.read_text())
    binding = all(stored[name] == value for name, value in here.items())

    worse, better = [], []
    print(f"{'step':<16} {'instructions/row':>17} {'baseline':>10} {'change':>8}")
    for step, value in counted.items():
        before = stored["instructions_per_row"].get(step)
        if before is None:
            print(f"{step:<16} {value:>17.1f} {'none':>10}")
            worse.append(f"{step} has no baseline")
            continue
        change = value / before - 1
        print(f"{step:<16} {value:>17.1f} {before:>10.1f} {change:>+8.1%}")
        if change > TOLERANCE:
            worse.append(f"{step} takes {change:.1%} more instructions")
        elif change < -TOLERANCE:
            better.append(f"{step} takes {-change:.1%} fewer instructions")
    if not binding:
        told = ", ".join(f"{stored[name]} there, {value} here" for name, value in here.items() if stored[name] != value)
        print(f"counts: the baseline is of another compiler or machine ({told}): nothing fails. Update it: --update")
    for line in worse:
        print(f"counts: {line}: mend it, or store the new baseline with --update and say why")
    for line in better:
        print(f"counts: {line}: store it as the new baseline with --update")
    return 1 if worse and binding else 0


if __name__ == "__main__":
    sys.exit(main())
