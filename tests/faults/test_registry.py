"""Attacks on the registry, under every state of the board's clock: nothing gets in or is lost, and all mends itself.

Each case: a board that has refreshed and fetched a model; two days later an attacker answers instead of the registry;
then the honest registry is back. How many, and from which seed, is tests/faults/extent.py's.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest

from agent.errors import DownloadError, ExpiredError, TrustError
from agent.registry.cache import Cache
from agent.registry.client import RegistryClient
from agent.registry.floor import read_floor
from agent.registry.http_transport import HttpTransport, Limits
from agent.registry.transport import ByteStream, FileStat, not_found
from tests.faults.attacks import ATTACKS, Attack, Scene
from tests.faults.extent import Extent
from tests.faults.repository import Repository
from tests.faults.table import show
from tests.faults.web import Exchange, Web, serving
from tests.registry.conftest import FakeClock

START = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
LIMITS = Limits(read_s=5.0, headers_s=5.0, rate_bytes_per_s=300.0, rate_window_s=0.1)
CLOCKS = ("1970", "behind the floor", "right", "a day ahead", "past expiry")
ROUNDS_FULL = 4


class NoNetwork:
    """A registry that cannot be reached at all."""

    def stat(self, path: str) -> FileStat:
        """Refuse."""
        raise not_found(path, "nowhere")

    def open_range(
        self, path: str, offset: int = 0, etag: str | None = None, *, length: int | None = None
    ) -> ByteStream:
        """Refuse."""
        raise not_found(path, "nowhere")


class Board:
    """One board's state folder, its clock and the installed root."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root, self.clock = folder, root, FakeClock()

    def client(self, registry: Path | HttpTransport | NoNetwork) -> RegistryClient:
        """Return a client as a fresh process makes it."""
        cache = Cache(self.folder / "cache", reserve_bytes=0)
        over = None if isinstance(registry, Path) else registry
        url = str(registry) if over is None else "http://test"
        return RegistryClient(url, self.root, self.folder / "registry", cache, clock=self.clock, transport=over)

    def kept(self) -> dict[str, bytes]:
        """Return the stored metadata, by role."""
        return {path.stem: path.read_bytes() for path in (self.folder / "registry" / "metadata").glob("*.json")}


class Case:
    """A registry with a history, and a board that has just refreshed. Copied for every attack from one ``template``."""

    def __init__(self, folder: Path, extent: Extent, number: int) -> None:
        chance = extent.chance("history", number)
        self.folder = folder / f"template-{number}"
        self.honest = Repository(self.folder / "honest", START)
        self.honest.add("first", chance.randbytes(300))
        for _ in range(chance.randrange(2)):
            self.honest.publish("root")
        self.honest.publish("timestamp")
        shutil.copytree(self.honest.folder, self.folder / "earlier")
        for step in range(chance.randrange(1, 4)):
            self.honest.later(timedelta(days=1))
            self.honest.add(f"second-{step}", chance.randbytes(chance.randrange(1, 3000)))
        self.board = Board(self.folder / "board", self.folder / "honest/metadata/1.root.json")
        self.board.clock.now = self.refreshed_at = self.honest.now + timedelta(hours=1)
        client = self.board.client(self.honest.folder)
        assert client.refresh().reachable
        self.candidates = client.candidates()
        client.fetch(self.candidates[0].target)

    def begin(self, folder: Path) -> tuple[Scene, Board]:
        """Copy it, and let two days pass."""
        shutil.copytree(self.folder, folder)
        honest = self.honest.copy(folder / "honest")
        honest.later(timedelta(days=2))
        board = Board(folder / "board", folder / "root.json")
        shutil.copy(self.board.root, board.root)
        served = honest.copy(folder / "served")
        return Scene(honest, served, folder / "earlier", None), board  # type: ignore[arg-type]  # chance follows


def attempt(board: Board, attack: Attack, scene: Scene, web: Web) -> tuple[str, str]:
    """Let the board refresh, and fetch where that is attacked. Returns: how it ended, and the sentence."""
    registry: Path | HttpTransport = scene.served.folder
    if scene.wire:
        registry = HttpTransport(web.url, limits=LIMITS)
        web.answer = lambda exchange: answer(scene, exchange)
    client = board.client(registry)
    before = dict(client.status().versions) if board.clock.now < START + timedelta(days=30) else {}
    try:
        status = client.refresh()
        assert not attack.at_fetch or status.reachable, status.stale
        if attack.at_fetch:
            (target,) = [one.target for one in client.candidates() if one.name == "newer"]
            client.fetch(target)
    except ExpiredError as error:
        return "expired", str(error)
    except TrustError as error:
        assert error.fix
        return "refused", str(error)
    except DownloadError as error:
        assert error.fix
        return "away", str(error)
    assert msgspec.json.encode(status)
    if not status.reachable:
        return "away", status.stale or ""
    return ("nothing new" if status.versions == before else "accepted"), ""


def answer(scene: Scene, exchange: Exchange) -> None:
    """Serve the attacker's files, or do what is done on the wire."""
    path = scene.served.folder / exchange.path.lstrip("/")
    data = path.read_bytes() if path.is_file() else b""
    for part, act in scene.wire.items():
        if part in exchange.path:
            act(exchange, data)
            return
    exchange.head(200 if data else 404, len(data))
    exchange.body(data)


