"""The arithmetic behind the figures on contention, on made-up runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.core.measurement import Figure
from benchmarks import notices, reference_kernel, repeatability
from benchmarks.hogs import Hog, Hogs, over_quiet
from benchmarks.peers.ratios import Peers


def test_drift_cancels_against_the_nearest_quiet_runs() -> None:
    values = [10.0, 20.0, 11.0, 22.0, 12.0, 24.0, 13.0]
    quiet = [True, False, True, False, True, False, True]
    ratios = over_quiet(values, quiet, near=2)
    assert [round(ratio, 2) for ratio in ratios[1::2]] == [1.90, 1.91, 1.92]
    with pytest.raises(ValueError, match="two quiet"):
        over_quiet([1.0, 2.0], [True, False])


def test_hogs_are_at_work_inside_and_gone_after() -> None:
    core = min(os.sched_getaffinity(0))
    with Hogs([Hog("spin", core), Hog("cache", core)]) as hogs:
        pids = list(hogs.pids)
        assert all(os.sched_getaffinity(pid) == {core} for pid in pids)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_half_of_the_runs_are_quiet_and_every_kind_has_its_turn() -> None:
    kinds = list(notices.kinds(0, 1))
    order = notices.schedule(kinds, 40)
    assert len(order) == 40
    assert order.count("quiet") == 20
    assert set(order) == {"quiet", *kinds}


def run(
    kind: str, raw: float, *, flags: tuple[str, ...] = (), used: float | None = None, others: float = 0.0
) -> notices.Seen:
    return notices.Seen(kind, raw, 0.0, others, flags, flags, "ok" if used else "contended", used, raw, None)


QUIET = [run("quiet", 1.0, used=1.0)] * 4


@pytest.mark.parametrize(
    ("added", "verdict"),
    [
        ([run("1 spin", 2.0, flags=("contended",))], "met"),
        ([run("1 spin", 2.0)], "missed"),
        ([run("1 spin", 1.05, used=1.05)], "met"),
        ([run("1 spin", 2.0, flags=("contended",), used=1.2)], "missed"),
        ([run("quiet", 1.0, flags=("contended",))], "missed"),
        ([run("1 cache", 1.2, flags=("steal",))], "met"),
        ([run("quiet", 3.0), run("quiet", 2.0)], "withheld: noise"),
        ([run("quiet", 1.0, used=1.0, others=0.9)] * 5, "withheld: the machine was not quiet"),
    ],
)
def test_what_is_missed_false_or_wrong_is_told(added: list[notices.Seen], verdict: str) -> None:
    seen = [*QUIET, *added]
    found = notices.judge(seen)
    assert found["verdict"] == verdict
    assert "not installed" in notices.table(seen, found, markdown=True)
    assert verdict in notices.conclusion(found)


def trial(number: int, kind: str, p50_s: float, call_s: float, wait: float = 0.0) -> reference_kernel.Trial:
    return reference_kernel.Trial(
        round=number, kind=kind, p50_s=p50_s, best_s=p50_s, wait=wait, lost=0.0, others=0.0, steal=0.0, cpu_p50_s=p50_s,
        calls_s={"good": [call_s] * 5, "blind": [1.0] * 5},
    )  # fmt: skip


def test_a_kernel_is_judged_on_what_the_wait_leaves_open() -> None:
    trials = [trial(n, "quiet", 1.0, 1.0) for n in range(20)]
    trials += [trial(n, "cache", 1.3, 1.4) for n in range(4)]
    trials += [trial(n, "spin", 2.0, 1.0, wait=0.5) for n in range(4)]
    found = reference_kernel.judge(trials)
    assert (found["slow"], found["told"]) == (8, 4)
    good, blind = found["signals"]["good / stored"], found["signals"]["blind / stored"]
    assert (good["caught"], good["of"], good["alarms"], good["area"]) == (4, 4, 0, 1.0)
    assert (blind["caught"], blind["area"]) == (0, 0.5)
    assert "blind / own" in reference_kernel.report("m", trials, markdown=False)


def measured(value: float, low: float | None, high: float | None) -> repeatability.Run:
    return repeatability.Run(Figure(value=value, low=low, high=high), ())


def test_an_interval_holds_the_median_of_the_other_runs() -> None:
    runs = [measured(1.0, 0.9, 1.1), measured(1.0, 0.9, 1.1), measured(2.0, 1.9, 2.1), measured(1.0, None, 1.1)]
    assert repeatability.held(runs) == 2


def test_a_coefficient_is_missed_only_beyond_chance() -> None:
    calm, wild = [1.0, 1.001, 0.999, 1.0, 1.002], [1.0, 1.2, 0.8, 1.1, 0.9]

    def verdict(ours: list[float], theirs: list[float]) -> str:
        runs = [measured(value, value, value) for value in ours]
        pairs = [[value, value] for value in theirs]
        seen = repeatability.Seen(runs, list(range(len(runs))), theirs, pairs, 0)
        return str(repeatability.judge(seen)["verdict"])

    assert verdict(calm, wild) == "met"
    assert verdict(wild, calm) == "missed"
    assert verdict(wild, wild[::-1]) == "met"


def test_peers_that_are_not_there_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BOARDFIT_PEERS", str(tmp_path))
    peers = Peers([tmp_path / "m.onnx"], least_runs=1, least_s=0.1)
    peers.round()
    assert peers.table(markdown=False).count("not installed") == 2
