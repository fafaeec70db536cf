"""Recording a board as a case (``case``): what the agent read of it, and what a maintainer asks for next.

Rules:
- What is recorded is what is read: the board is read through a root that keeps every answer, so no list of files can
  fall behind the code. Each file is read once and answers the same from then on: a case has one moment.
- ``FURTHER`` names what the agent does not read and a new profile needs. It stops at a bound; the agent's reads do not.
- Everything, names of files included, goes through ``redaction`` before it is written. The machine id is not kept.
- What was written is read back and compared with what the live board said; any difference is told.

Left to others: what libraries and other machines say (NVML, meters over MQTT) is in no file and is not recorded.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import gzip
import io
import json
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from agent import __version__
from agent.device import case, cpu, identify, profiles
from agent.device.board import Board
from agent.device.host import Host, this_host
from agent.device.redaction import Redactor, names_somebody
from agent.device.root import SysRoot, classify, state_of
from agent.device.vcgencmd import Firmware, firmware_of
from agent.durable import storage_error
from agent.errors import ConfigError, SensorUnavailableError

_HWMON, _THERMAL, _CPUFREQ = "sys/class/hwmon/hwmon*", "sys/class/thermal", "sys/devices/system/cpu/cpufreq/policy*"
FURTHER = (
    *(f"{_HWMON}/{name}" for name in ("name", "*_label", "*_input", "*_crit*", "*_max*", "*_alarm", "pwm[0-9]", "rpm")),
    *(f"{_HWMON}/{name}" for name in ("*_resistor", "power*_average", "update_interval", "samples", "oc*_*")),
    *(
        f"{_THERMAL}/thermal_zone*/{name}"
        for name in ("type", "temp", "policy", "trip_point_*_temp", "trip_point_*_type")
    ),
    *(f"{_THERMAL}/cooling_device*/{name}" for name in ("type", "cur_state", "max_state")),
    *(f"{_CPUFREQ}/{name}" for name in ("cpuinfo_*", "scaling_*", "*_cpus")),
    *(f"sys/class/regulator/regulator*/{name}" for name in ("name", "type", "state", "microvolts", "microamps")),
    *(f"sys/class/power_supply/*/{name}" for name in ("type", "scope", "status", "online", "*_now", "technology")),
    *(f"sys/class/devfreq/*/{name}" for name in ("cur_freq", "min_freq", "max_freq", "governor", "load")),
    *(f"sys/class/powercap/*/{name}" for name in ("name", "max_energy_range_uj", "constraint_*_name")),
    *("sys/bus/iio/devices/iio:device*/name", "sys/bus/i2c/devices/*/name", "sys/class/apex/apex_*/*temp"),
    *("sys/class/fan/*/name", "sys/devices/soc0/machine", "sys/devices/soc0/family", "proc/cpuinfo", "proc/cgroups"),
    *("proc/device-tree/model", "proc/device-tree/compatible", "proc/device-tree/nvidia,dtsfilename", "proc/cmdline"),
    *("etc/rpi-issue", "etc/nv_tegra_release", "etc/nvpmodel.conf", "etc/debian_version"),
    *(f"sys/devices/system/cpu/cpu0/cache/index*/{name}" for name in ("level", "type", "size", "shared_cpu_list")),
)
_FIRMWARE_COMMANDS = ("get_throttled", "pmic_read_adc", "measure_temp")
_MOST_FURTHER_FILES, _MOST_FURTHER_BYTES, _LONGEST_FURTHER_BYTES = 3000, 4 << 20, 64 << 10  # chosen: a mail takes it
_MOST_NAMES = 512  # of a folder that is listed whole; chosen: a device tree has a hundred
_NEVER = frozenset({"etc/machine-id", "var/lib/dbus/machine-id", "proc/sys/kernel/random/boot_id"})
_CPU_LINES = frozenset({"proc/stat"})  # the lines of interrupts are long, change at once and are not read
_KINDS = {
    "id": "machine ids and other long ids",
    "mac": "MAC addresses",
    "uuid": "UUIDs",
    "serial": "serial numbers",
    "host": "host names",
    "user": "user names",
    "kernel parameter": "parameters of the kernel's command line",
}


class RecordingRoot(SysRoot):
    """Reads a board and keeps every answer; asks each file once. It writes nothing to the board."""

    def __init__(self, path: Path = Path("/")) -> None:
        super().__init__(path)
        self.files: dict[str, bytes | OSError] = {}
        self.present: dict[str, bool] = {}
        self.links: dict[str, str | None] = {}
        self.names: dict[str, tuple[str, ...]] = {}
        self._plain = SysRoot(path)

    @property
    def is_real(self) -> bool:
        """Never: what only the running machine's libraries know cannot be recorded."""
        return False

    def read_bytes(self, rel: str) -> bytes:
        """Read a file once. Raises: OSError: the same from then on."""
        if rel not in self.files:
            try:
                data = self._plain.read_bytes(rel)
                if rel in _CPU_LINES:
                    data = b"".join(line for line in data.splitlines(keepends=True) if line.startswith(b"cpu"))
                self.files[rel] = data
            except OSError as error:
                self.files[rel] = error
        found = self.files[rel]
        if isinstance(found, OSError):
            raise OSError(found.errno, found.strerror, rel)
        return found

    def write_text(self, rel: str, text: str) -> bool:  # noqa: ARG002 - of the interface
        """Refuse."""
        return False

    def exists(self, rel: str) -> bool:
        """Whether the name leads to something."""
        if rel not in self.present:
            self.present[rel] = self._plain.exists(rel)
        return self.present[rel]

    def list_dir(self, rel: str) -> tuple[str, ...]:
        """Return a folder's entries."""
        if rel not in self.names:
            self.names[rel] = self._plain.list_dir(rel)[:_MOST_NAMES]
        return self.names[rel]

    def glob(self, pattern: str) -> tuple[str, ...]:
        """Return the names that match; of the folders on the way only what matched is recorded."""
        found = self._plain.glob(pattern)
        self.present.update(dict.fromkeys(found, True))
        return found

    def link_name(self, rel: str) -> str | None:
        """Return the last component of what a link leads to."""
        if rel not in self.links:
            self.links[rel] = self._plain.link_name(rel)
        return self.links[rel]


