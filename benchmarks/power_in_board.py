"""Runs inside an emulated board, started by benchmarks/power_kernel.py: the power readings against kernel drivers.

The drivers (ina3221, ina2xx, test_power) are the kernel's own, the chips under them registers in memory. This program
sets the registers to simulated loads by the board's own ``board-sensors``, reads them back with boardfit's meters and
sampler, and writes what it saw to /job/out/result.json. Nothing here measures a real load.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.core.ports import PowerMeter
from agent.device.board import Board, this_board
from agent.device.profiles import PowerSpec
from agent.measure.sampler import power_figures, read_idle
from benchmarks.power_traces import SHAPES, Trace

IDLE_S, WINDOW_S, HOLD_S = 3.0, 15.0, 2.5
TRIES, STALLED = 4, 0.03  # a window in which more values are missing says how busy the emulator is: it is taken anew
VOLTS_MV = 5000
INFERENCES = 100
TOOL = Path("/usr/local/sbin/board-sensors")


def tool() -> dict[str, Any]:
    """Return the functions of board-sensors, so that a value changes within milliseconds and not within a process."""
    names: dict[str, Any] = {"__name__": "board_sensors"}
    exec(TOOL.read_text().rsplit("\nmain(", 1)[0], names)
    return names


Put = Callable[[float], float]  # sets a power in watts as near as the chip can hold it, and returns what that is


class Player:
    """Sets a trace in its own thread, and keeps when each value really was set, and which."""

    def __init__(self, trace: Trace, put: Put) -> None:
        self._trace, self._put = trace, put
        self._stop = threading.Event()
        self.pieces: list[tuple[float, float]] = []
        self._set(trace.powers[0])
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def _play(self) -> None:
        begin = self.pieces[0][0]
        for at_s, power_w in zip(self._trace.times[1:], self._trace.powers[1:], strict=True):
            if self._stop.wait(max(0.0, begin + at_s - time.monotonic())):
                return
            self._set(power_w)

    def _set(self, power_w: float) -> None:
        before_s = time.monotonic()
        held_w = self._put(power_w)
        self.pieces.append(((before_s + time.monotonic()) / 2.0, held_w))

    def end(self) -> Trace:
        """Stop, and return what was really set, on the monotonic clock."""
        self._stop.set()
        self._thread.join()
        return Trace(self.pieces)


def one_case(meter: PowerMeter, put: Put, shape: str, trouble: Callable[[], None]) -> dict[str, Any]:
    """Read idle at a constant power, then a window of a shape; ``trouble`` runs once, a third into the window."""
    idle_w = put(3.0)
    idle = read_idle(meter, IDLE_S, lambda: False)
    timer = threading.Timer(WINDOW_S / 3.0, trouble)
    player = Player(SHAPES[shape](WINDOW_S, 4.0, 9.0, HOLD_S if shape != "ramp" else 0.25, 7), put)
    timer.start()
    begin_s = time.monotonic()
    window = read_idle(meter, WINDOW_S, lambda: False)
    end_s = time.monotonic()
    timer.join()
    truth = player.end()
    figures, reason = power_figures(idle, window, INFERENCES, end_s - begin_s)
    seen: dict[str, Any] = {"meter": meter.name, "scope": meter.scope, "period_s": meter.period_s, "shape": shape}
    seen["set_j"] = (truth.mean_w(begin_s, end_s) - idle_w) * (end_s - begin_s)
    seen["reason"] = reason
    if figures is not None:
        energy = figures.energy_per_inference_j
        seen["read_j"] = None if energy is None else energy.value * INFERENCES
        error_j = figures.energy_uncertainty_j
        seen["error_j"] = None if error_j is None else error_j * INFERENCES
        seen |= {"samples": figures.samples, "missed": figures.missed_samples, "skipped": figures.skipped_reads}
        seen |= {"rate_hz": figures.sample_rate_hz, "resolution_w": figures.resolution_w}
    return seen


def find(name: str, file: str) -> Path:
    """Return a file of the hwmon chip with a name; its number differs from boot to boot."""
    return next(
        folder / file
        for folder in Path("/sys/class/hwmon").glob("hwmon*")
        if (folder / "name").read_text().strip() == name
    )


def meter_of(board: Board, prefix: str) -> PowerMeter:
    """Return the board's meter whose name begins so."""
    return next(meter for meter in board.power_meters() if meter.name.startswith(prefix))


