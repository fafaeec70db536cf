"""Real verbs, killed at one system call that changes the state: what is prepared, where to kill, what must hold after.

Rules:
- Every point is a fresh copy of a prepared folder, always at the same place. The verb runs in a fork of a warm process
  (``tests.deploy.killing``) under strace; its own children are not traced.
- Where to kill is taken from a trace of the verb when nobody kills it: the calls that change a file below the folder,
  or send something. A number of a call is counted per name, as strace counts. A verb that was not killed there (it
  took another way) is no point and another one is tried.
- After the kill what serves is looked at as it is, then the board recovers, then the verb is given again.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from agent.config import load_config
from agent.database import FILE_NAME, Database
from agent.deploy.journal import Journal
from agent.deploy.phases import is_settled
from agent.deploy.store import CURRENT, PREVIOUS, ReleaseStore
from agent.enrolment import certificates
from agent.enrolment.authority import Authority
from agent.records import Records
from agent.registry.author import add, init
from agent.registry.serve import RegistryServer
from tests.deploy.killing import HERE, KILLED, Orders
from tests.registry.samples import evaluation_pack, onnx_model

TASK = "digits"
NAMES = ("one", "two", "late")
MODULES = (
    "agent.cli", "agent.verbs.passes", "agent.verbs.enroll", "agent.enrolment.identity", "agent.registry.client",
    "agent.registry.http_transport", "agent.registry.fetch", "agent.deploy.executor", "agent.daemon",
    "agent.orders.desk", "agent.report.publisher", "tests.faults.children",
)  # fmt: skip
CALLS = (
    "/^rename,/^link,/^symlink,/^unlink,/^mkdir,/^rmdir,/^f?chmod,/^f?chown,/^f(data)?sync,/^p?write,/^f?truncate,"
    "/^fallocate,/^utime,/^send,/^openat"
)
_STRAY = re.compile(r"\..*\.tmp|staging|.*\.damaged-\d+")


class Point(NamedTuple):
    """The ``number``-th call of this name."""

    call: str
    number: int

    def tracer(self) -> tuple[str, ...]:
        """Return strace's command line that kills there."""
        kill = f"inject={self.call}:signal=KILL:when={self.number}"
        return ("strace", "-o", "/dev/null", "-e", f"trace={self.call}", "-e", kill)


class Case(NamedTuple):
    """One verb from one prepared state.

    ``order`` is a command line after ``boardfit``. ``where`` is what a call's line must contain; ``check`` looks at the
    folder after the verb was given again. ``codes`` are its exit codes when nobody kills it.
    """

    row: str
    name: str
    state: str
    order: str
    before: str | None = None
    after: str | None = None
    tried: str | None = None
    codes: tuple[int, ...] = (0,)
    where: Callable[[str], bool] = lambda line: True
    check: Callable[[Yard], list[str]] = lambda yard: []