class _RecordingFirmware:
    def __init__(self, ask: Firmware) -> None:
        self._ask = ask
        self.answers: dict[str, str | SensorUnavailableError] = {}

    def __call__(self, command: str) -> str:
        if command not in self.answers:
            try:
                self.answers[command] = self._ask(command)
            except SensorUnavailableError as error:
                self.answers[command] = error
        answer = self.answers[command]
        if isinstance(answer, SensorUnavailableError):
            raise answer
        return answer


class Captured(msgspec.Struct, frozen=True, kw_only=True):
    """What was recorded. ``removed`` counts by kind; ``unread`` are files that answered with an error, and which."""

    place: str
    profile: str
    files: int
    size_bytes: int
    removed: dict[str, int] = {}
    unread: dict[str, str] = {}
    left_out: int = 0  # further files beyond the bound
    differs: tuple[str, ...] = ()  # facts that read differently from the case than on the board
    schema: str = "boardfit.captured/1"


def capture(
    place: Path,
    root: SysRoot | None = None,
    *,
    profiles_dir: Path | None = None,
    host: Host | None = None,
    firmware: Firmware | None = None,
) -> Captured:
    """Record a board into a new folder, or into a file whose name ends in .tar.gz.

    Args: root: the board, None for this machine; host, firmware: of a board that is not this machine.
    Raises: ConfigError: the place is taken. StorageError: it cannot be written. DeviceError: the board cannot be read.
    """
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise ConfigError(f"{place} exists already", fix="name a new folder, or a new file ending in .tar.gz")
    plain = root or SysRoot()
    also: tuple[tuple[str, str], ...] = ()
    if plain.is_real:
        host, firmware, also = host or this_host(), firmware or firmware_of(plain), _who_runs_this()
    recorder, host = RecordingRoot(plain.path), host or Host()
    asked = _RecordingFirmware(firmware) if firmware is not None else None
    folder = profiles_dir or profiles.find_folder()
    # in this process: a board is otherwise recognised in a child, and what that reads would be lost
    identify.identify(recorder, profiles.load_all(folder), cpu.architecture_of(recorder, host.machine))
    live = case.observe(
        Board(recorder, folder, affinity=host.affinity, clock=case.StillClock(), host=host, firmware=asked)
    )
    left_out = _read_further(recorder)
    for command in _FIRMWARE_COMMANDS if asked is not None else ():
        with contextlib.suppress(SensorUnavailableError):
            asked(command)  # type: ignore[misc]
    redactor = Redactor(plain, also)
    files = _case_files(recorder, host, asked, redactor)
    with tempfile.TemporaryDirectory(prefix="boardfit-capture-") as scratch:
        _write_folder(Path(scratch), files)
        seen = json.loads(json.dumps(case.observe(case.open_case(Path(scratch), folder))))
    live["facts"]["board"]["device_id"] = None
    wanted = json.loads(redactor.text(json.dumps(live, ensure_ascii=True)))
    done = Captured(
        place=str(place),
        profile=seen["facts"]["board"]["profile"],
        files=len(files),
        size_bytes=sum(map(len, files.values())),
        removed=dict(redactor.removed),
        unread={redactor.text(rel): text for rel, text in _unread(recorder, asked)},
        left_out=left_out,
        differs=tuple(_differences(wanted, seen)),
    )
    files[case.EXPECTED] = (json.dumps(seen, indent=1, ensure_ascii=False) + "\n").encode()
    files[case.ORIGIN] = _origin(done, seen).encode()
    try:
        if place.name.endswith((".tar.gz", ".tgz")):
            _write_archive(place, files)
        else:
            _write_folder(place, files)
    except OSError as error:
        raise storage_error(error, place) from error
    return done