def unbind(driver: str, device: str) -> None:
    """Take a chip from its driver, as a hot unplug does; its files are gone."""
    Path(f"/sys/bus/i2c/drivers/{driver}/unbind").write_text(device)


def main() -> int:
    subprocess.run([TOOL, "load", "jetson", "ina226", "battery"], check=True)
    names = tool()
    switch = find("ina3221", "in1_enable")
    find("ina3221", "samples").write_text("16")  # the chips then have a new value about every 0.1 s
    find("ina226", "update_interval").write_text("140")
    print(f"INA3221 update_interval {find('ina3221', 'update_interval').read_text().strip()} ms", flush=True)

    def rail(power_w: float) -> float:  # a step of the shunt voltage, 40 uV, is 8 mA at 5 mohm
        milliampere = round(power_w * 1e6 / VOLTS_MV / 8) * 8
        names["rail"](1, VOLTS_MV, milliampere)
        return milliampere * VOLTS_MV / 1e6

    def ina226(power_w: float) -> float:
        milliampere = round(power_w * 1e6 / VOLTS_MV)
        names["ina226"](VOLTS_MV, milliampere)
        return milliampere * VOLTS_MV / 1e6

    def battery(power_w: float) -> float:
        microampere = round(power_w * 1e6 / 3.7)
        names["main"](["battery", f"battery_current=-{microampere}"])
        return microampere * 3.7 / 1e6

    def gate() -> None:  # a channel that is off answers ENODATA: put off, and on again
        for _ in range(4):
            switch.write_text("0")
            time.sleep(0.3)
            switch.write_text("1")
            time.sleep(1.0)

    def nothing() -> None: ...

    cases: list[dict[str, Any]] = []

    def take(meter: PowerMeter, put: Put, shape: str, trouble: str, act: Callable[[], None]) -> None:
        for number in range(TRIES):
            seen = one_case(meter, put, shape, act) | {"trouble": trouble, "tries": number + 1}
            late = seen.get("missed", 0) > STALLED * seen.get("samples", 0)
            seen["stalled"] = not trouble and (late or seen.get("read_j") is None)
            if not seen["stalled"]:
                break
        cases.append(seen)
        print(json.dumps(seen), flush=True)

    names["main"](["battery", "battery_voltage=3700000", "battery_status=discharging"])
    battery(3.0)
    total = meter_of(this_board(), "ina3221:VDD_IN")
    hat = meter_of(this_board(power=PowerSpec(total_rail="ina226", total_scope="board")), "ina2xx:ina226")
    cells = meter_of(this_board(), "battery:")
    for shape in SHAPES:
        take(total, rail, shape, "", nothing)
        take(hat, ina226, shape, "", nothing)
    take(cells, battery, "ramp", "", nothing)
    take(total, rail, "steps", "channel off now and then (ENODATA)", gate)
    take(cells, battery, "steps", "charger plugged in", lambda: names["main"](["battery", "battery_status=charging"]))
    take(total, rail, "steps", "driver unbound", lambda: unbind("ina3221", "1-0040"))
    take(hat, ina226, "steps", "driver unbound", lambda: unbind("ina2xx", "1-0044"))
    out = Path("/job/out/result.json")
    out.write_text(
        json.dumps(
            {
                "python": sys.version.split()[0],
                "kernel": Path("/proc/version").read_text().split()[2],
                "model": Path("/proc/device-tree/model").read_text().strip("\0"),
                "cases": cases,
            }
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
