"""What becomes of a wish on the operator's machine: which boards it means, and what is signed and sent for it.

Rules:
- Which boards are meant is found out here, from the broker; the console's word for it counts for nothing.
- Commands go the way of ``fleet bench`` and its like, with this operator's ledger and counters.
- A rollout is paused, resumed and aborted in this machine's store; it is driven by whoever drives it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from agent.clock import SystemClock
from agent.core.command import VERBS
from agent.core.desired import DesiredSettings
from agent.core.ports import StopRequested
from agent.errors import BoardfitError, ConfigError
from agent.fleet.desiring import check_settings
from agent.fleet.following import Answer
from agent.fleet.ledger import Ledger
from agent.fleet.link import Link
from agent.fleet.rollout import abort, pause, resume
from agent.fleet.rollout_store import RolloutStore
from agent.fleet.sending import Sender, Wanted
from agent.fleet.settings import FleetSettings, operator_name
from agent.fleet.view import FleetView
from agent.fleet.wishes import DesiredWish, RolloutArguments, Told, Wish
from agent.verbs.fleet import RETAINED, Console
from agent.verbs.fleet_desired import ask_for
from agent.verbs.fleet_orders import WORDS, names_text

_MORE_S = 60.0  # beyond a verb's own deadline
_TAKE_S = 30.0
MOST_TOLD = 20  # boards whose every step is a line


class Carrier:
    """Carries wishes out, each in a thread of its own. Args: say: prints a line. tell: tells the console."""

    def __init__(
        self,
        settings: FleetSettings,
        folder: Path,
        stop: StopRequested,
        *,
        say: Callable[[str], None],
        tell: Callable[[Told], None],
    ) -> None:
        self._settings, self._folder, self._stop = settings, folder, stop
        self._say, self._tell = say, tell
        self.threads: list[threading.Thread] = []

    def meant(self, wish: Wish) -> str:
        """Return for whom a wish is, as the boards themselves say. Raises: ConfigError: nobody. ReportError."""
        if wish.fleet != self._settings.fleet:
            raise ConfigError(f"it is for the fleet {wish.fleet[:64]}, and this machine serves {self._settings.fleet}")
        if wish.verb.startswith("rollout-"):
            return f"rollout {self._rollout(wish)}"
        with Link(self._settings.broker, self._settings.fleet, self._stop) as link:
            _, boards = self._opened(link).addressed([wish.address])
        away = sum(not board.reachable for board in boards)
        named = names_text(board.name for board in boards)
        return f"{len(boards)} boards: {named}" + (f"; {away} of them offline" if away else "")

    def begin(self, wish: Wish) -> None:
        """Carry a wish out, beside this."""
        thread = threading.Thread(target=self.carry, args=(wish,), name=f"wish-{wish.id}", daemon=True)
        self.threads.append(thread)
        thread.start()

    def carry(self, wish: Wish) -> None:
        """Carry a wish out, and tell how it ended."""
        self._tell(Told(id=wish.id, state="working"))
        try:
            good, text = self._do(wish)
        except BoardfitError as error:
            good, text = False, str(error)
        self._say(f"{wish.verb}: {text}")
        self._tell(Told(id=wish.id, state="done" if good else "failed", text=text[:2000]))

    def _do(self, wish: Wish) -> tuple[bool, str]:
        if wish.verb.startswith("rollout-"):
            return self._change_rollout(wish)
        if wish.verb == "set-desired":
            return self._set_desired(wish)
        return self._order(wish)

    def _opened(self, link: Link) -> Console:
        link.connect()
        view = FleetView(self._settings.fleet)
        link.replay(RETAINED, view.take)
        return Console(settings=self._settings, link=link, view=view)

    def _order(self, wish: Wish) -> tuple[bool, str]:
        with Link(self._settings.broker, self._settings.fleet, self._stop) as link:
            selection, boards = self._opened(link).addressed([wish.address])
        few = len(boards) <= MOST_TOLD

        def told(answer: Answer) -> None:
            if few or (answer.ended and answer.state != "SUCCEEDED"):
                reason = f": {answer.reason}" if answer.reason else ""
                self._say(f"{answer.board}: {WORDS.get(answer.state, answer.state)}{reason}")

        with Ledger(self._folder, SystemClock()) as ledger:
            issuer = operator_name(self._settings)
            sender = Sender(self._settings, issuer, ledger, SystemClock(), self._stop, told=told)
            wanted = Wanted(verb=wish.verb, arguments=wish.arguments)
            following = sender.send(wanted, selection, boards, VERBS[wish.verb].deadline_s + _MORE_S)
        summary = following.summary()
        reasons = [f"{name}: {following.answers[name].reason or 'no reason given'}" for name in summary.failed[:5]]
        self._tell(Told(id=wish.id, state="working", command=following.command))
        return summary.all_succeeded, "; ".join([summary.text, *reasons])

    def _set_desired(self, wish: Wish) -> tuple[bool, str]:
        asked = msgspec.convert(wish.arguments, DesiredWish)
        task: dict[str, Any] = {
            "budgets": asked.budgets or None,
            "objective": asked.objective or None,
            "pin": asked.pin,
        }
        wanted = {"tasks": {asked.task: {name: value for name, value in task.items() if value is not None}}}
        try:
            settings = msgspec.convert(wanted, DesiredSettings)
        except msgspec.ValidationError as error:
            raise ConfigError(f"the desired settings are not valid: {error}", fix="correct that value") from error
        check_settings(settings)
        with Link(self._settings.broker, self._settings.fleet, self._stop) as link:
            takings, _ = ask_for(self._opened(link), [wish.address], settings, _TAKE_S, lambda _scope, _version: None)
        taken = sum(len(taking.taken) for taking in takings)
        refused = {name: reason for taking in takings for name, reason in taking.refused.items()}
        waiting = sum(len(taking.waiting) for taking in takings)
        said = f"taken by {taken}" + (f", not yet by {waiting}" if waiting else "")
        said += "".join(f"; {name} refuses: {reason}" for name, reason in list(refused.items())[:5])
        return not (refused or waiting), said

    def _rollout(self, wish: Wish) -> str:
        wanted = msgspec.convert(wish.arguments, RolloutArguments).rollout
        with RolloutStore(self._folder) as store:
            found = store.find(self._settings.fleet, wanted)
        return f"{found.id} of {found.spec.candidate or 'what each board chooses'} for {found.spec.task}"

    def _change_rollout(self, wish: Wish) -> tuple[bool, str]:
        asked, by, at = msgspec.convert(wish.arguments, RolloutArguments), operator_name(self._settings), _now()
        makes = {
            "rollout-pause": lambda found: pause(found, f"paused by {by}"),
            "rollout-resume": lambda found: resume(found, f"resumed by {by}", at),
            "rollout-abort": lambda found: abort(found, f"aborted by {by}", give_back=asked.undo),
        }
        with RolloutStore(self._folder) as store:
            found = store.find(self._settings.fleet, asked.rollout)
            changed, _ = store.change(found.id, lambda before: (makes[wish.verb](before), ()), at)
        said = f"{changed.id} is {changed.status}"
        return True, said if changed.ended else f"{said}; `boardfit fleet rollout run {changed.id}` drives it"


def _now() -> float:
    return SystemClock().utc().timestamp()
