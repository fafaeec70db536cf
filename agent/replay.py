"""Replays the golden inputs of what serves, in a confined child of its own, and keeps what came of it.

Rules:
- Every file of the release is read from the disk and hashed before anything is run: a damaged one is told as such.
- The child runs the release's own file, at the engine, provider and threads that serve, and nothing is timed: loading,
  one inference and the golden samples are all it costs. What an accelerator built for the measurements is used again.
- The seconds count as measuring of the day (``caps.bench_time``); what is stopped in the middle leaves no trace.
- What changes is one event with its figures. Where a pass is wanted, ``Replays`` says so to the daemon, once.

Leaves what a replay means to ``agent.core.drift``, when it is due to ``agent.watch.replaying``.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from agent.clock import iso
from agent.core.deployment import Deployment
from agent.core.drift import TIMES, Change, Replay, figures_text, outcome_of, settled
from agent.core.ports import ProgressEvent
from agent.database import Database
from agent.errors import Interrupted
from agent.reporting import Level
from agent.site import Site

_TABLES = ("CREATE TABLE IF NOT EXISTS golden_replay (task TEXT PRIMARY KEY, document BLOB NOT NULL)",)
_KINDS: dict[Change, tuple[str, Level]] = {
    "damaged": ("release_damaged", "error"), "suspect": ("outputs_differ", "warning"),
    "changed": ("outputs_changed", "error"), "agrees_again": ("outputs_agree_again", "info"),
}  # fmt: skip


class Replays:
    """The newest replay of each task, in an open state database. Raises: StorageError, from every method."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.ensure(_TABLES)

    def all(self) -> dict[str, Replay]:
        """Return the newest of each task; one of a later version is left out."""
        found = {}
        for row in self._database.rows("SELECT task, document FROM golden_replay ORDER BY task"):
            try:
                found[row["task"]] = msgspec.json.decode(row["document"], type=Replay)
            except msgspec.DecodeError:
                continue
        return found

    def keep(self, replay: Replay) -> None:
        """Store one in the place of the task's last."""
        with self._database.transaction() as connection:
            row = (replay.task, msgspec.json.encode(replay))
            connection.execute("INSERT OR REPLACE INTO golden_replay VALUES (?, ?)", row)

    def asked(self) -> str | None:
        """Return why a pass is wanted, and take it as begun; None: none is."""
        wanted = [one for one in self.all().values() if one.asks is not None]
        for one in wanted:
            self.keep(msgspec.structs.replace(one, asks=None))
        return "; ".join(one.asks or "" for one in wanted) or None


def replay(site: Site, task: str) -> Replay | None:
    """Replay what serves a task and keep the result. Returns: None where nothing serves it.

    Raises: Interrupted: a stop was asked for. MeasurementError: no child can be started. StorageError.
    """
    deployer = site.deployer(site.config.task(task))
    document = deployer.status(task).current
    if document is None:
        return None
    site.progress(ProgressEvent(stage="replay", text=f"{task}: {document.candidate} {document.point.label}"))
    begin_s = site.clock.monotonic_s()
    facts = site.records.facts()
    found = Replay(
        task=task, release=document.release, candidate=document.candidate, at=iso(site.clock.utc()), outcome="agrees",
        good_engine_version=document.point.engine_version or None,
        good_kernel=None if facts is None else facts.os.kernel,
    )  # fmt: skip
    damage = deployer.store.find_damage(task, document.release)
    if damage is not None:
        found = msgspec.structs.replace(found, outcome="damaged", reason=damage)
    else:
        with site.ledger.measuring(site.stop) as stop:
            found = _run(site, document, found, stop)
    found = msgspec.structs.replace(found, duration_s=site.clock.monotonic_s() - begin_s)
    return _kept(site, document, found)


def _run(site: Site, document: Deployment, found: Replay, stop: Callable[[], bool]) -> Replay:
    """Run the golden samples in a child. Raises: Interrupted, MeasurementError."""
    from agent.measure.engine_cache import EngineCache
    from agent.measure.release import prove_with_kept
    from agent.runtimes.prove import installed_version
    from agent.runtimes.table import engine_row

    if document.golden is None:
        return msgspec.structs.replace(found, outcome="no_golden")
    folder = site.deployer(site.config.task(found.task)).store.release_folder(found.task, found.release)
    engines = EngineCache(site.engines)
    result = prove_with_kept(
        folder, document, engines=engines, facts=site.records.facts, clock=site.clock, stop=stop, timed=False
    )
    if site.stop() or result.verdict == "interrupted":
        raise Interrupted("stopped on request", fix="run `boardfit replay` again")
    outcome, reason = outcome_of(result.golden, result.verdict, result.reason)
    found = msgspec.structs.replace(
        found, outcome=outcome, reason=reason, kernel=site.board.kernel(),
        engine_version=installed_version(engine_row(document.point.engine)),
    )  # fmt: skip
    if result.golden is None:
        return found
    one = result.golden
    return msgspec.structs.replace(
        found, samples=one.samples, samples_off=one.samples_off, max_abs_error=one.max_abs_error,
        max_rel_error=one.max_rel_error, tolerance=one.tolerance,
    )  # fmt: skip


def _kept(site: Site, document: Deployment, found: Replay) -> Replay:
    """Store a replay, tell what changed with it, and forget what is not known any more."""
    replays = Replays(site.database)
    found, change = settled(replays.all().get(found.task), found)
    forgotten = 0
    if change == "changed" or (change == "agrees_again" and found.asks is not None):
        forgotten = site.records.forget_measurements(found.task, document.point.engine)
    replays.keep(found)
    if change is not None:
        kind, level = _KINDS[change]
        site.report.event(kind, _text(found, change, forgotten), level=level, task=found.task)
    return found


def _text(found: Replay, change: Change, forgotten: int) -> str:
    what = f"{found.candidate}, which serves {found.task}"
    if change == "damaged":
        return f"a file of {what}, is damaged ({found.reason}): the next pass replaces it"
    if change == "agrees_again":
        text = f"{what}, gives the outputs again that it was proven with"
        anew = "what was measured meanwhile is forgotten, and the next pass chooses anew"
        return text if found.asks is None else f"{text}: {anew}"
    gives = "no longer runs" if found.outcome == "fails" else "gives other outputs than it was proven with"
    text = f"{what}, {gives}: {figures_text(found)}; its files are whole. Suspected: {found.cause}"
    if change == "suspect":
        return f"{text}. It is replayed soon; {TIMES} times in a row are a change"
    seen = f"Seen {found.in_a_row} times since {found.since}"
    return f"{text}. {seen}; {forgotten} measurements on that engine are forgotten, and the next pass chooses anew"
