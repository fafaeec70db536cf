"""How much of a fault suite is run, and from which seed; what is tried is each suite's own.

``--faults slice`` (what plain ``pytest`` takes, seconds), ``quick`` (``make faults-quick``, minutes) or ``full``
(``make faults``, hours). ``--faults-seed N`` repeats what was printed; without it each day has its own.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Literal

Part = Literal["slice", "quick", "full"]


@dataclass(frozen=True)
class Extent:
    """What was asked for on the command line."""

    part: Part
    seed: int

    def count(self, slice_: int, quick: int, full: int) -> int:
        """Return how many cases to try in this part."""
        return {"slice": slice_, "quick": quick, "full": full}[self.part]

    def chance(self, *names: object) -> random.Random:
        """Return a source of choices that is the same for the same seed and names."""
        return random.Random("-".join(str(one) for one in (self.seed, *names)))


def seed_of_today() -> int:
    """Return a seed that changes each day, so that a suite sees something new and still can be repeated."""
    return int(time.time() // 86400)
