"""Every sensor source in its unhappy states: denied, broken, duplicate, gated, wrapped, absent."""

from __future__ import annotations

import errno
import subprocess
from typing import Any

import pytest

from agent.core.facts import EngineFacts
from agent.core.ports import PowerSample
from agent.device import (
    accelerators,
    edge_tpu,
    fan,
    power_battery,
    power_ina2xx,
    power_ina3221,
    power_mode,
    power_pmic,
    power_rapl,
    thermal,
    traps,
    vcgencmd,
)
from agent.device.board import Board
from agent.device.outside import Fit
from agent.device.profiles import AcceleratorSpec, PowerModes, PowerSpec, ThermalSpec
from agent.device.root import state_of
from agent.device.throttle import ThrottleSources, names_ever, names_now, parse_get_throttled
from agent.errors import SensorUnavailableError

ZONE = "sys/class/thermal/thermal_zone"
HWMON = "sys/class/hwmon/hwmon"
RAPL = "sys/class/powercap/intel-rapl:0"


def zones(*pairs: tuple[str, str]) -> dict[str, str]:
    return {
        f"{ZONE}{n}/{key}": text
        for n, pair in enumerate(pairs)
        for key, text in zip(("type", "temp"), pair, strict=True)
    }


def chip(number: int, name: str, **files: object) -> dict[str, str]:
    return {f"{HWMON}{number}/name": name} | {f"{HWMON}{number}/{key}": str(value) for key, value in files.items()}


def test_a_gated_zone_does_not_end_the_sweep(tree: Any) -> None:
    root = tree(
        zones(("cpu-thermal", "63625"), ("gpu-thermal", "0"), ("cv0-thermal", "0"), ("tj-thermal", "0")),
        {f"{ZONE}1/temp": errno.EAGAIN, f"{ZONE}2/temp": errno.EINVAL, f"{ZONE}3/temp": errno.EAGAIN},
    )
    found = thermal.find_zones(root, ThermalSpec())
    reading, notes = thermal.read_board(root, found, ThermalSpec(board_zone_types=("tj-thermal",)))
    assert (reading, len(notes)) == ((63.625, "cpu-thermal"), 1)
    states = [(fact.name, fact.status) for fact in thermal.describe(root, found)]
    assert states == [
        ("thermal:cpu-thermal", "ok"),
        ("thermal:gpu-thermal", "broken"),
        ("thermal:cv0-thermal", "broken"),
        ("thermal:tj-thermal", "broken"),
    ]


def test_constant_zone_is_never_the_board(tree: Any) -> None:
    root = tree(zones(("PMIC-Die", "100000"), ("CPU-therm", "30000")))
    found = thermal.find_zones(root, ThermalSpec())
    assert thermal.read_board(root, found, ThermalSpec())[0] == (30.0, "CPU-therm")


def test_package_chip_stands_in_where_there_is_no_cpu_zone(tree: Any) -> None:
    root = tree(zones(("acpitz", "20000")) | chip(0, "k10temp", temp1_input=51250))
    found = thermal.find_zones(root, ThermalSpec())
    assert thermal.read_board(root, found, ThermalSpec())[0] == (51.25, "k10temp")


def test_duplicate_chip_names_stay_apart_and_are_no_total(tree: Any, clock: Any) -> None:
    rails = {"in1_label": "VDD_IN", "in1_input": 5000, "curr1_input": 1000}
    root = tree(chip(0, "ina3221", **rails) | chip(1, "ina3221", **rails))
    found = power_ina3221.find_rails(root)
    spec = PowerSpec(total_rail="VDD_IN", total_scope="module")
    assert [fact.name for fact in power_ina3221.describe(root, spec, found)] == [
        "ina3221:VDD_IN@hwmon0/in1",
        "ina3221:VDD_IN@hwmon1/in1",
    ]
    assert power_ina3221.meters(root, clock, spec, found) == ()
    assert [meter.scope for meter in power_ina3221.rail_meters(root, clock, found)] == ["rails", "rails"]


