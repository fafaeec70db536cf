"""What the classes of a fleet have told of themselves: how many boards, which are odd, whom nobody can believe. Fed.

Leaves signatures to ``agent.vouching`` and who is odd to ``agent.core.outliers``. Rules:
- Counted is only what is proven to be the word of the board in its topic, by the authority in ``mqtt.ca``; without one
  nothing can be proven, and that is an error and not an empty list.
- Of a board and a class the newest document holds, as the broker retains it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent.core.class_results import BoardResults
from agent.core.outliers import Look, look
from agent.core.ports import Clock
from agent.core.topics import parse_topic
from agent.errors import ConfigError, ReportError, TrustError
from agent.fleet.plain import LONG, plain
from agent.mqtt import BrokerSettings
from agent.vouching import Authority, proven, read_results

MAX_DOCUMENTS = 20_000


class ClassLook(msgspec.Struct, frozen=True, kw_only=True):
    """One class: the tasks it told of, and what a look at its boards found."""

    class_fingerprint: str
    tasks: tuple[str, ...]
    options: int  # different ones that any board measured
    look: Look


class Classes:
    """The results that were heard. Raises: ConfigError: there is no authority to prove them by."""

    def __init__(self, broker: BrokerSettings, clock: Clock) -> None:
        if broker.ca is None:
            raise ConfigError(
                "nobody can say whose results these are without the authority of the boards' certificates",
                fix="name it as mqtt.ca in fleet.yaml; see `boardfit enroll`",
            )
        self._authority = Authority(Path(broker.ca), clock.utc())
        self._told: dict[tuple[str, str], tuple[BoardResults, ...]] = {}
        self.refused = 0
        self.last_refusal: str | None = None

    def take(self, topic: str, payload: bytes) -> None:
        """Take one message. Raises: ConfigError: the authority cannot be read, or cryptography is not there."""
        place = parse_topic(topic)
        if place.kind != "results" or place.device is None or place.parameter is None:
            return
        key = (place.device, place.parameter)
        self._told.pop(key, None)
        if not payload or len(self._told) >= MAX_DOCUMENTS:
            return
        try:
            told = read_results(proven(f"{place.fleet}/{place.device}", payload, None, self._authority))
        except (TrustError, ReportError) as error:
            self.refused += 1
            self.last_refusal = plain(f"{place.device}: {error.problem}", LONG)
            return
        self._told[key] = told

    def looks(self) -> list[ClassLook]:
        """Return the classes, the largest first."""
        of_class: dict[str, list[BoardResults]] = {}
        for some in self._told.values():
            for one in some:
                of_class.setdefault(one.class_fingerprint, []).append(one)
        found = [
            ClassLook(
                class_fingerprint=fingerprint,
                tasks=tuple(sorted({plain(one.task) for one in told})),
                options=len({(one.task, result.key) for one in told for result in one.results}),
                look=look(told),
            )
            for fingerprint, told in of_class.items()
        ]
        return sorted(found, key=lambda one: (-one.look.boards, one.class_fingerprint))
