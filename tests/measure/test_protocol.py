from __future__ import annotations

import msgspec
import pytest

from agent.measure.protocol import (
    MAX_JOB_BYTES,
    Done,
    Event,
    Failed,
    Imported,
    Job,
    ProtocolError,
    Started,
    Tick,
    decode_event,
    decode_job,
    encode_job,
)
from tests.measure.models import ONNX_POINT

STARTED = Started(confinement=("session",))


def line(event: Event) -> bytes:
    return msgspec.json.encode(event)


def test_a_job_comes_back_as_it_was() -> None:
    job = Job(model="/m.onnx", point=ONNX_POINT, preprocessing=({"op": "resize", "height": 4},), label_offset=1)
    encoded = encode_job(job)
    assert encoded.endswith(b"\n") and encoded.count(b"\n") == 1
    assert decode_job(encoded) == job


@pytest.mark.parametrize(
    "text", [b"", b"{}", b'{"model": "m", "surprise": 1}', b'{"schema": "boardfit.job/2"}', b"\xff\n"]
)
def test_what_is_not_a_job_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_job(text)


def test_a_job_that_would_not_fit_a_pipe_is_refused() -> None:
    with pytest.raises(ProtocolError):
        encode_job(Job(model="m" * MAX_JOB_BYTES, point=ONNX_POINT))


def test_events_come_in_order() -> None:
    assert decode_event(line(STARTED), None) == STARTED
    assert decode_event(line(Imported()), STARTED) == Imported()
    assert decode_event(line(Done()), Imported()) == Done()
    assert decode_event(line(Tick(done=1, total=2)), Imported()) == Tick(done=1, total=2)
    failure = Failed(verdict="crashed", reason="x")
    assert decode_event(line(failure), None) == failure


@pytest.mark.parametrize(
    ("text", "previous"),
    [
        (line(STARTED), STARTED),
        (line(STARTED), Imported()),
        (line(Imported()), None),
        (line(Done()), None),
        (b'{"event": "no such"}', None),
        (b'{"event": "imported", "more": 1}', STARTED),
        (b'{"event": "started"}', None),
        (b'{"event": "failed", "verdict": "ok", "reason": ""}', None),
        (b"not json", None),
        (b"\xff\xfe", None),
    ],
)
def test_what_is_not_an_event_or_out_of_order_is_refused(text: bytes, previous: Event | None) -> None:
    with pytest.raises(ProtocolError):
        decode_event(text, previous)