def _who_runs_this() -> tuple[tuple[str, str], ...]:
    names = [os.environ.get("SUDO_USER", ""), os.environ.get("USER", "")]
    with contextlib.suppress(KeyError, OSError):
        names.append(getpass.getuser())
    hosts = [os.uname().nodename, os.uname().nodename.partition(".")[0]]
    return tuple(
        (kind, name)
        for kind, found in (("user", names), ("host", hosts))
        for name in dict.fromkeys(found)
        if names_somebody(name)
    )


def _read_further(recorder: RecordingRoot) -> int:
    """Read what a maintainer asks for next, up to the bound; return how many files were left out."""
    count = size = left_out = 0
    plain = SysRoot(recorder.path)  # what is found and not kept is not recorded
    for pattern in FURTHER:
        for rel in plain.glob(pattern):
            if rel in recorder.files or recorder.locate(rel).is_dir():
                continue
            if count >= _MOST_FURTHER_FILES or size >= _MOST_FURTHER_BYTES:
                left_out += 1
                continue
            count += 1
            with contextlib.suppress(OSError):
                size += len(recorder.read_bytes(rel))
            found = recorder.files[rel]
            if isinstance(found, bytes):
                recorder.files[rel] = found[:_LONGEST_FURTHER_BYTES]
    return left_out


def _case_files(
    recorder: RecordingRoot, host: Host, asked: _RecordingFirmware | None, redactor: Redactor
) -> dict[str, bytes]:
    """Return every file of the case by name, redacted."""
    files: dict[str, bytes] = {}
    errors: dict[str, str] = {}
    for rel, found in recorder.files.items():
        if rel in _NEVER:
            redactor.removed["id"] += isinstance(found, bytes)
        elif isinstance(found, bytes):
            files[rel] = redactor.content(rel, found)
        elif classify(found) != "absent":
            files[rel] = b""
            errors[redactor.text(rel)] = errno.errorcode.get(found.errno or 0, "EIO")
    for rel, there in recorder.present.items():
        if there and rel not in files and rel not in _NEVER:
            files[f"{rel}/.gitkeep" if recorder.locate(rel).is_dir() else rel] = b""
    for rel, names in recorder.names.items():
        files |= {child: b"" for name in names if (child := f"{rel}/{name}") not in files and child not in _NEVER}
    folders = {parent for rel in files for parent in _parents(rel) if not rel.endswith("/.gitkeep")}
    files = {
        redactor.text(rel): data
        for rel, data in files.items()
        if rel not in folders and rel.removesuffix("/.gitkeep") not in (folders if rel.endswith("/.gitkeep") else ())
    }
    failed: dict[str, tuple[str, str]] = {}
    for command, answer in (asked.answers if asked else {}).items():
        if isinstance(answer, str):
            files[f"{case.FIRMWARE}/{command}"] = redactor.content(command, answer.encode())
        else:
            failed[command] = (state_of(answer), redactor.text(answer.problem.partition(": ")[2] or answer.problem))
    links = {redactor.text(rel): redactor.text(name) for rel, name in recorder.links.items() if name is not None}
    notes = case.Notes(errors=errors, links=links, firmware=failed)
    files[case.NOTES] = msgspec.json.format(msgspec.json.encode(notes), indent=1) + b"\n"
    files[case.HOST] = msgspec.json.format(msgspec.json.encode(host), indent=1) + b"\n"
    return files