def test_rail_below_zero_is_zero_and_unreadable_rail_is_stated(tree: Any, clock: Any) -> None:
    files = {"in1_label": "GPU", "in1_input": 5000, "curr1_input": -80, "in2_label": "CPU", "in2_input": 5000}
    root = tree(chip(0, "ina3221", **files))
    gpu, processor = power_ina3221.find_rails(root)
    assert gpu.read_w(root) == 0.0
    statuses = [fact.status for fact in power_ina3221.describe(root, PowerSpec(), (gpu, processor))]
    assert statuses == ["ok", "absent"]
    spec = PowerSpec(sum_rails=("GPU", "CPU"))
    assert power_ina3221.meters(root, clock, spec, (gpu, processor)) == ()


def test_meter_says_when_its_rail_breaks_later(tree: Any, clock: Any) -> None:
    root = tree(chip(0, "ina3221", in1_label="VDD_IN", in1_input=5000, curr1_input=1000))
    spec = PowerSpec(total_rail="VDD_IN", total_scope="module")
    (meter,) = power_ina3221.meters(root, clock, spec, power_ina3221.find_rails(root))
    assert meter.read() == PowerSample(monotonic_s=100.0, power_w=5.0)
    root.errors[f"{HWMON}0/curr1_input"] = errno.EIO
    with pytest.raises(SensorUnavailableError, match="EIO"):
        meter.read()


def test_ina3221_carries_step_gain_error_and_offset_where_its_shunt_is_known(tree: Any, clock: Any) -> None:
    rail = {"in1_label": "VDD_IN", "in1_input": 5000, "curr1_input": 1000, "shunt1_resistor": 5000}
    root = tree(chip(0, "ina3221", update_interval=7, **rail))
    spec = PowerSpec(total_rail="VDD_IN", total_scope="module")
    (meter,) = power_ina3221.meters(root, clock, spec, power_ina3221.find_rails(root))
    sample = meter.read()
    assert meter.period_s == 0.02
    assert sample.resolution_w == pytest.approx(5.0 * 0.008 + 1.0 * 0.008)
    assert sample.offset_w == pytest.approx(5.0 * 0.016 + 1.0 * 0.016)
    assert sample.accuracy_ratio == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("interval_ms", "samples", "period_s"), [(7, 16, 0.112), (106, 16, 0.106), (7, 1, 0.02), (0, 16, 0.1)]
)
def test_ina3221_averaging_is_part_of_its_period(tree: Any, interval_ms: int, samples: int, period_s: float) -> None:
    rail = {"in1_label": "VDD_IN", "in1_input": 5000, "curr1_input": 1000}
    root = tree(chip(0, "ina3221", update_interval=interval_ms, samples=samples, **rail))
    (found,) = power_ina3221.find_rails(root)
    assert found.period_s == pytest.approx(period_s)


def test_ina226_carries_the_drivers_own_step(tree: Any, clock: Any) -> None:
    hat = {"power1_input": 5000000, "in1_input": 5000, "shunt_resistor": 10000, "update_interval": 35}
    root = tree(chip(0, "ina226", **hat) | chip(1, "ina238", label="VIN", power1_input=7))
    monitors = power_ina2xx.find_monitors(root, PowerSpec(total_rail="ina226", total_scope="board"))
    (meter,) = power_ina2xx.meters(root, clock, monitors)
    sample = meter.read()
    assert (meter.period_s, sample.power_w) == (0.035, 5.0)
    assert sample.resolution_w == pytest.approx(6.25e-3)
    assert sample.offset_w == pytest.approx(5.0 * 1e-3)
    assert monitors[1].resolution_w is None


def test_ina2xx_is_the_total_only_when_named(tree: Any, clock: Any) -> None:
    root = tree(chip(0, "ina238", label="VIN", power1_input=23000000) | chip(1, "ina219", power1_input=5))
    named = power_ina2xx.find_monitors(root, PowerSpec(total_rail="VIN", total_scope="board"))
    (meter,) = power_ina2xx.meters(root, clock, named)
    assert (meter.name, meter.scope, meter.read().power_w) == ("ina2xx:VIN", "board", 23.0)
    assert power_ina2xx.meters(root, clock, power_ina2xx.find_monitors(root, PowerSpec())) == ()
    hat = power_ina2xx.find_monitors(root, PowerSpec(total_rail="ina219", total_scope="board"))
    assert [meter.name for meter in power_ina2xx.meters(root, clock, hat)] == ["ina2xx:ina219"]