class Yard:
    """One folder where boards are made, killed and looked at."""

    def __init__(self, folder: Path, errors: int | None = None) -> None:
        self.folder, self.work = folder, folder / "work"
        self.config, self.state = self.work / "agent.yaml", self.work / "state"
        self.orders = Orders(*MODULES, errors=errors)
        self.server = RegistryServer(folder / "old", ("127.0.0.1", 0))
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.died_again = False
        self._points: dict[str, tuple[Point, ...]] = {}

    def close(self) -> None:
        self.orders.close()
        self.server.shutdown()
        self.server.server_close()

    # --- what is prepared ---

    def publish(self) -> None:
        """Make a registry, as it was (``old``) and as it is (``new``)."""
        now = datetime.now(timezone.utc)
        made, keys = self.folder / "new", self.folder / "keys"
        init(made, keys, now=now)
        pack = evaluation_pack(self.folder / "pack.npz")
        for number, name in enumerate(NAMES):
            if number == len(NAMES) - 1:
                shutil.copytree(made, self.folder / "old")
            model = onnx_model(self.folder / f"{name}.onnx", ir_version=7 + number)
            add(made, model, task=TASK, name=name, keys_dir=keys, now=now, evaluation=pack)

    def prepare(self) -> None:
        """Make every state that a case begins in, one from the other."""
        self.publish()
        self.work.mkdir()
        hook = 'echo "$BOARDFIT_EVENT $BOARDFIT_CANDIDATE" >> "$1"'
        task = {"objective": ["minimize size"]}
        task["hook"] = {"command": ["/bin/sh", "-c", hook, "hook", str(self.work / "hook.log")]}  # type: ignore[assignment]
        root = self.folder / "root.json"
        shutil.copy(self.folder / "new" / "root.json", root)
        self.write({"registry": {"url": self.server.url, "root": str(root)}, "tasks": {TASK: task}})
        self.keep("empty")
        self.give("sync")
        self.keep("old")
        self.server.directory = self.folder / "new"
        self.give("sync")
        self.keep("synced")
        self.give("bench --exhaustive")
        self.keep("benched")
        for name in NAMES[:2]:
            self.give(f"deploy --task {TASK} --candidate {name}")
            self.keep(name)
        self.prepare_identity()

    def prepare_identity(self) -> None:
        """Make a board that has asked to be enrolled, one that was, and certificates for it, in ``signed``."""
        authority = Authority.make(self.folder / "authority", name="test fleet", now=datetime.now(timezone.utc))
        self.bring("empty")
        self.write({"tasks": {}})
        self.keep("nobody")
        self.give("enroll --fleet plant --device pi")
        (request,) = (self.work / "mqtt").glob("*.csr")
        for number in (1, 2):
            signed = authority.sign(request, now=datetime.now(timezone.utc), days=30.0 * number)
            shutil.copy(signed.certificate, self.folder / f"signed-{number}.pem")
        self.keep("asked")
        self.give(self.installing(1))
        self.keep("enrolled")

    def installing(self, number: int) -> str:
        """Return the words that take a certificate."""
        files = f"--certificate {self.folder}/signed-{number}.pem --ca {self.folder}/authority/ca.pem"
        return f"enroll {files} --broker mqtts://127.0.0.1:1 --no-check"

    def write(self, document: dict[str, Any]) -> None:
        self.config.write_text(yaml.safe_dump(document))

    def keep(self, name: str) -> None:
        shutil.copytree(self.work, self.folder / "states" / name, symlinks=True)

    def bring(self, name: str) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.folder / "states" / name, self.work, symlinks=True)

    def line(self, words: str) -> str:
        """Return the whole command line of an order."""
        state = "" if words.startswith("enroll") else f" --state-dir {self.state}"
        return f"boardfit {words} --json --config {self.config}{state}"

    def give(self, words: str) -> None:
        """Carry out an order that nobody kills, in the warm process itself: what it loads no fork needs to."""
        code = self.orders(self.work, self.line(words), HERE)
        assert code == 0, f"{words}: exit code {code}"

    # --- where to kill ---

    def points(self, case: Case) -> tuple[Point, ...]:
        """Return every call of a case that changes something, from a trace of it."""
        key = f"{case.row}/{case.name}"
        if key not in self._points:
            self.bring(case.state)
            trace = self.folder / "trace"
            tracer = ("strace", "-y", "-o", str(trace), "-e", f"trace={CALLS}")
            code = self.orders(self.work, self.line(case.order), tracer=tracer)
            assert code in case.codes, f"{case.order}: exit code {code}"
            self._points[key] = tuple(points_of(trace.read_text(), str(self.work), case.where))
        return self._points[key]

    def killed(self, case: Case, point: Point) -> bool:
        """Kill a case's verb there. Returns: whether it was."""
        self.bring(case.state)
        return self.orders(self.work, self.line(case.order), tracer=point.tracer()) == KILLED

    # --- what must hold ---

    def serving(self, link: str = CURRENT) -> tuple[str | None, str | None]:
        """Return the candidate behind a link and what is wrong with its release."""
        store = ReleaseStore(self.state / "deploy")
        release = store.linked(TASK, link)
        if release is None:
            return None, None
        document = store.read(TASK, release)
        return document.candidate if document else None, store.find_damage(TASK, release)

    def damage(self, *allowed: str | None) -> list[str]:
        """Return what is wrong with what serves."""
        candidate, wrong = self.serving()
        found = [] if wrong is None else [f"the serving release is damaged: {wrong}"]
        return found if candidate in allowed else [*found, f"{candidate} serves, allowed: {allowed}"]

    def unsettled(self) -> list[str]:
        if not (self.state / FILE_NAME).exists():
            return []
        with Database(self.state / FILE_NAME) as database:
            rows = [(one.task, one.phase) for one in Journal(database).records() if not is_settled(one.phase)]
            aside = [] if database.set_aside is None else ["the database was damaged"]
        return aside + [f"{task} is left in phase {phase}" for task, phase in rows]

    def stray(self) -> list[str]:
        """Return what a cut left behind: temporary files, half releases, parts of downloads."""
        found = [str(path.relative_to(self.work)) for path in self.work.rglob("*") if _STRAY.fullmatch(path.name)]
        parts = self.state / "cache" / "parts"
        found += [f"part {path.name}" for path in parts.iterdir()] if parts.is_dir() else []
        store = ReleaseStore(self.state / "deploy")
        kept = {store.linked(TASK, CURRENT), store.linked(TASK, PREVIOUS)}
        releases = self.state / "deploy" / TASK / "releases"
        there = {path.name for path in releases.iterdir()} if releases.is_dir() else set()
        return [f"left over: {one}" for one in found + sorted(there - kept)]

    def after(self, case: Case, *, recovery: Sequence[str] = ()) -> list[str]:
        """Return what does not hold after a kill: before, during and after recovery, and when the verb is given again.

        Args: recovery: what strace is told for the first recovery, which is killed then; another one follows.
        """
        found = self.damage(case.before, case.after, case.tried)
        deploys = case.row in ("deploy", "rollback")
        if deploys:
            if recovery:
                self.died_again = self.orders(self.work, self.line("recover"), tracer=recovery) == KILLED
                found += self.damage(case.before, case.after, case.tried)
            found += self._given("recover", (0,))
            found += self.damage(case.before, case.after) + self.unsettled() + self.stray()
        elif recovery:
            self.died_again = self.orders(self.work, self.line(case.order), tracer=recovery) == KILLED
        if case.row != "rollback" or self.serving()[0] != case.after:
            found += self._given(case.order, case.codes)
        found += self.damage(case.after) + self.unsettled() + self.stray()
        return found + case.check(self)

    def _given(self, words: str, codes: tuple[int, ...]) -> list[str]:
        code = self.orders(self.work, self.line(words))
        return [] if code in codes else [f"`{words}` ended with exit code {code}"]


