"""What reads sensors and recorded boards."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.faults.parsers import spoil
from tests.faults.parsers.target import JSON, ROOT, Target, encode, own_folder

BOARDS = ROOT / "tests" / "boards"
_CUT = b"\n@@"  # between the files of one input: number, then content


#: Only these boards, where all are too many.
SAMPLED: list[str] = []


@lru_cache(maxsize=64)
def _names(board: str) -> tuple[str, ...]:
    """Return the files that are read of a board, in the order they are asked for."""
    return tuple(_read(BOARDS / board, {}))


def _boards() -> tuple[str, ...]:
    return tuple(sorted(one.name for one in BOARDS.iterdir() if one.is_dir()))


def _read(folder: Path, instead: dict[str, bytes]) -> dict[str, bytes]:
    """Read a board with some of its files replaced. Returns: what was read."""
    from agent.device import board as board_module
    from agent.device import case, profiles
    from agent.device.host import Host

    asked: dict[str, bytes] = {}

    class Spoiled(case.CaseRoot):
        def read_bytes(self, rel: str) -> bytes:
            asked[rel] = instead[rel] if rel in instead else super().read_bytes(rel)
            return asked[rel]

    profiles.load_all = _profiles_once  # loading them anew for every input is most of the work
    board_module.parser_is_loaded = lambda: True  # in this process
    notes = case._read(folder / case.NOTES, case.Notes, case.Notes())
    host = case._read(folder / case.HOST, Host, Host())
    made = board_module.Board(
        Spoiled(folder, notes), None, affinity=host.affinity, clock=case.StillClock(), host=host,
        firmware=case._firmware(folder / case.FIRMWARE, notes),
    )  # fmt: skip
    case.observe(made)
    for ask in (
        made.clock_synced, made.on_mains, made.usable_cores, made.hardware, lambda: made.device_id,
        lambda: made.process_memory(1), lambda: made.scheduler_counters(1), lambda: made.processor_ticks(1),
        lambda: made.written_bytes(1),
    ):  # fmt: skip
        ask()
    return asked


@lru_cache(maxsize=4)
def _profiles_once(folder: Path) -> Any:
    return _LOAD_ALL(folder)


def _sensors(data: bytes) -> object:
    boards = _boards()
    board = boards[data[0] % len(boards)] if data else boards[0]
    names = _names(board)
    instead = {}
    for part in data[1:].split(_CUT)[:20]:
        if len(part) > 1:
            instead[names[int.from_bytes(part[:2], "big") % len(names)]] = part[2:]
    return _read(BOARDS / board, instead)


def _meter(data: bytes) -> object:
    from agent.device.power_meter_kinds import talk

    heard = []
    for kind, component in (("shelly", "switch:0"), ("shelly-gen1", "relay:0"), ("tasmota", None), ("tasmota", "1")):
        meter = talk(kind, "plug", component, "us")  # type: ignore[arg-type]
        for topic in meter.patterns:
            try:
                heard.append(meter.hear(topic, data))
            except ValueError as error:
                assert str(error).startswith("it answers")
    return heard


def _sensor_seeds() -> tuple[tuple[int, bytes], ...]:
    found: list[tuple[int, bytes]] = []
    for number, board in enumerate(_boards()):
        if board not in (SAMPLED or _boards()):
            continue
        read = _read(BOARDS / board, {})
        for place, name in enumerate(read):
            found.append((0, bytes([number]) + place.to_bytes(2, "big") + read[name][:20_000]))
    meters = (
        {"id": 1, "result": {"apower": 5.2, "aenergy": {"total": 46791.262}}}, {"apower": 5, "aenergy": {"total": 3}},
        {"StatusSNS": {"ENERGY": {"Power": [5, 7], "Total": [1.25, 2]}}}, {"error": {"code": 1, "message": "no"}},
    )  # fmt: skip
    return (*found, *((1, encode(one)) for one in meters), (1, b"12.5"))


def _spoiled_sensors(chance: Any, data: bytes) -> bytes:
    """Spoil one to four of a board's files."""
    board, parts = data[:1], []
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = data[1:3] if not parts else chance.randrange(400).to_bytes(2, "big")
        content = data[3:] if not parts else chance.choice(spoil.WEIRD_TEXTS).encode("utf-8", "replace")[:2000]
        parts.append(place + spoil.spoiled_bytes(chance, content).replace(_CUT, b""))
    return board + _CUT.join(parts)


def _capture(data: bytes) -> object:
    """A folder that a stranger sends: its three JSON files and what its firmware said."""
    from agent.device import case, profiles

    profiles.load_all = _profiles_once
    folder = Path(own_folder()) / "case"
    (folder / "proc").mkdir(parents=True, exist_ok=True)
    (folder / "sys").mkdir(exist_ok=True)
    (folder / case.FIRMWARE).mkdir(exist_ok=True)
    name = (case.HOST, case.NOTES, f"{case.FIRMWARE}/get_throttled", f"{case.FIRMWARE}/pmic_read_adc", "proc/cpuinfo")[
        data[0] % 5 if data else 0
    ]
    path = folder / name
    path.write_bytes(data[1:])
    try:
        return case.observe(case.open_case(folder))
    finally:
        path.unlink()


def _capture_seeds() -> tuple[tuple[int, bytes], ...]:
    found = []
    for board in _boards():
        for number, name in enumerate(
            ("host.json", "case.json", "vcgencmd/get_throttled", "vcgencmd/pmic_read_adc", "proc/cpuinfo")
        ):
            path = BOARDS / board / name
            if path.is_file():
                found.append((0, bytes([number]) + path.read_bytes()[:20_000]))
    notes = {
        "errors": {"proc/meminfo": "EIO"},
        "links": {"sys/class/a": "b"},
        "firmware": {"get_throttled": ["denied", "x"]},
    }
    return (*found, (0, b"\1" + encode(notes)))


def _spoiled_capture(chance: Any, data: bytes) -> bytes:
    return data[:1] + (spoil.spoiled_json if data[:1] in b"\0\1" else spoil.spoiled_bytes)(chance, data[1:])


def _load_all_of_profiles() -> Any:
    from agent.device import profiles

    return profiles.load_all


_LOAD_ALL = _load_all_of_profiles()


MADE = (
    Target("sensors", (_sensors, _meter), _sensor_seeds, (_spoiled_sensors, JSON)),
    Target("capture", (_capture,), _capture_seeds, (_spoiled_capture,)),
)
