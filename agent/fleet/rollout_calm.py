"""What of a rollout a step need not look at: of thousands of boards, a few have anything new. Pure.

Rules:
- It only saves work: with an empty one, as after a restart, the same follows.
- A board is at rest when a whole step has left it as it was, and neither it nor what was heard of it has changed since,
  by identity, and no time of its own has come. So is a rollout when a step has changed nothing and ordered nothing.

Leaves what a step does to ``agent.fleet.rollout``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.fleet.rollout_board import Board, next_time
from agent.fleet.rollout_view import BoardNow


class Calm:
    """What earlier steps have found to be at rest. Boards that were given no work are not among those asked about."""

    def __init__(self) -> None:
        self._status: str | None = None
        self._until: dict[str, tuple[Board, BoardNow | None, float]] = {}
        self._whole: tuple[object, int, float] | None = None

    def begin(self, status: str) -> None:
        """Forget all of another status: what is done with a board depends on it."""
        if status != self._status:
            self._until.clear()
            self._status = status

    def restless(self, boards: Mapping[str, Board], views: Mapping[str, BoardNow], at: float) -> list[str]:
        """Return the boards at work of which something may have become."""
        until, found = self._until, []
        for name, board in boards.items():
            if board.wave is None:
                continue
            known = until.get(name)
            if known is None or known[0] is not board or known[1] is not views.get(name) or at >= known[2]:
                found.append(name)
        return found

    def note(  # noqa: PLR0917 - a step: what it looked at, before and after
        self, status: str, names: Iterable[str], before: Mapping[str, Board], after: Mapping[str, Board],
        views: Mapping[str, BoardNow], at: float,
    ) -> None:  # fmt: skip
        """Remember which of these boards a step has left as they were."""
        self.begin(status)
        for name in names:
            if (board := after[name]) is before[name]:
                self._until[name] = (board, views.get(name), next_time(board, at))

    def rests(self, rollout: object, heard: int, at: float) -> bool:
        """Return whether a step would change nothing. Args: heard: a count of all that was heard."""
        return self._whole is not None and self._whole[0] is rollout and self._whole[1] == heard and at < self._whole[2]

    def note_whole(self, rollout: object, heard: int, others: Iterable[float]) -> None:
        """Remember a step that has changed nothing. Args: others: times at which it may, beside those of boards."""
        times = [*(until for _, _, until in self._until.values()), *others]
        self._whole = (rollout, heard, min(times, default=float("inf")))
