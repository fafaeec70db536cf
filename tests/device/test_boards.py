"""Every folder of tests/boards is a board: read whole, compared whole.

A new board is a new folder. With BOARDFIT_WRITE_EXPECTED=1 in the environment this file writes expected.json, which is
then read by a person before it is committed. ``PROMISES`` was written by hand and is checked beside it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from agent.device.board import Board
from agent.device.case import observe, open_case
from agent.device.root import SysRoot
from agent.errors import SensorUnavailableError

BOARDS = Path(__file__).resolve().parents[1] / "boards"
PROFILES = Path(__file__).resolve().parents[2] / "profiles"
CASES = sorted(path.name for path in BOARDS.iterdir() if path.is_dir())


def board_of(case: Path, clock: Any) -> Board:
    return open_case(case, PROFILES, clock)


@pytest.mark.parametrize("name", CASES)
def test_board_reads_as_expected(name: str, clock: Any) -> None:
    case = BOARDS / name
    seen = json.loads(json.dumps(observe(board_of(case, clock))))
    path = case / "expected.json"
    if os.environ.get("BOARDFIT_WRITE_EXPECTED"):
        path.write_text(json.dumps(seen, indent=1, ensure_ascii=False) + "\n")
    assert seen == json.loads(path.read_text())
    assert (case / "ORIGIN.md").read_text().startswith("# ")


# case: profile, board temperature, zone, first meter, its watts
PROMISES = {
    "raspberry-pi-zero-2-w": ("raspberry-pi-zero-2-w", 45.084, "cpu-thermal", None, None),
    "raspberry-pi-3b-plus": ("raspberry-pi-3b-plus", 62.832, "cpu-thermal", None, None),
    "raspberry-pi-4b": ("raspberry-pi-4b", 41.868, "cpu-thermal", None, None),
    "raspberry-pi-5": ("raspberry-pi-5", 50.7, "cpu-thermal", "pmic:paired rails", 3.243179),
    "raspberry-pi-5-weak-supply": ("raspberry-pi-5", 84.5, "cpu-thermal", None, None),
    "jetson-nano-jetpack4": ("jetson-nano", 28.5, "CPU-therm", "ina3221:POM_5V_IN", 0.933),
    "jetson-tx2-denver-off": ("jetson-tx2", 34.0, "MCPU-therm", None, None),
    "jetson-orin-nano-super": ("jetson-orin-nano", 63.781, "tj-thermal", "ina3221:VDD_IN", 9.250304),
    "jetson-agx-orin-pinned": (
        "jetson-agx-orin",
        48.5,
        "tj-therm",
        "ina3221:VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0",
        6.713552,
    ),
    "rock-5b-hot": ("rock-5b", 85.923, "package-thermal", None, None),
    "x86-64-laptop": ("generic-x86-64", 52.0, "x86_pkg_temp", "battery:BAT0", 9.5816),
    "vm-kvm": ("virtual-machine", None, None, None, None),
    "unknown-arm64": ("generic-arm64", 51.0, "soc-thermal", None, None),
    "raspberry-pi-3b-weak-supply": ("raspberry-pi-3b", 55.844, "cpu-thermal", None, None),
    "raspberry-pi-cm4": ("raspberry-pi-cm4", 48.2, "cpu-thermal", None, None),
    "raspberry-pi-500": ("raspberry-pi-500", 47.4, "cpu-thermal", "pmic:paired rails", 3.243179),
    "jetson-xavier-nx": ("jetson-xavier-nx", 41.5, "CPU-therm", "ina3221:VDD_IN", 4.4856),
    "jetson-agx-xavier": ("jetson-agx-xavier", 41.5, "CPU-therm", "ina3221:GPU+CPU+SOC+CV+VDDRQ+SYS5V", 6.92838),
    "jetson-tx2-jetpack4": ("jetson-tx2", 36.0, "MCPU-therm", "ina3221:VDD_IN", 1.22),
    "jetson-orin-nx-over-current": ("jetson-orin-nx", 51.0, "tj-thermal", "ina3221:VDD_IN", 29.408808),
    "jetson-agx-thor": ("jetson-agx-thor", 42.5, "tj-thermal", "ina2xx:VIN", 23.0),
    "coral-dev-board-hot": ("coral-dev-board", 58.0, "cpu-thermal", None, None),
    "beaglebone-ai-64": ("beaglebone-ai-64", 47.3, "mpu-thermal", None, None),
    "broken-sensors": ("raspberry-pi-4b", None, None, None, None),
}


@pytest.mark.parametrize("name", CASES)
def test_promise_by_hand(name: str, clock: Any) -> None:
    board = board_of(BOARDS / name, clock)
    context = board.read_context()
    meters = board.power_meters()
    first = meters[0].read().power_w if meters else None
    assert (
        board.facts().board.profile,
        context.temperature_celsius,
        context.temperature_zone,
        meters[0].name if meters else None,
        None if first is None else round(first, 6),
    ) == PROMISES[name]


def test_throttle_state_of_each_family(clock: Any) -> None:
    def now(name: str) -> tuple[Any, ...]:
        reading = board_of(BOARDS / name, clock).read_context()
        return reading.throttle_now, reading.throttle_counts, reading.supply_ok

    assert now("raspberry-pi-4b") == ((), None, True)
    assert now("raspberry-pi-3b-plus") == (("soft_temperature_limit",), None, True)
    assert now("raspberry-pi-5-weak-supply") == (("under_voltage", "throttled"), None, False)
    assert now("jetson-orin-nano-super") == ((), {"oc1": 0, "oc2": 0, "oc3": 27390}, None)
    assert now("jetson-agx-orin-pinned") == (("cpu-throttle-alert",), {"oc1": 0, "oc2": 0, "oc3": 0}, None)
    assert now("rock-5b-hot") == (("cpufreq-cpu4", "cpufreq-cpu6"), None, None)
    assert now("x86-64-laptop") == (None, {"core_throttle": 6, "package_throttle": 7}, None)
    assert now("vm-kvm") == (None, None, None)
    assert now("raspberry-pi-3b-weak-supply") == ((), None, True)
    assert now("raspberry-pi-cm4") == (None, None, True)  # what would tell is not there
    assert now("jetson-xavier-nx") == (None, None, None)
    assert now("jetson-orin-nx-over-current") == (("VDD_IN_over_current",), {"oc1": 0, "oc2": 4, "oc3": 27390}, None)
    assert now("coral-dev-board-hot") == (("apex_0_trip_point",), None, None)


# case: names of the traps that hold there, by hand
TRAPS = {
    "raspberry-pi-zero-2-w": {"memory_cgroup_off", "userland_32bit"},
    "raspberry-pi-3b-weak-supply": {"memory_cgroup_off", "supply_weak", "throttled_before"},
    "raspberry-pi-3b-plus": {"memory_cgroup_off", "throttled_now", "throttled_before"},
    "raspberry-pi-cm4": {"memory_cgroup_off"},
    "raspberry-pi-500": {"memory_cgroup_off", "pages_16k"},
    "jetson-tx2-denver-off": {"cores_offline", "power_mode_not_default"},
    "jetson-tx2-jetpack4": {"power_mode_not_default"},
    "jetson-xavier-nx": {"power_mode_not_default"},
    "jetson-agx-xavier": set(),
    "jetson-orin-nx-over-current": {"power_mode_not_default", "throttled_now"},
    "jetson-agx-thor": set(),
    "coral-dev-board-hot": {"throttled_now"},
    "beaglebone-ai-64": set(),
}


@pytest.mark.parametrize("name", TRAPS)
def test_traps_by_hand(name: str, clock: Any) -> None:
    assert {trap.partition(":")[0] for trap in board_of(BOARDS / name, clock).facts().traps} == TRAPS[name]


def test_usable_threads_follow_affinity_and_quota(clock: Any) -> None:
    laptop = board_of(BOARDS / "x86-64-laptop", clock).facts()
    assert (laptop.cpu.quota_cores, laptop.cpu.worker_threads) == (1.5, 1)
    assert laptop.memory.limit_bytes == 2 << 30
    tx2 = board_of(BOARDS / "jetson-tx2-denver-off", clock).facts()
    assert (tx2.cpu.present, tx2.cpu.usable) == ((0, 1, 2, 3, 4, 5), (0, 3, 4, 5))
    narrow = Board(SysRoot(BOARDS / "raspberry-pi-4b"), PROFILES, affinity=(2, 3), clock=clock).facts()
    assert narrow.cpu.usable == (2, 3)
    assert narrow.class_fingerprint != board_of(BOARDS / "raspberry-pi-4b", clock).facts().class_fingerprint


def test_every_meter_of_every_board_reads_or_says_why(clock: Any) -> None:
    for name in CASES:
        board = board_of(BOARDS / name, clock)
        for meter in board.power_meters():
            try:
                assert (meter.read().power_w or 0.0) >= 0.0
            except SensorUnavailableError as error:
                assert error.facts["state"] in {"absent", "denied", "broken"}
        assert board.power_absence()


def test_sensor_that_is_not_ok_has_a_reason(clock: Any) -> None:
    for name in CASES:
        for sensor in board_of(BOARDS / name, clock).facts().sensors:
            assert (sensor.status == "ok") == (sensor.reason is None), (name, sensor)
