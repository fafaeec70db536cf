"""A candidate beside what serves, on the application's own inputs: what travels, what is asked for, what is kept. Pure.

An application lends a request for each byte that it is sent: a header (``Sample``), then its arrays. Nothing of a
header is believed beyond what ``read_sample`` checks.

Leaves the rule to ``agent.core.trial``, sending to ``agent.client.lending``, running to ``agent.client.understudy``,
the run to ``agent.watch.shadow``.

History: ``boardfit.shadow-ask/1``, ``boardfit.shadow-sample/1``, ``boardfit.shadow/1`` first versions.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec

SOCKET_NAME = "shadow.sock"  # in a task's folder, while a run wants samples
CREDIT = b"."  # one byte from the agent for each sample it wants
MAX_HEADER_BYTES = 64 * 1024
MAX_SAMPLE_BYTES = 16 << 20  # chosen: a photograph of 5 million pixels; what is larger is told, not sent
Verdict = Literal["passed", "refused", "not_enough"]

DTYPE_BYTES = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "int32": 4, "uint32": 4, "float32": 4,
    "int64": 8, "uint64": 8, "float64": 8,
}  # fmt: skip
_Name = Annotated[str, msgspec.Meta(max_length=128)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """One array of a sample; its bytes follow the header, C order, little endian."""

    dtype: _Name
    shape: Annotated[tuple[_Size, ...], msgspec.Meta(max_length=8)]
    name: _Name | None = None

    @property
    def length(self) -> int:
        """Its bytes."""
        return DTYPE_BYTES[self.dtype] * math.prod(self.shape)


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent wants of an application that connected: one line."""

    task: str
    release: str  # of the incumbent: another release's samples are not wanted
    schema: Literal["boardfit.shadow-ask/1"] = "boardfit.shadow-ask/1"
    most_bytes: int = MAX_SAMPLE_BYTES


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The header of one request: what the application fed, as it fed it, and what the incumbent answered."""

    kind: Literal["tensors", "images"]  # images: uint8, before the published preprocessing
    schema: Literal["boardfit.shadow-sample/1"] = "boardfit.shadow-sample/1"
    inputs: Annotated[tuple[Tensor, ...], msgspec.Meta(max_length=64)] = ()
    outputs: Annotated[tuple[Tensor, ...], msgspec.Meta(max_length=64)] = ()
    problem: Annotated[str, msgspec.Meta(max_length=240)] | None = None  # why there is no sample in its place

    @property
    def length(self) -> int:
        """The bytes that follow it."""
        return sum(one.length for one in (*self.inputs, *self.outputs))


def read_sample(header: bytes) -> Sample | str:
    """Read a header; a text says why it is not taken."""
    try:
        sample = msgspec.json.decode(header, type=Sample)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return "not a sample"
    if any(one.dtype not in DTYPE_BYTES for one in (*sample.inputs, *sample.outputs)):
        return "a type that no model has"
    if sample.length > MAX_SAMPLE_BYTES:
        return "a sample that is too long"
    return sample if sample.problem is not None or (sample.inputs and sample.outputs) else "a sample of nothing"


class ShadowPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a task asks for before a switch. ``share``: of one core's time, at most."""

    requests: int = 200
    agreement: float = 0.9
    tolerance: float = 0.05
    time_s: float = 600.0
    share: float = 0.1
    without_traffic: Literal["skip", "require"] = "skip"


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The worker has opened the candidate, or why it has not."""

    problem: str | None = None


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker says of one request. Times are of the engine's call alone."""

    agrees: bool
    metric: Literal["top1", "relative_error"] = "relative_error"
    rel_error: float | None = None
    latency_s: float | None = None
    waited_s: float | None = None  # for a core; None where the kernel does not say
    problem: str | None = None  # why the candidate gave no answer


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one run."""

    task: str
    candidate: str
    artifact_sha256: str
    point: str
    incumbent: str
    at: str  # UTC, ISO 8601 with Z; of its end
    verdict: Verdict
    text: str
    schema: str = "boardfit.shadow/1"
    metric: str | None = None
    requests: int = 0
    agreed: int = 0
    agreement_low: float | None = None
    agreement_high: float | None = None
    agreement_asked: float | None = None
    rel_error_p95: float | None = None
    latency_n: int = 0  # requests that had their cores
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    budget_latency_p95_s: float | None = None
    waited: int = 0  # requests that did not
    problems: int = 0
    duration_s: float = 0.0
    without_traffic: str | None = None