def points_of(trace: str, folder: str, where: Callable[[str], bool]) -> list[Point]:
    """Return the calls of a trace that change something below a folder, or send."""
    seen: Counter[str] = Counter()
    found = []
    for line in trace.splitlines():
        name = line.partition("(")[0]
        if not re.fullmatch(r"\w+", name):
            continue
        seen[name] += 1
        opens = name.startswith("open") and "O_CREAT" not in line and "O_TRUNC" not in line
        ours = folder in line and "boardfit.db-shm>" not in line  # SQLite makes it anew after a crash
        if (ours or name.startswith("send") or "socket:[" in line) and not opens and where(line):
            found.append(Point(name, seen[name]))
    return found


def measured_once(yard: Yard) -> list[str]:
    """Return what was stored twice, or not."""
    with Database(yard.state / FILE_NAME) as database:
        records = Records(database)
        facts = records.facts()
        found = records.measurements(TASK, facts.class_fingerprint) if facts else ()
    missing = set(NAMES) - {one.candidate for one in found}
    twice = len(found) - len({(one.candidate, one.point) for one in found})
    return [f"no measurement of {name} is stored" for name in sorted(missing)] + ["one is stored twice"] * twice


def identity(yard: Yard) -> list[str]:
    """Return what is not whole of a board's key, request, certificate and configuration."""
    mqtt = yard.work / "mqtt"
    keys, requests = sorted(mqtt.glob("*.key")), sorted(mqtt.glob("*.csr"))
    found = [] if len(keys) == 1 else [f"{len(keys)} keys"]
    if [path.stem for path in keys] != [path.stem for path in requests]:
        found.append("keys and requests are not of each other")
    for key in keys:
        if key.stat().st_mode & 0o077:
            found.append("others may read the key")
        if certificates.key_id(certificates.load_key(key).public_key()) != key.stem:
            found.append("the key is not the one it is named after")
    told = load_config(yard.config).mqtt
    if told is not None and (told.cert is None or told.ca is None or told.key != keys[0]):
        found.append("the configuration names no pair")
    elif told is not None and told.cert is not None:
        data = certificates.read_public(told.cert, "the certificate")
        public = certificates.parse_certificates(data, told.cert)[0].public_key()
        if certificates.key_id(public) != keys[0].stem:
            found.append("the certificate is not the key's")
    return found


def in_cache(line: str) -> bool:
    return "/state/cache/" in line or "socket:[" in line


def cases(yard: Yard) -> tuple[Case, ...]:
    """Return every verb that is killed, but for those that need a broker."""
    deploy, hand_back = f"deploy --task {TASK} --candidate ", f"rollback --task {TASK}"
    return (
        Case("enroll", "request", "nobody", "enroll --fleet plant --device pi", check=identity),
        Case("enroll", "certificate", "asked", yard.installing(1), check=identity),
        Case("enroll", "renewal", "enrolled", yard.installing(2), check=identity),
        Case("sync", "first", "empty", "sync"),
        Case("sync", "newer", "old", "sync"),
        Case("download", "three models", "synced", "bench --exhaustive", where=in_cache, check=measured_once),
        Case("bench", "three models", "synced", "bench --exhaustive", where=lambda line: not in_cache(line),
             check=measured_once),
        Case("deploy", "the first", "benched", deploy + "one", after="one"),
        Case("deploy", "the second", "one", deploy + "two", before="one", after="two"),
        Case("deploy", "back to the first", "two", deploy + "one", before="two", after="one"),
        Case("deploy", "one that fails in probation", "two", deploy + "late", before="two", after="two",
             tried="late", codes=(5,)),
        Case("rollback", "by hand", "two", hand_back, before="two", after="one"),
    )  # fmt: skip
