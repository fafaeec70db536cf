"""Recognising boards, reading profiles, and the class fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent import resources
from agent.core.budget import METRICS
from agent.core.facts import (
    Accelerator,
    BoardIdentity,
    CpuCluster,
    CpuFacts,
    EngineFacts,
    MemoryFacts,
    ProviderFacts,
)
from agent.core.units import parse_quantity
from agent.device import identify, profiles
from agent.device.accelerators import how_to_use
from agent.device.fingerprint import class_fingerprint, ram_size_mib
from agent.device.traps import CHECKS
from agent.errors import DeviceError

FOLDER = Path(__file__).resolve().parents[2] / "profiles"
GOOD = "schema: boardfit.board/1\nname: x\ntitle: X\nrecognition: {compatible: ['a,b']}\n"


def test_every_profile_is_sound() -> None:
    known = profiles.load_all(FOLDER)
    assert len(known) == 21
    for profile in known:
        assert profile.recognition != profiles.Recognition(), profile.name
        assert set(profile.traps) <= set(CHECKS), profile.name
        for name, text in profile.default_budgets.items():
            parse_quantity(text, METRICS[name].dimension, where=f"{profile.name}.{name}")
        if profile.power.total_rail is not None:
            assert profile.power.total_scope is not None and not profile.power.sum_rails, profile.name
        if not profile.power.sources:
            assert profile.power.absent_reason, profile.name


def test_every_fact_line_of_a_profile_has_a_source() -> None:
    for path in FOLDER.glob("*.yaml"):
        text = path.read_text()
        assert "#" in text, path.name
        for key in ("compatible:", "soc:", "total_rail:"):
            for number, line in enumerate(lines := text.splitlines()):
                if line.strip().startswith(key):
                    assert any("#" in near for near in lines[max(0, number - 4) : number + 2]), f"{path.name}: {line}"


def test_folder_is_found() -> None:
    assert profiles.find_folder() == FOLDER


def test_folder_is_found_when_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "site/agent")
    with pytest.raises(DeviceError, match="Reinstall boardfit"):
        profiles.find_folder()
    installed = tmp_path / "site/agent/_profiles"
    installed.mkdir(parents=True)
    (installed / "generic-arm64.yaml").write_text("")
    (tmp_path / "site/profiles").mkdir()  # a stranger's
    assert profiles.find_folder() == installed


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (GOOD + "colour: red\n", "unknown field `colour`"),
        (GOOD.replace("'a,b'", "a"), r"\$\.recognition\.compatible\[0\]"),
        (GOOD + "memory_sizes_mib: [lots]\n", r"\$\.memory_sizes_mib\[0\]"),
        (GOOD.replace("name: x", "name: y"), r"\$\.name is 'y'"),
        (GOOD.replace("board/1", "board/2"), r"\$\.schema"),
        ("a: [", "line 1, column 5"),
        ("[]", "Expected `object`"),
    ],
)
def test_a_bad_profile_names_file_and_field(text: str, complaint: str) -> None:
    with pytest.raises(DeviceError, match=complaint) as caught:
        profiles.parse(text, "some/x.yaml")
    assert "some/x.yaml" in str(caught.value)


def test_two_profiles_may_not_claim_one_board(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(GOOD)
    (tmp_path / "y.yaml").write_text(GOOD.replace("name: x", "name: y"))
    with pytest.raises(DeviceError, match="also claimed by x"):
        profiles.load_all(tmp_path)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no board profile"):
        profiles.load_all(tmp_path)


@pytest.mark.parametrize(
    ("compatible", "virtualization", "architecture", "expected"),
    [
        (["raspberrypi,3-model-b-plus", "brcm,bcm2837"], None, "aarch64", "raspberry-pi-3b-plus"),
        (["raspberrypi,3-model-b", "brcm,bcm2837"], None, "aarch64", "raspberry-pi-3b"),
        (["nvidia,p3768-0000+p3767-0000-super", "nvidia,p3767-0000"], None, "aarch64", "jetson-orin-nx"),
        (["maker,carrier", "nvidia,p3767-0004", "nvidia,tegra234"], None, "aarch64", "jetson-orin-nano"),
        (["maker,carrier", "nvidia,tegra234"], None, "aarch64", "generic-arm64"),
        (["linux,dummy-virt"], "qemu", "aarch64", "virtual-machine"),
        (["raspberrypi,4-model-b"], "qemu", "aarch64", "raspberry-pi-4b"),
        ([], None, "x86_64", "generic-x86-64"),
        ([], None, "riscv64", "unknown"),
    ],
)
def test_match(compatible: list[str], virtualization: str | None, architecture: str, expected: str) -> None:
    profile, matched_on = identify.match(profiles.load_all(FOLDER), compatible, virtualization, architecture)
    assert profile.name == expected
    assert matched_on


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sys/class/dmi/id/product_name": "KVM"}, "kvm"),
        ({"sys/class/dmi/id/product_name": "m5.metal", "sys/class/dmi/id/sys_vendor": "Amazon EC2"}, None),
        ({"sys/class/dmi/id/product_name": "m5.large", "sys/class/dmi/id/sys_vendor": "Amazon EC2"}, "amazon"),
        ({"proc/device-tree/hypervisor/compatible": "linux,kvm\0"}, "kvm"),
        ({"proc/device-tree/fw-cfg@9020000/reg": "x"}, "qemu"),
        ({"sys/hypervisor/type": "xen"}, "xen"),
        ({"proc/cpuinfo": "processor : 0\nflags : sse hypervisor\n"}, "vm-other"),
        (
            {
                "proc/cpuinfo": "processor : 0\nflags : sse hypervisor\n",
                "sys/devices/system/clocksource/clocksource0/available_clocksource": "tsc kvm-clock",
            },
            "kvm",
        ),
        ({"proc/cpuinfo": "processor : 0\nflags : sse\n"}, None),
    ],
)
def test_virtualization(tree: Any, files: dict[str, str], expected: str | None) -> None:
    assert identify.read_virtualization(tree(files)) == expected


def test_device_id_is_derived_and_stable(tree: Any) -> None:
    root = tree({"etc/machine-id": "0123456789abcdef0123456789abcdef\n"})
    assert identify.read_device_id(root) == "d6f55430ef8868e8"


def test_a_serial_tells_boards_apart_that_have_one_machine_id(tree: Any) -> None:
    machine, number = {"etc/machine-id": "0123456789abcdef0123456789abcdef\n"}, "proc/device-tree/serial-number"
    boards = []
    for last in "ab":  # a tree is built where the one before stood
        root = tree({**machine, number: f"1000000{last}\0"})
        boards.append((identify.read_device_id(root), identify.read_hardware(root)))
    (name, one), (other, two) = boards
    assert name != other
    assert one.differs(two)
    assert (one.machine, one.serial is None) == (two.machine, False)
    assert "1000000" not in f"{one}"
    assert identify.read_hardware(tree({**machine, number: "0000000000000000\0"})).serial is None


def test_device_id_needs_a_machine_id(tree: Any) -> None:
    assert identify.read_device_id(tree({})) is None
    assert identify.read_device_id(tree({"etc/machine-id": "uninitialized\n"})) is None


@pytest.mark.parametrize(
    ("mib", "sold"), [(437, 512), (925, 1024), (1849, 2048), (3793, 4096), (7619, 8192), (15836, 16384), (62841, 65536)]
)
def test_memory_is_counted_as_sold(mib: int, sold: int) -> None:
    assert ram_size_mib(mib << 20) == sold


def fingerprint(**changes: Any) -> str:
    values: dict[str, Any] = {
        "board": BoardIdentity(model="A Rev 1.1", soc="S", profile="p", matched_on="m", device_id="1"),
        "cpu": CpuFacts(
            architecture="aarch64", present=(0, 1), usable=(0, 1), clusters=(CpuCluster(cores=(0, 1), part="a"),)
        ),
        "memory": MemoryFacts(total_bytes=4 << 30, available_bytes=1),
        "pointer_bits": 64,
        "engines": (EngineFacts(name="e", formats=("onnx",), version="1", providers=("CPU",), proven=True),),
        "accelerators": (),
        "power_mode": None,
    }
    return class_fingerprint(**(values | changes))


def test_fingerprint_ignores_what_is_one_boards_own() -> None:
    other = BoardIdentity(model="A Rev 1.2", soc="S", profile="p", matched_on="other", device_id="2")
    governed = CpuFacts(
        architecture="aarch64",
        present=(0, 1),
        usable=(0, 1),
        clusters=(CpuCluster(cores=(0, 1), part="a", governor="performance"),),
    )
    assert fingerprint() == fingerprint(board=other)
    assert fingerprint() == fingerprint(memory=MemoryFacts(total_bytes=(4 << 30) - (99 << 20), available_bytes=7))
    assert fingerprint() == fingerprint(cpu=governed)
    assert len(fingerprint()) == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"power_mode": "1 7W"},
        {"pointer_bits": 32},
        {"memory": MemoryFacts(total_bytes=8 << 30)},
        {"memory": MemoryFacts(total_bytes=4 << 30, limit_bytes=1 << 30)},
        {"memory": MemoryFacts(total_bytes=4 << 30, page_size_bytes=16384)},
        {"cpu": CpuFacts(architecture="aarch64", present=(0, 1), usable=(0,))},
        {"engines": (EngineFacts(name="e", formats=("onnx",), version="2", providers=("CPU",), proven=True),)},
        {"engines": ()},
        {"accelerators": (Accelerator(kind="gpu", name="g"),)},
    ],
)
def test_fingerprint_moves_with_what_changes_figures(changes: dict[str, Any]) -> None:
    assert fingerprint() != fingerprint(**changes)


def test_driver_libraries_of_a_used_accelerator_count_and_of_a_refused_one_do_not() -> None:
    def engines(state: str, *drivers: str) -> dict[str, Any]:
        one = ProviderFacts(name="CUDA", state=state, drivers=drivers)
        found = EngineFacts(name="e", formats=("onnx",), version="1", providers=("CPU",), proven=True, beyond=(one,))
        return {"engines": (found,)}

    old, new = "libcudnn.so.9.1.0 (104664 bytes)", "libcudnn.so.9.8.0 (104664 bytes)"
    assert fingerprint(**engines("proven", old)) != fingerprint(**engines("proven", new))
    assert fingerprint(**engines("refused", old)) == fingerprint(**engines("proven")) == fingerprint()


@pytest.mark.parametrize(
    ("name", "words"),
    [("NVIDIA Tegra GPU", "for this JetPack"), ("Edge TPU (USB)", "libedgetpu1-std"), ("VideoCore VII", None)],
)
def test_an_accelerator_that_nothing_uses_comes_with_what_to_do(name: str, words: str | None) -> None:
    found = how_to_use(Accelerator(kind="gpu", name=name))
    assert found is None if words is None else words in (found or "")


def test_unproven_engines_do_not_count() -> None:
    proven = EngineFacts(name="e", formats=("onnx",), version="1", providers=("CPU",), proven=True)
    failed = EngineFacts(name="t", formats=("tflite",), version="1", proven=False, reason="no wheel")
    assert fingerprint() == fingerprint(engines=(proven, failed))
    assert msgspec.json.encode(failed)
