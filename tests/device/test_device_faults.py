"""One bad file must not end the sweep: every file of every board fails in turn, and any of them may hold anything."""

from __future__ import annotations

import errno
import math
import os
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.device import cgroup, cpu, osinfo, power_mode, power_pmic
from agent.device.board import Board
from agent.device.host import Host
from agent.device.root import SysRoot
from agent.device.throttle import parse_get_throttled
from agent.errors import DeviceError, SensorUnavailableError

BOARDS = Path(__file__).resolve().parents[1] / "boards"
PROFILES = Path(__file__).resolve().parents[2] / "profiles"
CASES = sorted(path.name for path in BOARDS.iterdir() if path.is_dir())


class AlteredRoot(SysRoot):
    """A board's tree in which single files fail or hold something else."""

    def __init__(
        self, path: Path, errors: dict[str, int] | None = None, contents: dict[str, bytes] | None = None
    ) -> None:
        super().__init__(path)
        self.errors, self.contents = errors or {}, contents or {}

    def read_bytes(self, rel: str) -> bytes:
        if rel in self.errors:
            raise OSError(self.errors[rel], os.strerror(self.errors[rel]), rel)
        return self.contents[rel] if rel in self.contents else super().read_bytes(rel)


def files_of(name: str) -> list[str]:
    case = BOARDS / name
    return sorted(
        str(path.relative_to(case))
        for folder in ("proc", "sys", "etc", "var")
        for path in (case / folder).rglob("*")
        if path.is_file()
    )


def sweep(root: SysRoot, clock: Any) -> bytes:
    board = Board(root, PROFILES, clock=clock, host=Host(page_size_bytes=4096))
    document = msgspec.json.encode((board.facts(), board.read_context(), board.read_context(), board.power_absence()))
    for meter in (*board.power_meters(), *board.sensors.power.rail_meters()):
        try:
            meter.read()
        except SensorUnavailableError:
            continue
    return document


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, errno.EAGAIN) for name in CASES]
    + [
        (name, number) for name in ("raspberry-pi-5", "jetson-nano-jetpack4") for number in (errno.EACCES, errno.ENODEV)
    ],
)
def test_any_single_file_may_fail(name: str, number: int, clock: Any) -> None:
    for rel in files_of(name):
        root = AlteredRoot(BOARDS / name, errors={rel: number})
        if rel == "proc/meminfo":
            with pytest.raises(DeviceError, match="how much memory"):
                sweep(root, clock)
        else:
            assert sweep(root, clock)


ANY = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40).map(str.encode),
    st.sampled_from(
        [b"", b"\0", b"-1", b"0", b"99999999999999999999999", b"max", b"0-", b"4-1", b"1 2", b"\xc2\xb2", b"nan"]
    ),
)


@given(name=st.sampled_from(CASES), data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_files_may_hold_anything(name: str, data: st.DataObject, clock: Any) -> None:
    keep = {"proc/meminfo", "proc/cpuinfo"}  # without these two there is no board to speak of
    names = [rel for rel in files_of(name) if rel not in keep]
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=12, unique=True))
    contents = {rel: data.draw(ANY) for rel in chosen}
    assert sweep(AlteredRoot(BOARDS / name, contents=contents), clock)


LINES = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            [
                "processor : 0", "processor: 1", "processor: x", "flags : a b", "name: a: b", ": lost", "",
                "ID=debian", "NAME='a  b'", 'X="it\'s"', "Y='open", "# ID=no",
                "< POWER_MODEL ID=0 NAME=MAXN >", "<POWER_MODEL ID=3 NAME=15W>", "< PM_CONFIG DEFAULT=3 >",
                "3V3_A current(1)=0.5A", "3V3_V volt(2)=3.3V", f"3V3_V volt(2)={'9' * 400}V",
            ]
        )
    ).map("\n".join),
)  # fmt: skip


@given(text=LINES)
def test_what_parsers_read_of_any_text_they_read_again(text: str) -> None:
    cores = cpu.parse_cpuinfo(text)
    blocks = ("\n".join([f"processor: {n}", *(f"{k}: {v}" for k, v in core.items())]) for n, core in cores.items())
    assert cpu.parse_cpuinfo("\n\n".join(blocks)) == cores
    fields = osinfo.parse_os_release(text)
    assert osinfo.parse_os_release("\n".join(f"{k}={shlex.quote(v)}" for k, v in fields.items())) == fields
    names, default = power_mode.parse_conf(text)
    modes = [f"< POWER_MODEL ID={number} NAME={name} >" for number, name in names.items()]
    modes += [] if default is None else [f"< PM_CONFIG DEFAULT={default} >"]
    assert power_mode.parse_conf("\n".join(modes)) == (names, default)


@given(text=st.one_of(LINES, st.from_regex(r"(throttled=)?(0x)?-?[0-9a-f_]{1,9}", fullmatch=True)))
def test_a_throttle_word_is_one_of_32_bits_or_refused_by_name(text: str) -> None:
    try:
        word = parse_get_throttled(text)
    except SensorUnavailableError as error:
        assert "get_throttled" in str(error)
    else:
        assert 0 <= word < 1 << 32
        assert parse_get_throttled(f"throttled={word:#x}") == word


@given(text=st.one_of(LINES, st.from_regex(r"[0-9]{1,3}(-[0-9]{1,3})?(,[0-9]{1,3}(-[0-9]{1,3})?)*", fullmatch=True)))
def test_a_list_of_cpus_is_read_again_or_refused(text: str) -> None:
    try:
        cpus = cgroup.parse_cpu_list(text)
    except ValueError as error:
        assert str(error)
    else:
        assert list(cpus) == sorted(set(cpus))
        assert cgroup.parse_cpu_list(",".join(map(str, cpus))) == cpus


@given(text=LINES)
def test_a_rail_has_finite_watts_or_the_answer_is_refused_by_name(text: str) -> None:
    try:
        powers = power_pmic.parse_pmic(text)
    except SensorUnavailableError as error:
        assert "pmic_read_adc" in str(error)
    else:
        assert powers
        for rail, power_w in powers.items():
            assert f"{rail}_A" in text and f"{rail}_V" in text
            assert math.isfinite(power_w)