def set_clock(board: Board, name: str, case: Case, scene: Scene) -> None:
    """Put the board's clock into one of the five states."""
    truth, days = scene.honest.now, scene.chance.randrange(1, 20)
    board.clock.now = {
        "1970": datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=days),
        "behind the floor": case.refreshed_at - timedelta(days=days),
        "right": truth,
        "a day ahead": truth + timedelta(days=1),
        "past expiry": truth + timedelta(days=30 + days),
    }[name]


def violations(case: Case, attack: Attack, clock: str, one: tuple[Scene, Board], web: Web) -> tuple[str, list[str]]:
    """Attack one board and let it recover. Returns: how the attack ended, and what was not as it must be."""
    wrong: list[str] = []
    scene, board = one
    attack.mount(scene)
    set_clock(board, clock, case, scene)
    stored = (board.folder / "registry/verified.json").read_bytes()
    before = board.kept()
    end, said = attempt(board, attack, scene, web)
    allowed = {attack.see}
    if clock == "past expiry":
        allowed = {"expired", "refused"} | (allowed & {"accepted"})  # who holds the key says when the timestamp ends
    if end not in allowed:
        wrong.append(f"it ended {end!r} ({said}), not {attack.see!r}")
    elif end in ("refused", "away") and clock != "past expiry" and not re.search(re.escape(attack.says), said):
        wrong.append(f"it does not say {attack.says!r}: {said}")
    unchanged = (board.folder / "registry/verified.json").read_bytes() == stored
    if end in ("refused", "expired") and not attack.at_fetch and not unchanged:
        wrong.append("the last verified set changed")
    for role, data in board.kept().items():
        if data != before[role] and data not in scene.honest.written and role not in attack.stolen:
            wrong.append(f"{role} is another than the registry's")
    board.clock.now = scene.honest.now + timedelta(hours=1)
    wrong += unusable(case, board)
    if list((board.folder / "cache/parts").iterdir()) and end != "away":
        wrong.append("a part of the attacker's bytes is left")
    floor = read_floor(board.folder / "registry")
    if floor is None or floor < case.refreshed_at - timedelta(seconds=1):
        wrong.append(f"the floor went back to {floor}")
    wrong += unrecovered(attack, scene, board)
    return end, wrong


def unusable(case: Case, board: Board) -> list[str]:
    """Return what is lost of what the board had, with the clock right again and no registry at all."""
    alone = board.client(NoNetwork())
    try:
        names = [one.name for one in alone.candidates()]
        fetched = alone.fetch(case.candidates[0].target).is_file()
    except (TrustError, DownloadError) as error:
        return [f"what was stored is lost: {error}"]
    wrong = [] if fetched else ["the fetched model is gone"]
    if [name for name in names if name != "newer"] != [one.name for one in case.candidates]:
        wrong.append(f"the candidates became {names}")
    return wrong


def unrecovered(attack: Attack, scene: Scene, board: Board) -> list[str]:
    """Bring the honest registry back, with new keys where some were stolen. Returns: what does not work then."""
    honest = scene.honest
    if attack.stolen:
        honest.rotate(*attack.stolen)
    honest.later(timedelta(minutes=30))
    path = honest.add("after", scene.chance.randbytes(500))
    client = board.client(honest.folder)
    try:
        status = client.refresh()
        ref = client.find(path)
        if not status.reachable or ref is None or not client.fetch(ref).is_file():
            return [f"the honest registry is not followed: {status}"]
    except (TrustError, DownloadError) as error:
        return [f"the honest registry is refused: {error}"]
    return []


@pytest.mark.timeout(7200)
def test_no_attack_on_the_registry_gets_through(
    folder_in_memory: Path, extent: Extent, record_property: Callable[[str, object], None]
) -> None:
    ends: dict[str, Counter[str]] = {attack.kind: Counter() for attack in ATTACKS}
    found: list[str] = []
    with serving() as web:
        for number in range(extent.count(1, 1, ROUNDS_FULL)):
            case = Case(folder_in_memory, extent, number)
            for attack in ATTACKS:
                name = f"{attack.kind}: {attack.way}"
                for clock in clocks(extent, name, number):
                    folder = folder_in_memory / "case"
                    scene, board = case.begin(folder)
                    scene.chance = extent.chance(name, clock, number)
                    end, wrong = violations(case, attack, clock, (scene, board), web)
                    ends[attack.kind][end] += 1
                    found += [f"{name}, clock {clock}, round {number} of seed {extent.seed}: {one}" for one in wrong]
                    shutil.rmtree(folder)
    heads = ("refused", "expired", "nothing new", "away", "accepted")
    rows = [(kind, *(str(ends[kind][head]) for head in heads)) for kind in ends]
    total = sum(sum(one.values()) for one in ends.values())
    title = f"Attacks on the registry, seed {extent.seed}: {total} cases, {len(found)} violations"
    show(record_property, title, ("attack", *heads), rows)
    assert not found, "\n".join(found)


def clocks(extent: Extent, name: str, number: int) -> tuple[str, ...]:
    """Return the states of the clock to try: one in a slice, all otherwise."""
    return (extent.chance(name, number).choice(CLOCKS),) if extent.part == "slice" else CLOCKS


def test_a_board_says_when_its_clock_is_behind_what_was_proved(folder_in_memory: Path, extent: Extent) -> None:
    case = Case(folder_in_memory, extent, 0)
    scene, board = case.begin(folder_in_memory / "case")
    board.clock.now = datetime(1970, 1, 1, tzinfo=timezone.utc)
    status = board.client(scene.honest.folder).refresh()
    assert status.clock_behind_s == pytest.approx((case.refreshed_at - board.clock.now).total_seconds(), abs=1.0)
