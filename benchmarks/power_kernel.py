"""Power figures against real kernel drivers in an emulated board: energy read over the integral of what was set.

    python benchmarks/power_kernel.py --emulator DIR/boot-board.sh --packages DIR [--markdown]

``--emulator`` (or BOARDFIT_EMULATOR) boots an arm64 computer with the kernel's ina3221, ina2xx and test_power drivers
on virtual chips, and runs one command in it. ``--packages`` (or BOARDFIT_BOARD_PACKAGES) is a folder of what boardfit's
readings need there, for its Python: msgspec, psutil and PyYAML, as ``pip install --target DIR --platform
manylinux2014_aarch64 --python-version 3.11 --only-binary :all:`` makes it. Without an emulated board nothing is
measured, and this says so.

What it shows is behaviour: that the drivers' files are read as the drivers write them, their errors told apart, and
energy integrated over what they report. Loads are simulated; an emulator has no power of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.table import render  # noqa: E402

GOAL = 0.02
HEADS = (
    "sensor (kernel driver)",
    "simulated load",
    "trouble",
    "set J",
    "read J",
    "read / set",
    "values",
    "missed",
    "put off",
)
IGNORED = shutil.ignore_patterns("__pycache__")


def pack(folder: Path, packages: Path) -> None:
    """Lay out what the board gets: boardfit, its profiles, the inside program and its packages."""
    for name in ("agent", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=IGNORED)
    (folder / "benchmarks").mkdir()
    for name in ("__init__.py", "power_in_board.py", "power_traces.py"):
        shutil.copy(ROOT / "benchmarks" / name, folder / "benchmarks" / name)
    shutil.copytree(packages, folder / "packages", ignore=IGNORED)


def run(emulator: Path, packages: Path, board: str, timeout_s: int) -> dict[str, Any]:
    """Boot, measure, and return what the inside program wrote. Raises: SystemExit: it wrote nothing."""
    with tempfile.TemporaryDirectory(prefix="power-kernel-") as temporary:
        inside, out = Path(temporary) / "in", Path(temporary) / "out"
        inside.mkdir()
        pack(inside, packages)
        command = [str(emulator), "--board", board, "--in", str(inside), "--out", str(out), "--timeout", str(timeout_s)]
        program = ["env", "PYTHONPATH=/job/in:/job/in/packages", "python3", "/job/in/benchmarks/power_in_board.py"]
        done = subprocess.run([*command, "--", *program], check=False, stdout=sys.stderr)
        result = out / "result.json"
        if not result.is_file():
            raise SystemExit(f"the emulated board ended with {done.returncode} and no result")
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def row(case: dict[str, Any]) -> tuple[str, ...]:
    """Return a case's line of the table."""
    name = f"{case['meter']}, {case['period_s']:g} s"
    read_j = case.get("read_j")
    if read_j is None:
        why = f"none: {case['reason']}" if not case["stalled"] else "withheld: the emulator stalled"
        return (name, case["shape"], case["trouble"] or "–", f"{case['set_j']:.2f}", why, *"––––")
    counts = (str(case["samples"]), str(case["missed"]), str(case["skipped"]))
    ratio = f"{read_j / case['set_j']:.4f}" + (" withheld: the emulator stalled" if case["stalled"] else "")
    shown = (f"{case['set_j']:.2f}", f"{read_j:.2f} ± {case['error_j']:.2f}", ratio)
    return (name, case["shape"], case["trouble"] or "–", *shown, *counts)


def misses(cases: list[dict[str, Any]]) -> list[str]:
    """Return what is not as it should be: a figure off by more than the goal, a dead sensor's figure, none at all."""
    wrong = []
    for case in cases:
        what = f"{case['meter']}, {case['shape']}, {case['trouble'] or 'no trouble'}"
        dead = "unbound" in case["trouble"] or "charger" in case["trouble"]
        if case["stalled"]:
            continue
        if dead != (case.get("read_j") is None):
            wrong.append(f"{what}: {'a figure of a dead sensor' if dead else case['reason']}")
        elif not dead and abs(case["read_j"] / case["set_j"] - 1.0) > GOAL:
            wrong.append(f"{what}: {case['read_j'] / case['set_j']:.4f} of what was set")
        if "ENODATA" in case["trouble"] and not case.get("skipped"):
            wrong.append(f"{what}: no read was put off")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emulator", type=Path, default=os.environ.get("BOARDFIT_EMULATOR"))
    parser.add_argument("--packages", type=Path, default=os.environ.get("BOARDFIT_BOARD_PACKAGES"))
    parser.add_argument("--board", default="jetson-orin-nano")
    parser.add_argument("--timeout", type=int, default=1500, help="seconds, boot included")
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args()
    if given.emulator is None or given.packages is None or not Path(given.emulator).is_file():
        print(
            "skipped: no emulated board (--emulator and --packages, or BOARDFIT_EMULATOR and BOARDFIT_BOARD_PACKAGES)"
        )
        return 0
    found = run(Path(given.emulator).resolve(), Path(given.packages).resolve(), given.board, given.timeout)
    print(render(HEADS, [row(case) for case in found["cases"]], markdown=given.markdown, left=3))
    wrong = misses(found["cases"])
    stalled = sum(case["stalled"] for case in found["cases"])
    good = len(found["cases"]) - len(wrong) - stalled
    whole = len(found["cases"])
    print(f"\n{good} of {whole} cases as they should be (energy within {GOAL:.0%}, no figure of a dead sensor).")
    if stalled:
        print(f"{stalled} withheld: in their windows too many values came late, four times in a row.")
    for text in wrong:
        print(f"missed: {text}")
    print(f"\nEmulated {found['model']}, kernel {found['kernel']}, Python {found['python']}:")
    print("the drivers are real, the chips and their loads simulated.")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
