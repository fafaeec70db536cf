"""Every error of boardfit, grouped by who must act. Imports nothing.

Rules:
- An error is one sentence that says what is wrong, and one that says what to do next (``fix``).
- Facts that a caller may act on are attributes (``facts``), not only text.
- A new class exists only where a caller acts differently. ``agent.cli`` turns the classes into exit codes.
"""

from __future__ import annotations


class BoardfitError(Exception):
    """Base of all errors raised on purpose.

    Args:
        problem: what is wrong, as a sentence without a final full stop.
        fix: what the reader should do next, likewise; None where nothing can be done.
        facts: figures and names behind the sentence.
    """

    def __init__(self, problem: str, *, fix: str | None = None, **facts: object) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.problem}. {self.fix[0].upper()}{self.fix[1:]}." if self.fix else f"{self.problem}."


class ConfigError(BoardfitError):
    """The person who writes agent.yaml or the command line must act."""


class DeviceError(BoardfitError):
    """The board, its kernel or its profile must be looked at."""


class SensorUnavailableError(DeviceError):
    """A sensor is absent, not permitted or broken; ``facts['state']`` says which of the three."""


class TrustError(BoardfitError):
    """The registry's operator must act: a signature, version, expiry or digest does not hold."""


class ExpiredError(TrustError):
    """Signed metadata is past its expiry; what is already deployed keeps running."""


class DownloadError(BoardfitError):
    """The registry cannot be reached or broke off; trying again later may help."""


class StorageError(BoardfitError):
    """This machine's disk must be looked at: full, read-only, quota reached or I/O error."""


class ModelError(BoardfitError):
    """The publisher must act: a manifest, model, golden data or evaluation pack is unusable."""


class MeasurementError(BoardfitError):
    """A measurement could not be taken at all (a failing candidate is a verdict, not an error)."""


class NoFeasibleCandidateError(BoardfitError):
    """No candidate meets every budget; what runs keeps running."""


class DeploymentError(BoardfitError):
    """A deployment could not be carried out; what ran before still runs."""


class RolledBackError(DeploymentError):
    """A deployment was switched in, failed its health check or hook, and the previous one is back."""


class ReportError(BoardfitError):
    """The broker refused or cannot be reached; the outbox keeps what was to be sent."""


class BusyError(BoardfitError):
    """Another boardfit process holds this state directory's lock."""


class Interrupted(BoardfitError):  # noqa: N818 - not a fault: somebody asked us to stop
    """A stop was asked for in the middle of a pass; what was finished is stored."""


class OrderError(BoardfitError):
    """Whoever sent a command or a desired state must act: it is malformed, not allowed, stale or not for this board."""


class InputError(BoardfitError):
    """The application must act: what it feeds is not what the model takes."""


class InferenceError(BoardfitError):
    """The engine failed in the middle of an inference, or the model was closed; the next call may do."""
