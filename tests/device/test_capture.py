"""A recorded board reads back as what it was, and holds nothing that names it, its network or its users."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.device import case
from agent.device.capture import Captured, RecordingRoot, capture
from agent.device.host import Host
from agent.device.redaction import Redactor
from agent.device.root import SysRoot, unavailable
from agent.errors import ConfigError, DeviceError
from tests.device.test_boards import BOARDS, CASES, PROFILES

PLANTED = {
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "proc/sys/kernel/random/boot_id": "6f1c2b7e-1111-4222-8333-944455556666\n",
    "etc/hostname": "gate-seven.plant.example\n",
    "proc/sys/kernel/hostname": "gate-seven\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nzoe.quimby:x:1000:1000:Zoe Quimby,,,:/home/zquimby:/bin/bash\n",
    "proc/device-tree/serial-number": "10000000deadbee7\0",
    "sys/class/net/eth0/address": "dc:a6:32:0b:0c:0d\n",
    "sys/class/dmi/id/product_serial": "PF3KX9Q\n",
    "sys/block/mmcblk0/device/cid": "1b534d454231513530f1c2d3a4b5\n",
    "sys/bus/usb/devices/1-1/serial": "4C530001230\n",
    "proc/cmdline": "quiet numa=fake=8 root=PARTUUID=9730496b-02 smsc95xx.macaddr=DC:A6:32:0B:0C:0D ip=10.3.7.9"
    " hush-word\n",
    "etc/os-release": 'PRETTY_NAME="Debian 12 of gate-seven"\nID=debian\nBUILD_ID="built by zoe.quimby"\n',
    "proc/self/cgroup": "0::/user.slice/zquimby.slice/docker-" + "ab" * 32 + ".scope\n",
    "sys/class/power_supply/hid-dc:a6:32:0b:0c:0d-battery/type": "Battery\n",
    "sys/class/power_supply/hid-dc:a6:32:0b:0c:0d-battery/scope": "Device\n",
    "sys/class/hwmon/hwmon9/name": "stick_4C530001230\n",
    "sys/class/regulator/regulator.7/name": "vcc of Zoe Quimby\n",
    "etc/rpi-issue": "Made on a4:5e:60:aa:bb:cc by 11111111-2222-3333-4444-555555555555\n",
}
SECRETS = (
    *("0123456789abcdef0123456789abcdef", "6f1c2b7e-1111", "gate-seven", "plant.example", "quimby", "10000000deadbee7"),
    *("dc:a6:32", "DC:A6:32", "dca6320b0c0d", "PF3KX9Q", "1b534d454231513530f1c2d3a4b5", "4C530001230", "9730496b"),
    *("10.3.7.9", "hush-word", "abababab", "a4:5e:60", "11111111-2222"),
)


def host_of(name: str) -> Host:
    return msgspec.json.decode((BOARDS / name / "host.json").read_bytes(), type=Host)


def firmware_of(name: str) -> Callable[[str], str] | None:
    folder = BOARDS / name / "vcgencmd"
    if not folder.exists():
        return None

    def answer(command: str) -> str:
        if not (folder / command).exists():
            raise unavailable(f"vcgencmd {command}", "absent", why="not installed")
        return (folder / command).read_text()

    return answer


def record(name: str, place: Path) -> Captured:
    return capture(place, SysRoot(BOARDS / name), profiles_dir=PROFILES, host=host_of(name), firmware=firmware_of(name))


def observed(folder: Path) -> Any:
    return json.loads(json.dumps(case.observe(case.open_case(folder, PROFILES))))


def planted_board(tmp_path: Path) -> Path:
    board = tmp_path / "board"
    shutil.copytree(BOARDS / "raspberry-pi-5", board, symlinks=True)
    for rel, text in PLANTED.items():
        path = board / rel
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with (board / "proc/cpuinfo").open("a") as cpuinfo:
        cpuinfo.write("\nRevision\t: d04170\nSerial\t\t: 10000000deadbee7\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n")
    return board


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_board_reads_back_as_it_was(name: str, tmp_path: Path) -> None:
    done = record(name, tmp_path / "copy")
    assert done.differs == ()
    expected = json.loads((BOARDS / name / "expected.json").read_text())
    expected["facts"]["board"]["device_id"] = None
    assert observed(tmp_path / "copy") == expected
    assert json.loads((tmp_path / "copy/expected.json").read_text()) == expected
    assert (tmp_path / "copy/ORIGIN.md").read_text().startswith("# ")


def test_this_machine_reads_back_as_it_was(tmp_path: Path) -> None:
    done = capture(tmp_path / "copy", profiles_dir=PROFILES)
    assert done.differs == ()
    assert observed(tmp_path / "copy") == json.loads((tmp_path / "copy/expected.json").read_text())
    assert done.size_bytes < 16 << 20


def test_nothing_that_names_the_board_is_left_in_any_file(tmp_path: Path) -> None:
    board = planted_board(tmp_path)
    done = capture(tmp_path / "copy", SysRoot(board), profiles_dir=PROFILES, host=host_of("raspberry-pi-5"))
    files = everything(tmp_path / "copy")
    for secret in SECRETS:
        found = [
            name for name, data in files.items() if secret.lower().encode() in name.lower().encode() + data.lower()
        ]
        assert found == [], secret
    assert {kind for kind, count in done.removed.items() if count} == {
        *("id", "mac", "uuid", "serial", "host", "user", "kernel parameter")
    }
    listed = files["ORIGIN.md"].decode()
    assert all(
        what in listed for what in ("MAC addresses", "serial numbers", "host names", "user names", "machine ids")
    )
    # what a maintainer needs is there, and what was taken out changed nothing that boardfit reads
    assert files["proc/cmdline"] == b"quiet numa=fake=8\n"
    assert b"d04170" in files["proc/cpuinfo"]
    assert b"raspberrypi,5-model-b" in files["proc/device-tree/compatible"]
    assert done.profile == "raspberry-pi-5"
    assert done.differs == ()


def test_an_archive_names_no_owner_and_no_time(tmp_path: Path) -> None:
    board = planted_board(tmp_path)
    place = tmp_path / "sent.tar.gz"
    capture(place, SysRoot(board), profiles_dir=PROFILES, host=host_of("raspberry-pi-5"))
    with tarfile.open(place) as archive:
        entries = archive.getmembers()
        assert {(entry.uid, entry.gid, entry.uname, entry.gname, entry.mtime) for entry in entries} == {
            (0, 0, "", "", 0)
        }
        assert all(entry.isfile() for entry in entries)
        for entry in entries:
            stored = archive.extractfile(entry)
            assert stored is not None
            data = stored.read().lower() + entry.name.lower().encode()
            assert not [secret for secret in SECRETS if secret.lower().encode() in data]
            path = tmp_path / "unpacked" / entry.name
            path.parent.mkdir(parents=True, exist_ok=True)
            stored.seek(0)
            path.write_bytes(stored.read())
    folder = tmp_path / "unpacked" / "sent"
    assert observed(folder) == json.loads((folder / "expected.json").read_text())


def test_reads_that_fail_fail_again_and_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone = "sys/class/thermal/thermal_zone0/temp"
    refused = {zone: 11, "sys/class/hwmon/hwmon1/in1_input": 13}
    plain = SysRoot.read_bytes

    def read(root: SysRoot, rel: str) -> bytes:
        if rel in refused and not isinstance(root, case.CaseRoot | RecordingRoot):
            raise OSError(refused[rel], "refused", rel)
        return plain(root, rel)

    monkeypatch.setattr(SysRoot, "read_bytes", read)
    done = record("jetson-orin-nano-super", tmp_path / "copy")
    assert done.unread == {zone: "broken (EAGAIN)", "sys/class/hwmon/hwmon1/in1_input": "denied (EACCES)"}
    assert done.differs == ()
    monkeypatch.undo()
    sensors = {one["name"]: one["status"] for one in observed(tmp_path / "copy")["facts"]["sensors"]}
    assert (sensors["thermal:cpu-thermal"], sensors["ina3221:VDD_IN"]) == ("broken", "denied")
    assert "denied (EACCES)" in (tmp_path / "copy/ORIGIN.md").read_text()


def test_further_files_stop_at_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.device.capture._MOST_FURTHER_FILES", 3)
    done = record("jetson-orin-nano-super", tmp_path / "copy")
    assert done.left_out > 0
    assert done.differs == ()  # what the agent reads itself is whole
    assert f"{done.left_out} further files" in (tmp_path / "copy/ORIGIN.md").read_text()


def test_a_place_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        record("vm-kvm", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]


def test_a_folder_that_is_no_board_is_said(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="holds no board"):
        case.open_case(tmp_path)
    (tmp_path / "proc").mkdir()
    (tmp_path / "case.json").write_text("{")
    with pytest.raises(DeviceError, match=r"case\.json cannot be read"):
        case.open_case(tmp_path)


def test_a_link_in_a_strangers_case_is_not_followed_out(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of this machine")
    board = tmp_path / "board"
    (board / "etc").mkdir(parents=True)
    (board / "proc").mkdir()
    (board / "etc/os-release").symlink_to(tmp_path / "secret")
    root = case.open_case(board, PROFILES).root
    assert root.try_text("etc/os-release") is None


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("raspberrypi,5-model-b on 0000:01:00.0", "raspberrypi,5-model-b on 0000:01:00.0"),
        ("DC:A6:32:01:02:03 dc:a6:32:01:02:03", "removed-mac-1 removed-mac-1"),
        ("6.6.31+rpt-rpi-2712 " + "f" * 31, "6.6.31+rpt-rpi-2712 " + "f" * 31),
        ("x" + "0f" * 16, "x" + "0f" * 16),
        ("docker-" + "0f" * 32 + ".scope", "docker-removed-id-1.scope"),
    ],
)
def test_shapes(tmp_path: Path, text: str, left: str) -> None:
    assert Redactor(SysRoot(tmp_path)).text(text) == left
