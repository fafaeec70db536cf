from __future__ import annotations

from agent.measure.reference import Reference, products


class Simulated:
    """A kernel that takes the times it is told, in turn, on clocks that only it moves."""

    def __init__(self, *times_ns: int) -> None:
        self.now_ns = 0
        self._times_ns = list(times_ns)

    def __call__(self) -> None:
        self.now_ns += self._times_ns.pop(0) if len(self._times_ns) > 1 else self._times_ns[0]

    def clock(self) -> int:
        return self.now_ns


def simulated(*times_ns: int) -> tuple[Simulated, Reference]:
    kernel = Simulated(*times_ns)
    return kernel, Reference(kernel, kernel.clock, kernel.clock)


def test_the_second_call_of_each_sample_counts() -> None:
    _, reference = simulated(900, 100, 900, 110, 900, 120, 900, 130, 900, 140)
    for _ in range(5):
        reference.sample()
    assert (reference.best_ns, reference.median_ns) == (100, 120)


def test_few_samples_say_nothing_and_those_of_settling_count_for_the_best_alone() -> None:
    _, reference = simulated(*[50] * 20, 100)
    reference.settle(calls=10)
    assert (reference.best_ns, reference.median_ns) == (50, None)
    for _ in range(4):
        reference.sample()
    assert reference.median_ns is None
    reference.sample()
    assert (reference.best_ns, reference.median_ns) == (50, 100)


def test_samples_come_due_so_that_they_take_a_hundredth_of_the_time() -> None:
    kernel, reference = simulated(100)
    begin, spent, samples = kernel.now_ns, 0, 0
    while kernel.now_ns - begin < 10_000_000:
        kernel.now_ns += 1_000  # a run
        if reference.due(kernel.now_ns):
            before = kernel.now_ns
            reference.sample()
            spent += kernel.now_ns - before
            samples += 1
    assert samples > 400
    assert 0.009 < spent / 10_000_000 <= 0.01


def test_the_kernel_runs_and_takes_time() -> None:
    reference = Reference(products())
    reference.settle()
    for _ in range(5):
        reference.sample()
    assert reference.best_ns is not None
    assert reference.median_ns is not None
    assert 0 < reference.best_ns <= reference.median_ns
