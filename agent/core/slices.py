"""Which candidates of a large benchmark each board of a class measures. Pure.

Rules:
- Every board finds its own slice from the same words: the boards that share it and how many measure each candidate.
- Rendezvous hashing (Thaler & Ravishankar 1998, IEEE/ACM Transactions on Networking 6(1)): a candidate goes to the
  boards whose hash with it is lowest. A board that is added or taken away moves its own share and nothing else.
- ``OVERLAP`` boards measure each candidate, so that boards can be held against each other by what they share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

OVERLAP = 2


def boards_for(candidate: str, among: Iterable[str], overlap: int = OVERLAP) -> tuple[str, ...]:
    """Return the boards that measure a candidate: ``overlap`` of them, or all where there are fewer."""

    def weight(board: str) -> tuple[bytes, str]:
        return (hashlib.sha256(f"{candidate}\0{board}".encode()).digest(), board)

    return tuple(sorted(set(among), key=weight)[: max(1, overlap)])


def slice_of(board: str, among: Iterable[str], candidates: Iterable[str], overlap: int = OVERLAP) -> tuple[str, ...]:
    """Return the candidates that a board measures, in the order given; none where it is not among them."""
    sharing = tuple(among)
    return tuple(one for one in candidates if board in boards_for(one, sharing, overlap))