def rapl(energy: int, **more: str) -> dict[str, str]:
    return {f"{RAPL}/name": "package-0", f"{RAPL}/energy_uj": str(energy), f"{RAPL}/max_energy_range_uj": "1000"} | more


def test_rapl_denied_is_its_own_state(tree: Any, clock: Any) -> None:
    root = tree(rapl(5), {f"{RAPL}/energy_uj": errno.EACCES})
    counters = power_rapl.find_counters(root)
    (fact,) = power_rapl.describe(root, counters)
    assert (fact.status, "udev rule" in (fact.reason or "")) == ("denied", True)
    assert power_rapl.meters(root, clock, counters) == ()
    assert "denied" in Board(root, clock=clock).power_absence()


def test_rapl_unwraps(tree: Any, clock: Any) -> None:
    root = tree(rapl(900))
    (meter,) = power_rapl.meters(root, clock, power_rapl.find_counters(root))
    readings = [meter.read().energy_j]
    for energy in (950, 99, 100):
        tree(rapl(energy))
        readings.append(meter.read().energy_j)
    assert readings == [0.0, pytest.approx(50e-6), pytest.approx(200e-6), pytest.approx(201e-6)]


def test_rapl_that_goes_back_without_a_range_is_broken(tree: Any, clock: Any) -> None:
    root = tree({f"{RAPL}/name": "package-0", f"{RAPL}/energy_uj": "900"})
    (meter,) = power_rapl.meters(root, clock, power_rapl.find_counters(root))
    meter.read()
    tree({f"{RAPL}/energy_uj": "5"})
    with pytest.raises(SensorUnavailableError) as caught:
        meter.read()
    assert state_of(caught.value) == "broken"


def test_rapl_leaves_duplicates_and_parts_out(tree: Any) -> None:
    base = "sys/class/powercap"
    parts = {f"{base}/intel-rapl-mmio:0/name": "package-0", f"{base}/intel-rapl:0:0/name": "core"}
    psys = {f"{base}/intel-rapl:1/name": "psys", f"{base}/intel-rapl:1/energy_uj": "0"}
    root = tree(rapl(1, **parts, **psys))
    counters = power_rapl.find_counters(root)
    assert [counter.zone for counter in counters] == ["package-0", "psys"]
    assert [fact.status for fact in power_rapl.describe(root, counters)] == ["ok", "broken"]


BATTERY = "sys/class/power_supply/BAT0"


@pytest.mark.parametrize(
    ("files", "power_w"),
    [
        ({"status": "Discharging", "power_now": "-7500000"}, 7.5),
        ({"status": "Discharging", "current_now": "500000", "voltage_now": "12000000"}, 6.0),
    ],
)
def test_battery_discharge(tree: Any, clock: Any, files: dict[str, str], power_w: float) -> None:
    root = tree({f"{BATTERY}/type": "Battery"} | {f"{BATTERY}/{key}": text for key, text in files.items()})
    (meter,) = power_battery.meters(root, clock, power_battery.find_batteries(root))
    assert meter.read().power_w == pytest.approx(power_w)


def test_charging_battery_and_usb_source_measure_nothing(tree: Any, clock: Any) -> None:
    usb = "sys/class/power_supply/ucsi-source-psy-1"
    root = tree({f"{BATTERY}/type": "Battery", f"{BATTERY}/status": "Charging", f"{usb}/type": "USB"})
    batteries = power_battery.find_batteries(root)
    assert [battery.name for battery in batteries] == ["battery:BAT0"]
    assert power_battery.meters(root, clock, batteries) == ()
    assert power_battery.describe(root, batteries)[0].status == "absent"


def test_pmic_pairs_by_name() -> None:
    text = (
        "   VDD_CORE_A current(7)=2.00000000A\n 0V8_SW_A current(6)=0.50000000A\n   VDD_CORE_V volt(15)=0.90000000V\n"
        "     0V8_SW_V volt(14)=0.80000000V\n    EXT5V_V volt(24)=5.06800000V\n  LONE_A current(3)=1.0A\nnoise\n"
    )
    assert power_pmic.parse_pmic(text) == {"VDD_CORE": pytest.approx(1.8), "0V8_SW": pytest.approx(0.4)}


PMIC = "VDD_CORE_A current(7)=2.0A\nVDD_CORE_V volt(15)=0.9V\nEXT5V_V volt(24)=5.1V\n"


