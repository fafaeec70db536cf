"""On a booted board: boardfit's readers of temperature and power against sysfs as the kernel's own drivers write it.

The drivers (thermal, ina3221, ina2xx) are the kernel's, the chips and zones under them stand in memory: what is set by
``board-sensors`` must be what is read, in our units, and what fails must be told apart. No real power, no real heat.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from agent.device.board import this_board
from agent.device.profiles import PowerSpec
from agent.errors import SensorUnavailableError


def tool(*words: object) -> None:
    """Call board-sensors."""
    subprocess.run(["board-sensors", *map(str, words)], check=True)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def expect(what: str, seen: object, wanted: object, within: float = 0.0) -> None:
    """Say what was read, and end where it is not what was set."""
    numbers = isinstance(seen, float) and isinstance(wanted, float)
    good = abs(seen - wanted) <= within if numbers else seen == wanted
    say(f"{'ok   ' if good else 'FAILED'} {what}: {seen}" + ("" if good else f", not {wanted}"))
    if not good:
        sys.exit(1)


def reason_of(read: Callable[[], object]) -> str:
    """Return what a reader says that cannot read."""
    try:
        return f"no reason but {read()}"
    except SensorUnavailableError as error:
        return error.problem


def chip(name: str) -> Path:
    """Return the hwmon folder of a chip."""
    folders = Path("/sys/class/hwmon").glob("hwmon*")
    return next(one for one in folders if (one / "name").read_text().strip() == name)


def states(board: object) -> dict[str, str]:
    """Return each stated sensor with its state."""
    return {one.name: one.status for one in board.sensors.describe()}  # type: ignore[attr-defined]


def temperatures() -> None:
    """Zones by their names, in degrees; the one that stands for the board; one that fails."""
    tool("temp", "45000,52500,61250,73000")
    board = this_board()
    expect("profile", board.profile.name, "jetson-orin-nano")
    zones = sorted(name for name in states(board) if name.startswith("thermal:"))
    names = ["cpu-thermal", "gpu-thermal", "soc0-thermal", "tj-thermal"]
    expect("zones, none of them twice", zones, [f"thermal:{name}" for name in names])
    context = board.read_context()
    expect("the board's temperature is tj's, in °C", context.temperature_celsius, 73.0)
    tool("temp", "45000,52500,61250,-1")
    expect("with tj unreadable it is the hottest of cpu and soc", board.read_context().temperature_celsius, 61.25)
    expect("which is stated", states(board)["thermal:tj-thermal"] != "ok", True)
    tool("temp", "45000,52500,61250,400000")
    expect("400 °C is no temperature", board.read_context().temperature_celsius, 61.25)
    tool("temp", "-1,-1,-1,-1")
    expect("where none reads it is unknown", board.read_context().temperature_celsius, None)
    tool("temp", "45000,45000,45000,45000")
    expect("and comes back", board.read_context().temperature_celsius, 45.0)


def rails() -> None:
    """INA3221: labels of the device tree, watts of mV and mA; a channel that is off; a chip that goes."""
    for channel, (millivolt, milliampere) in enumerate(((4904, 1200), (5000, 400), (5000, 240)), start=1):
        tool("rail", channel, millivolt, milliampere)
    board = this_board()
    found = {meter.name: meter for meter in board.sensors.power.rail_meters()}
    expect(
        "rails, without shunt voltages and sums",
        sorted(found),
        ["ina3221:VDD_CPU_GPU_CV", "ina3221:VDD_IN", "ina3221:VDD_SOC"],
    )
    for name, watts in (("VDD_IN", 4.904 * 1.2), ("VDD_CPU_GPU_CV", 2.0), ("VDD_SOC", 1.2)):
        sample = found[f"ina3221:{name}"].read()
        expect(f"{name} in W", sample.power_w, watts, within=sample.resolution_w or 0.0)
    total = board.power_meters()[0]
    expect("the total", (total.name, total.scope), ("ina3221:VDD_IN", board.profile.power.total_scope))
    (chip("ina3221") / "in1_enable").write_text("0")
    expect("a channel that is off says so", "no reason" in (said := reason_of(total.read)), False)
    say(f"      {said}")
    expect("a rail beside it", found["ina3221:VDD_SOC"].read().power_w, 1.2, within=0.05)
    (chip("ina3221") / "in1_enable").write_text("1")
    Path("/sys/bus/i2c/drivers/ina3221/unbind").write_text("1-0040")
    expect("a chip that is gone is absent", "absent" in reason_of(total.read), True)
    expect("temperatures go on", this_board().read_context().temperature_celsius, 45.0)


def monitor() -> None:
    """INA226, named as the total by the user: power and its step; a chip that goes."""
    board = this_board(power=PowerSpec(total_rail="ina226", total_scope="board"))
    tool("ina226", 5000, 600)
    meter = next(one for one in board.power_meters() if one.name == "ina2xx:ina226")
    for milliampere in (600, 1500):
        tool("ina226", 5000, milliampere)
        sample = meter.read()
        expect(
            f"5 V, {milliampere} mA in W", sample.power_w, 5.0 * milliampere / 1000, within=sample.resolution_w or 0.0
        )
    Path("/sys/bus/i2c/drivers/ina2xx/unbind").write_text("1-0044")
    expect("a chip that is gone is absent", "absent" in reason_of(meter.read), True)


subprocess.run(["board-sensors", "load", "jetson", "ina226"], check=True)
say(f"kernel {Path('/proc/version').read_text().split()[2]}, Python {sys.version.split()[0]}")
temperatures()
monitor()
rails()
