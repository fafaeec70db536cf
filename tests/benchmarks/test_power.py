"""Energy from simulated sensors against the integral of simulated loads: nothing here depends on the machine's load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import power, power_kernel, power_traces

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("case", power.CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("shape", power_traces.SHAPES)
def test_energy_is_within_two_percent_of_the_integral(case: power.Case, shape: str) -> None:
    seen = [power.one_round(case, shape, seed) for seed in range(20)]
    assert power.judge(case, shape, seen) == []


@pytest.mark.parametrize("case", power.DEAD, ids=lambda case: case.name)
def test_a_sensor_that_dies_gives_a_reason_and_no_figure(case: power.Case) -> None:
    for seed in range(5):
        seen = power.one_round(case, "steps", seed)
        assert seen.ratio is None
        assert seen.reason


def test_the_judge_can_fail() -> None:
    good = power.Seen(1.0, 1.0, True, 0, None)
    case = power.CASES[0]
    assert power.judge(case, "steps", [good] * 20) == []
    for bad in (
        power.Seen(1.03, 1.0, True, 0, None),
        power.Seen(1.0, 1.0, False, 0, None),
        power.Seen(None, None, False, 0, "gone"),
    ):
        assert power.judge(case, "steps", [bad] * 20)
        assert power.judge(case, "steps", [good] * 10 + [bad] * 10)
    assert power.judge(power.DEAD[0], "steps", [good])


def test_a_trace_is_integrated_exactly() -> None:
    trace = power_traces.Trace([(0.0, 2.0), (1.0, 4.0), (3.0, 1.0)])
    assert [trace.power_w(at) for at in (-1.0, 0.0, 0.5, 1.0, 2.9, 3.0, 99.0)] == [2.0, 2.0, 2.0, 4.0, 4.0, 1.0, 1.0]
    assert [trace.energy_j(at) for at in (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)] == [0.0, 1.0, 2.0, 6.0, 10.0, 12.0]
    assert trace.mean_w(0.5, 3.0) == pytest.approx(9.0 / 2.5)


def test_without_an_emulated_board_it_says_so() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "power_kernel.py")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", env={"PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("skipped: no emulated board")


def test_what_an_emulated_board_told_is_judged() -> None:
    case = {
        "meter": "ina3221:VDD_IN",
        "period_s": 0.1,
        "shape": "steps",
        "trouble": "",
        "set_j": 100.0,
        "read_j": 101.0,
    }
    case |= {"error_j": 1.5, "samples": 200, "missed": 0, "skipped": 0, "reason": None, "stalled": False}
    dead = {**case, "trouble": "driver unbound", "read_j": None, "reason": "absent (ENOENT)"}
    assert power_kernel.misses([case, dead]) == []
    assert power_kernel.row(case)[3:6] == ("100.00", "101.00 ± 1.50", "1.0100")
    assert power_kernel.row(dead)[4] == "none: absent (ENOENT)"
    wrong = [{**case, "read_j": 97.0}, {**case, "read_j": None}, {**dead, "read_j": 100.0}]
    assert len(power_kernel.misses(wrong)) == 3
    assert power_kernel.misses([{**case, "read_j": 90.0, "stalled": True}]) == []
    assert "withheld" in power_kernel.row({**case, "stalled": True})[5]
    gated = {**case, "trouble": "channel off now and then (ENODATA)"}
    assert power_kernel.misses([gated]) == [f"ina3221:VDD_IN, steps, {gated['trouble']}: no read was put off"]