def test_the_users_fit_of_the_rails_is_an_estimate(clock: Any) -> None:
    (rails,) = power_pmic.meters(clock, lambda _: PMIC)
    (whole,) = power_pmic.meters(clock, lambda _: PMIC, Fit(1.5, 0.5))
    assert (rails.scope, rails.read().power_w) == ("rails", pytest.approx(1.8))
    assert (whole.scope, whole.read().power_w) == ("estimated", pytest.approx(1.8 * 1.5 + 0.5))
    assert "fitted" in whole.name


def test_pmic_without_pairs_is_broken() -> None:
    with pytest.raises(SensorUnavailableError, match="no rail"):
        power_pmic.parse_pmic("error=1")


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (subprocess.CompletedProcess((), 0, "throttled=0x0\n", ""), "ok"),
        (subprocess.CompletedProcess((), 255, "", "Can't open device file: /dev/vcio"), "denied"),
        (subprocess.CompletedProcess((), 0, 'error=1 error_msg="Command not registered"', ""), "broken"),
        (subprocess.TimeoutExpired("vcgencmd", 2), "broken"),
        (FileNotFoundError("vcgencmd"), "absent"),
    ],
)
def test_vcgencmd_failures(monkeypatch: pytest.MonkeyPatch, result: Any, state: str) -> None:
    def run(*_: Any, **__: Any) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(subprocess, "run", run)
    try:
        assert (vcgencmd.run_vcgencmd("get_throttled"), state) == ("throttled=0x0\n", "ok")
    except SensorUnavailableError as error:
        assert state_of(error) == state


def test_a_copied_tree_has_no_firmware(tree: Any) -> None:
    assert vcgencmd.firmware_of(tree({})) is None


@pytest.mark.parametrize(
    ("text", "now", "ever"),
    [
        ("50005\n", ("under_voltage", "throttled"), ("under_voltage", "throttled")),
        ("throttled=0x50000", (), ("under_voltage", "throttled")),
        ("0x8", ("soft_temperature_limit",), ()),
        ("20002", ("frequency_capped",), ("frequency_capped",)),
    ],
)
def test_throttle_word(text: str, now: tuple[str, ...], ever: tuple[str, ...]) -> None:
    word = parse_get_throttled(text)
    assert (names_now(word), names_ever(word)) == (now, ever)


def test_throttle_falls_back_to_firmware_then_to_hwmon(tree: Any) -> None:
    root = tree(chip(0, "rpi_volt", in0_lcrit_alarm=1))
    asked = ThrottleSources(root, lambda _: "throttled=0x50000", is_pi=True).read()
    assert (asked.now, asked.supply_ok, asked.ever) == ((), True, ("under_voltage", "throttled"))
    silent = ThrottleSources(root, None, is_pi=True).read()
    assert (silent.now, silent.supply_ok) == (None, False)


def test_throttle_source_that_breaks_leaves_a_note_and_the_others(tree: Any) -> None:
    path = "sys/devices/platform/soc/soc:firmware/get_throttled"
    cooling = "sys/class/thermal/cooling_device0"
    root = tree({path: "0", f"{cooling}/type": "cpufreq-cpu0", f"{cooling}/cur_state": "3"}, {path: errno.EIO})
    reading = ThrottleSources(root, None, is_pi=True).read()
    assert (reading.now, reading.supply_ok, len(reading.notes)) == (("cpufreq-cpu0",), None, 1)


@pytest.mark.parametrize(("temp", "now"), [("84799", ()), ("84800", ("apex_0_trip_point",)), ("x", None)])
def test_edge_tpu_slows_down_at_its_trip_point(tree: Any, temp: str, now: tuple[str, ...] | None) -> None:
    base = "sys/class/apex/apex_0"
    root = tree({f"{base}/temp": temp, f"{base}/trip_point0_temp": "84800"})
    assert ThrottleSources(root, None, is_pi=False).read().now == now
    assert [fact.status for fact in edge_tpu.describe(root)] == ["broken" if now is None else "ok"]


def test_rail_alarm_is_a_state(tree: Any) -> None:
    root = tree(chip(0, "ina3221", in1_label="VDD_IN", curr1_crit_alarm=1, in2_label="NC", curr2_crit_alarm=1))
    assert ThrottleSources(root, None, is_pi=False).read().now == ("VDD_IN_over_current",)


