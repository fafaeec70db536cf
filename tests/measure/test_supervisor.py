from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.measurement import Verdict
from agent.core.ports import never_stop
from agent.measure.protocol import Job
from agent.measure.supervisor import Child, ChildEndedError, ChildExit, classify
from tests.measure.board import RealClock
from tests.measure.models import ONNX_POINT


def died(number: int, oom_kills: int = 0, tail: str = "") -> ChildExit:
    return ChildExit(signal_number=number, exit_code=None, oom_kills=oom_kills, output_tail=tail)


@pytest.mark.parametrize(
    ("ended", "verdict", "reason"),
    [
        (died(signal.SIGSEGV), "crashed", "it died by SIGSEGV while loading the model"),
        (died(signal.SIGSEGV, tail="a\nb\n"), "crashed", "it died by SIGSEGV while loading the model: b"),
        (died(signal.SIGKILL, oom_kills=1), "out_of_memory", "the kernel killed it for memory while loading the model"),
        (
            died(signal.SIGKILL),
            "crashed",
            "it was killed from outside (SIGKILL) while loading the model, and not by the kernel for memory",
        ),
        (
            died(signal.SIGABRT, tail="terminate called after std::bad_alloc"),
            "out_of_memory",
            "memory ran out while loading the model: terminate called after std::bad_alloc",
        ),
        (
            ChildExit(signal_number=None, exit_code=3, oom_kills=0, output_tail=""),
            "crashed",
            "the worker exited with 3 while loading the model",
        ),
    ],
)
def test_a_death_has_one_verdict(ended: ChildExit, verdict: Verdict, reason: str) -> None:
    assert classify(ended, "loading the model") == (verdict, reason)


@pytest.mark.parametrize(
    ("code", "deadline_s", "ending"),
    [
        ("os._exit(7)", 60.0, ("crashed", "exited with 7 while starting")),
        ("os.write(2, b'no such thing'); os._exit(1)", 60.0, ("crashed", "while starting: no such thing")),
        ("os.write(FD, b'nonsense\\n'); time.sleep(600)", 60.0, ("crashed", "broke its protocol")),
        ("os.write(FD, b'x' * (5 << 20)); time.sleep(600)", 60.0, ("crashed", "a line of over")),
        ("os.close(FD); time.sleep(600)", 60.0, ("crashed", "closed its pipe while starting and did not end")),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)", 2.0, ("timeout", "when 2 s were over")),
    ],
)
def test_a_worker_that_misbehaves_is_ended(
    fault: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, code: str, deadline_s: float, ending: tuple[str, str]
) -> None:
    monkeypatch.setattr("agent.measure.supervisor._GRACE_S", 0.2)
    fault(
        "import os, signal, sys, time\n"
        "if 'agent.measure.worker' in sys.orig_argv:\n"
        f"    FD = int(sys.orig_argv[-2]); {code}\n"
    )
    descriptors = len(os.listdir("/proc/self/fd"))
    job = Job(model=__file__, point=ONNX_POINT)
    with Child(job, clock=RealClock(), stop=never_stop, deadline_s=deadline_s) as child:
        with pytest.raises(ChildEndedError) as error:
            while True:
                child.next_event()
                child.go()
        pid = child.pid
    assert error.value.verdict == ending[0]
    assert ending[1] in error.value.reason
    assert not Path(f"/proc/{pid}").exists(), "the worker is dead and reaped"
    assert len(os.listdir("/proc/self/fd")) == descriptors, "every descriptor is given back"
