"""NVIDIA cards through a simulated libnvidia-ml, compiled where there is a C compiler: calls and types are real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.device import power_nvml
from agent.device.board import Board
from agent.device.power_nvml import CardsMeter, Nvml
from agent.device.root import state_of
from agent.errors import SensorUnavailableError

SOURCE = Path(__file__).with_name("simulated_nvml.c")
ROOT = SOURCE.resolve().parents[2]


def compiled(made: Path, *flags: str) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make the simulated library with")
    subprocess.run([compiler, "-shared", "-fPIC", *flags, "-o", made, SOURCE], check=True)
    return str(made)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compiled(tmp_path_factory.mktemp("nvml") / "libsimulated-nvidia-ml.so")


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(**values: int) -> None:
        for name, value in values.items():
            # putenv through os.environ is what getenv in the library sees
            monkeypatch.setitem(os.environ, f"SIMULATED_{name.upper()}", str(value))

    return put


def test_energy_counters_of_all_cards_are_added(library: str, simulated: Any, clock: Any) -> None:
    simulated(energy_mj=1000)
    meter = CardsMeter(clock, Nvml(library))
    assert (meter.name, meter.scope, meter.period_s) == ("nvml:Simulated A+Simulated B", "gpu", 0.1)
    first = meter.read()
    clock.now_s += 2.0
    simulated(energy_mj=31000)
    second = meter.read()
    assert first.energy_j is not None
    assert second.energy_j is not None
    assert second.energy_j - first.energy_j == pytest.approx(60.0)
    assert (second.monotonic_s, second.power_w) == (102.0, None)
    assert second.resolution_j == pytest.approx(30.0 * 0.1 + 1e-3)  # a value may be a period old


def test_power_is_read_where_a_card_has_no_counter(library: str, clock: Any) -> None:
    meter = CardsMeter(clock, Nvml(library))
    assert (meter.period_s, meter.read().power_w) == (1.0, pytest.approx(42.5))


def test_a_counter_that_goes_back_is_broken(library: str, simulated: Any, clock: Any) -> None:
    simulated(energy_mj=1000)
    meter = CardsMeter(clock, Nvml(library))
    meter.read()
    simulated(energy_mj=10)
    with pytest.raises(SensorUnavailableError, match="went back"):
        meter.read()


def test_a_lost_card_is_broken(library: str, simulated: Any, clock: Any) -> None:
    simulated(energy_mj=1000)
    meter = CardsMeter(clock, Nvml(library))
    simulated(error=15)
    with pytest.raises(SensorUnavailableError, match="nvmlDeviceGetTotalEnergyConsumption returned 15") as caught:
        meter.read()
    assert state_of(caught.value) == "broken"


def test_no_card_no_power_and_a_driver_that_does_not_start(library: str, simulated: Any, clock: Any) -> None:
    simulated(power_error=3)
    (fact,) = power_nvml.describe(clock, Nvml(library))
    assert (fact.status, "does not tell its power" in (fact.reason or "")) == ("absent", True)
    simulated(cards=0)
    assert power_nvml.meters(clock, Nvml(library)) == ()
    simulated(init=9)
    with pytest.raises(SensorUnavailableError, match="nvmlInit_v2 returned 9"):
        Nvml(library)


def test_no_library_is_absent() -> None:
    with pytest.raises(SensorUnavailableError) as caught:
        Nvml("libno-such-library.so.1")
    assert state_of(caught.value) == "absent"


def test_a_driver_older_than_the_energy_counter_tells_power_and_one_older_than_that_nothing(tmp_path: Path) -> None:
    def built(*left_out: str) -> str:
        renamed = [f"-D{name}=renamed_{name}" for name in left_out]
        return compiled(tmp_path / f"lib{len(left_out)}.so", *renamed)

    cards = Nvml(built("nvmlDeviceGetTotalEnergyConsumption"))
    assert (cards.energy_mj(0), cards.power_mw(0)) == (None, 30000)
    with pytest.raises(SensorUnavailableError, match="has no nvmlInit_v2") as caught:
        Nvml(built("nvmlInit_v2", "nvmlDeviceGetCount_v2"))
    assert state_of(caught.value) == "absent"


def test_a_copied_tree_has_no_cards(tree: Any, clock: Any) -> None:
    root = tree({"dev/nvidiactl": "", "proc/driver/nvidia/version": "NVRM version"})
    assert Board(root, clock=clock).sensors.power.cards is None


def test_the_board_takes_the_cards_after_its_own_meters(library: str, clock: Any, tree: Any) -> None:
    zone = "sys/class/powercap/intel-rapl:0"
    root = tree({f"{zone}/name": "package-0", f"{zone}/energy_uj": "5", f"{zone}/max_energy_range_uj": "1000"})
    board = Board(root, clock=clock)
    board.sensors.power.__dict__["cards"] = Nvml(library)
    assert [meter.scope for meter in board.power_meters()] == ["package", "gpu"]
    assert [fact.scope for fact in board.sensors.describe() if fact.name == "nvml"] == ["gpu"]


def test_an_idle_agent_loads_no_power_source_though_an_external_meter_is_configured() -> None:
    configured = (
        "parse_config({'power': {'meters': {'plug': {'kind': 'shelly', 'topic': 't', 'url': 'mqtt://h'}}}}, path=None)"
    )
    code = (
        "import sys; from pathlib import Path; from agent.site import Site; from agent.config import parse_config\n"
        f"Site({configured}, Path('x')).board.read_context(); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    loaded = set(done.stdout.split())
    assert "agent.device.sensors" in loaded
    assert {name for name in loaded if name.startswith("agent.device.power_")} == {"agent.device.power_mode"}