def test_two_packages_are_counted_once_each(tree: Any) -> None:
    files = {}
    for number, package, count in ((0, 0, 4), (1, 0, 4), (2, 1, 5)):
        base = f"sys/devices/system/cpu/cpu{number}"
        files |= {f"{base}/thermal_throttle/package_throttle_count": str(count)}
        files |= {f"{base}/topology/physical_package_id": str(package)}
    assert ThrottleSources(tree(files), None, is_pi=False).read().counts == {"package_throttle": 9}


def test_fans_in_every_layout(tree: Any) -> None:
    root = tree(chip(0, "pwmfan", fan1_input=2000) | chip(1, "pwm_tach", rpm="x"))
    assert [(fact.name, fact.status) for fact in fan.describe(root)] == [
        ("fan:pwmfan", "ok"),
        ("fan:pwm_tach", "broken"),
    ]


def test_power_mode_names_come_from_the_board_first(tree: Any) -> None:
    conf = "# < POWER_MODEL ID=9 NAME=OLD >\n< POWER_MODEL ID=2 NAME=MODE_30W >\n< PM_CONFIG DEFAULT=2 >\n"
    table = (PowerModes(release="r", names={"2": "OTHER"}),)
    root = tree({"etc/nvpmodel.conf": conf, "var/lib/nvpmodel/status": "pmode:0002 fmode:cool"})
    mode = power_mode.read_power_mode(root, table)
    assert mode is not None and (mode.text, mode.is_default) == ("2 MODE_30W", True)


def test_power_mode_without_conf(tree: Any) -> None:
    root = tree({"var/lib/nvpmodel/status": "pmode:0001"})
    one = PowerModes(release="r", names={"1": "5W"}, default="0")
    named, bare = power_mode.read_power_mode(root, (one,)), power_mode.read_power_mode(root, (one, one))
    assert named is not None and (named.text, named.is_default) == ("1 5W", False)
    assert bare is not None and (bare.text, bare.is_default) == ("1", None)
    assert power_mode.parse_conf("") == ({}, None)


def test_accelerators_present_and_usable_are_two_things(tree: Any) -> None:
    pci = "sys/bus/pci/devices/0000:01:00.0"
    usb = "sys/bus/usb/devices/2-1"
    root = tree(
        {
            f"{pci}/vendor": "0x10de",
            f"{pci}/class": "0x030000",
            f"{usb}/idVendor": "1a6e",
            f"{usb}/idProduct": "089a",
            "sys/class/apex/apex_0/temp": "45000",
            "sys/bus/pci/devices/0001:01:00.0/vendor": "0x1e60",
        }
    )
    engine = EngineFacts(
        name="onnxruntime", formats=("onnx",), providers=("CUDAExecutionProvider", "CPUExecutionProvider"), proven=True
    )
    found = accelerators.read_accelerators(
        root, (AcceleratorSpec(kind="npu", name="N", nodes=("dev/none",)),), (engine,)
    )
    assert [(item.name, item.usable_by) for item in found] == [
        ("NVIDIA GPU", ("onnxruntime/CUDAExecutionProvider",)),
        ("Hailo NPU", ()),
        ("Edge TPU (PCIe)", ()),
        ("Edge TPU (USB)", ()),
    ]


def test_psi_switched_off_answers_eopnotsupp(tree: Any, clock: Any) -> None:
    files = {
        "proc/pressure/cpu": "",
        "proc/meminfo": "MemTotal: 1000 kB\n",
        "proc/cpuinfo": "processor: 0\nCPU architecture: 8\n",
    }
    off = Board(tree(files, {"proc/pressure/cpu": errno.EOPNOTSUPP}), clock=clock).facts()
    assert [trap.split(":")[0] for trap in off.traps] == ["psi_off"]
    assert Board(tree(files), clock=clock).facts().traps == ()


def test_every_check_has_a_text() -> None:
    assert all(text for _, text in traps.CHECKS.values())


def test_context_of_an_empty_tree_is_all_unknown(tree: Any, clock: Any) -> None:
    root = tree({"proc/cpuinfo": "processor: 0\n"})
    reading = Board(root, clock=clock).read_context()
    assert (reading.temperature_celsius, reading.clock_hz, reading.throttle_now, reading.load_1min) == (None,) * 4
