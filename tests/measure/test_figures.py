from __future__ import annotations

import random

import pytest

from agent.core.ports import ProcessMemory
from agent.errors import ConfigError
from agent.measure.conditions import Contention
from agent.measure.figures import accuracy_figures, latency_figures, memory_figures
from agent.measure.protocol import Evaluated, Warm
from agent.measure.settings import MeasureSettings

WARM = Warm(runs=10, settled=True)
CALM = Contention(0.01, 2, 1.0, 0)


def test_percentiles_have_intervals_and_too_few_runs_leave_them_open() -> None:
    many = latency_figures([shuffled(200)], WARM, CALM)
    assert many is not None
    assert many.p50_s.value == pytest.approx(0.1005)
    assert many.p95_s.low is not None and many.p95_s.high is not None
    assert many.p95_s.low < many.p95_s.value < many.p95_s.high
    assert (many.n, many.min_s, many.max_s, many.warmup_runs) == (200, 0.001, 0.2, 10)
    assert many.throughput_per_s == pytest.approx(1 / many.mean_s.value)
    few = latency_figures([[0.001] * 50], WARM, CALM)
    assert few is not None and few.p95_s.high is None
    assert latency_figures([[]], WARM, CALM) is None


def shuffled(n: int) -> list[float]:
    return random.Random(1).sample([i / 1000 for i in range(1, n + 1)], n)


def test_dependent_runs_have_wider_intervals_and_say_what_they_are_worth() -> None:
    free = latency_figures([shuffled(400)], WARM, CALM)
    drifting = latency_figures([sorted(shuffled(400))], WARM, CALM)
    assert free is not None and drifting is not None
    assert free.autocorrelation is not None and drifting.autocorrelation is not None
    assert abs(free.autocorrelation) < 0.1 and drifting.autocorrelation > 0.98
    assert free.effective_n is not None and drifting.effective_n is not None
    assert drifting.effective_n < 20
    assert 200 < free.effective_n <= 400
    assert free.p50_s.value == drifting.p50_s.value
    assert free.p50_s.low is not None and free.p95_s.high is not None
    assert drifting.p50_s.low is None or drifting.p50_s.low < free.p50_s.low
    assert drifting.p95_s.high is None


def test_processes_that_differ_widen_the_interval_beyond_their_own() -> None:
    runs = shuffled(300)
    alike = latency_figures([runs[:100], runs[100:200], runs[200:]], WARM, CALM)
    levels = (1.0, 1.5, 2.0)
    apart = latency_figures([[level + s for s in runs[:100]] for level in levels], WARM, CALM)
    one = latency_figures([[1.0 + s for s in runs[:100]]], WARM, CALM)
    assert alike is not None and apart is not None and one is not None
    assert (one.process_n, alike.process_n, alike.n) == ((), (100, 100, 100), 300)
    assert one.p50_s.low is not None and one.p50_s.low > 1.0
    assert apart.p50_s.low is not None and apart.p50_s.high is not None
    assert apart.p50_s.low < 1.05 and apart.p50_s.high > 2.0  # none of them is the only truth
    assert apart.mean_s.low is not None and apart.mean_s.low < 1.1
    assert alike.p99_s.high is None  # three hundred runs do not bound it, and no process does


def memory(rss: int, peak: int) -> ProcessMemory:
    return ProcessMemory(rss_bytes=rss, peak_bytes=peak, anonymous_bytes=rss // 2, file_bytes=rss // 2)


def test_the_models_own_memory_is_above_the_imported_engine() -> None:
    figures = memory_figures(memory(60, 70), memory(90, 110), peak_was_reset=True)
    assert figures is not None
    assert (figures.admission_peak_bytes, figures.model_peak_bytes) == (110, 50)
    assert (figures.model_steady_bytes, figures.runtime_baseline_bytes) == (30, 60)
    assert (figures.model_anonymous_bytes, figures.model_file_bytes) == (15, 15)


def test_a_peak_of_the_import_is_never_charged_to_the_model() -> None:
    after_reset = memory_figures(memory(60, 120), memory(90, 95), peak_was_reset=True)
    assert after_reset is not None
    assert (after_reset.admission_peak_bytes, after_reset.model_peak_bytes) == (120, 35)
    without = memory_figures(memory(60, 120), memory(90, 120), peak_was_reset=False)
    assert without is not None
    assert (without.admission_peak_bytes, without.model_peak_bytes) == (120, None)
    above = memory_figures(memory(60, 120), memory(90, 130), peak_was_reset=False)
    assert above is not None and above.model_peak_bytes == 70


def test_memory_that_was_not_read_is_absent() -> None:
    assert memory_figures(memory(60, 70), None, peak_was_reset=True) is None
    figures = memory_figures(None, memory(90, 110), peak_was_reset=False)
    assert figures is not None
    assert (figures.admission_peak_bytes, figures.model_peak_bytes) == (110, None)


def test_each_memory_figure_has_its_method_or_its_reason() -> None:
    figures = memory_figures(memory(60, 70), memory(90, 110), peak_was_reset=True)
    assert figures is not None
    assert figures.methods["model_peak_bytes"] == "VmHWM reset by clear_refs after import, less VmRSS of the import"
    assert set(figures.reasons) == {"cgroup_peak_bytes", "accelerator_bytes", "later_peak_bytes"}
    told = ProcessMemory(
        rss_bytes=90, peak_bytes=110, group_peak_bytes=80, group_note="cgroup v1", accelerator_note="no card"
    )
    figures = memory_figures(memory(60, 120), told, peak_was_reset=False, later=memory(90, 150))
    assert figures is not None
    assert (figures.cgroup_peak_bytes, figures.accelerator_bytes, figures.later_peak_bytes) == (80, None, 150)
    assert figures.methods["cgroup_peak_bytes"] == "cgroup v1"
    assert figures.reasons["accelerator_bytes"] == "no card"
    assert "below that of the import" in figures.reasons["model_peak_bytes"]
    for name in (*figures.methods, *figures.reasons):
        value = getattr(figures, name)
        assert (value is None) is (name in figures.reasons), name


def test_the_power_window_counts_and_the_evaluation_does_not() -> None:
    figures = memory_figures(
        memory(60, 70), memory(90, 110), peak_was_reset=True, window=memory(95, 130), later=memory(300, 400)
    )
    assert figures is not None
    assert (figures.admission_peak_bytes, figures.model_peak_bytes, figures.later_peak_bytes) == (130, 70, 400)
    assert figures.model_steady_bytes == 30


def test_accuracy_has_its_exact_interval() -> None:
    figures = accuracy_figures(Evaluated(n=1000, correct=900, correct_bits="ff"), "sha")
    assert figures is not None
    assert figures.top1.value == 0.9
    assert figures.top1.low == pytest.approx(0.8797, abs=1e-4)  # Clopper-Pearson; scipy.stats.binomtest gives the same
    assert figures.top1.high == pytest.approx(0.9179, abs=1e-4)
    assert accuracy_figures(Evaluated(reason="too long"), "sha") is None


@pytest.mark.parametrize(
    "wrong", [{"min_runs": 0}, {"min_runs": 5, "max_runs": 4}, {"max_runs": 10**6}, {"block_s": 0}]
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        MeasureSettings(**wrong)  # type: ignore[arg-type]