def _parents(rel: str) -> list[str]:
    parts = rel.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _unread(recorder: RecordingRoot, asked: _RecordingFirmware | None) -> list[tuple[str, str]]:
    found = [
        (rel, f"{classify(error)} ({errno.errorcode.get(error.errno or 0, '?')})")
        for rel, error in recorder.files.items()
        if isinstance(error, OSError) and classify(error) != "absent"
    ]
    for command, answer in (asked.answers if asked else {}).items():
        if isinstance(answer, SensorUnavailableError):
            found.append((f"vcgencmd {command}", state_of(answer)))
    return sorted(found)


def _differences(wanted: Any, seen: Any, where: str = "") -> list[str]:
    """Name the places in which two documents differ."""
    if isinstance(wanted, dict) and isinstance(seen, dict):
        keys = dict.fromkeys((*wanted, *seen))
        return [one for key in keys for one in _differences(wanted.get(key), seen.get(key), f"{where}.{key}")]
    if where == ".facts.class_fingerprint":
        return []  # follows from the others
    return [] if wanted == seen else [where.removeprefix(".")]


def _write_folder(place: Path, files: dict[str, bytes]) -> None:
    for rel, data in sorted(files.items()):
        path = place / rel
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _write_archive(place: Path, files: dict[str, bytes]) -> None:
    """Write a .tar.gz whose entries have no owner and no time."""
    top = place.name.removesuffix(".tgz").removesuffix(".tar.gz")
    with (
        place.open("xb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for rel, data in sorted(files.items()):
            entry = tarfile.TarInfo(f"{top}/{rel}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def _origin(done: Captured, seen: dict[str, Any]) -> str:
    model = seen["facts"]["board"]["model"] or "a board that does not say its model"
    system, kernel = seen["facts"]["os"]["name"] or "an unnamed system", seen["facts"]["os"]["kernel"] or "?"
    removed = [
        f"- {_KINDS.get(kind, kind)}: in {count} places" for kind, count in sorted(done.removed.items()) if count
    ]
    unread = [f"- `{rel}`: {why}" for rel, why in done.unread.items()]
    differs = [f"- `{place}`" for place in done.differs]
    lines = [
        f"# {model}, profile {done.profile}, captured",
        "",
        f"Recorded by `boardfit profile --capture`, boardfit {__version__}, on {system}, kernel {kernel}. It holds",
        "what the agent read (proc, sys, device tree), and sensors, regulators and clocks that a profile may need.",
        "`boardfit profile --root` on this folder shows the board. As a test: put the folder into tests/boards/ and",
        "add its line to PROMISES in tests/device/test_boards.py. Please look through it before you send it.",
        "",
        "## Removed",
        "",
        *(removed or ["Nothing was found that had to be."]),
        "",
        "Names that images ship with (pi, raspberrypi, jetson ...) name nobody and were left.",
        "",
        "## Not read",
        "",
        *(unread or ["Everything that was asked for answered or is not there."]),
        *([f"- {done.left_out} further files, beyond the bound on size"] if done.left_out else []),
        "- what libraries and other machines say (NVML, meters over MQTT) is in no file",
        "",
        "## Reads differently from here than on the board",
        "",
        *(differs or ["Nothing."]),
    ]
    return "\n".join(lines) + "\n"
