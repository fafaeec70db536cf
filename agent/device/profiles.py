"""Board profiles: what is known of a board before it is read, from profiles/*.yaml, one file per board.

Rules:
- A profile never invents a reading: it names sensors, rails and limits; whether they are there is read on the board.
- An unknown key or a wrong type is an error that names file and field. Two profiles may not claim one compatible.
- Default budgets are text with units, as a user would write them.
- What a profile does not state, it says so and why (``not_stated``): silence and "none" differ.

Where the folder lies is known to ``agent.resources``.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from agent.core.facts import PowerScope
from agent.documents import YamlProblemError, parse_yaml
from agent.errors import DeviceError
from agent.resources import board_profiles

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]*$")]
# an unquoted comma splits a YAML flow list, and "raspberrypi" alone would claim every board of that vendor
Compatible = Annotated[str, msgspec.Meta(pattern=r"^[^,\s]+,[^,\s]+$")]
Text = Annotated[str, msgspec.Meta(min_length=1)]
ThrottleSource = Literal[
    "get_throttled", "rpi_volt", "soctherm_oc", "throttle-alert", "ina3221", "cooling", "thermal_throttle", "apex"
]
Item = Literal["recognition", "thermal", "power", "throttle_sources", "power_modes", "traps", "default_budgets"]
PowerSource = Literal["ina3221", "ina2xx", "rapl", "battery", "pmic"]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section of a profile; a key we do not know is an error."""


class Recognition(_Part, frozen=True, kw_only=True):
    """By what the board is recognised; ``compatible`` entries also match with a ``-super`` suffix."""

    compatible: tuple[Compatible, ...] = ()
    architectures: tuple[Text, ...] = ()  # for the generic profiles
    virtual: bool = False


class Soc(_Part, frozen=True, kw_only=True):
    """System on chip."""

    name: Text
    vendor: Text


class ClusterSpec(_Part, frozen=True, kw_only=True):
    """Cores of one kind as the vendor states them."""

    name: Text
    cores: Annotated[int, msgspec.Meta(ge=1)]
    part: Text | None = None
    freq_max_mhz: Annotated[float, msgspec.Meta(gt=0)] | None = None
    freq_min_mhz: Annotated[float, msgspec.Meta(gt=0)] | None = None


class CpuSpec(_Part, frozen=True, kw_only=True):
    """Processor as the vendor states it."""

    clusters: tuple[ClusterSpec, ...] = ()
    features_absent: tuple[Text, ...] = ()


class ThermalSpec(_Part, frozen=True, kw_only=True):
    """Zones: which one stands for the board, which lie, and where slowing down starts."""

    board_zone_types: tuple[Text, ...] = ()
    ignored_zone_types: tuple[Text, ...] = ()
    throttle_celsius: float | None = None


class PowerSpec(_Part, frozen=True, kw_only=True):
    """Power: which source, which rail is the total, or why there is none."""

    sources: tuple[PowerSource, ...] = ()
    total_rail: Text | None = None
    total_scope: PowerScope | None = None
    sum_rails: tuple[Text, ...] = ()
    absent_reason: Text | None = None
    note: Text | None = None


class PowerModes(_Part, frozen=True, kw_only=True):
    """One published table of nvpmodel modes; the board's own /etc/nvpmodel.conf wins over it."""

    release: Text
    names: dict[str, Text]
    default: Text | None = None


class AcceleratorSpec(_Part, frozen=True, kw_only=True):
    """An accelerator of the SoC. With ``nodes`` it counts as present only where one of them exists."""

    kind: Literal["gpu", "npu", "tpu", "dla", "dsp"]
    name: Text
    nodes: tuple[Text, ...] = ()
    note: Text | None = None


class Issue(_Part, frozen=True, kw_only=True):
    """A known issue of a board, told unless it is known not to concern what runs here.

    ``engine`` with ``versions``: only those; ``l4t``: only releases that start so.
    """

    text: Text
    engine: Text | None = None
    versions: tuple[Text, ...] = ()
    l4t: Text | None = None


class Profile(_Part, frozen=True, kw_only=True):
    """The whole file."""

    schema: Literal["boardfit.board/1"]
    name: Name
    title: Text
    recognition: Recognition
    soc: Soc | None = None
    cpu: CpuSpec = CpuSpec()
    memory_sizes_mib: tuple[Annotated[int, msgspec.Meta(ge=1)], ...] = ()
    thermal: ThermalSpec = ThermalSpec()
    power: PowerSpec = PowerSpec()
    throttle_sources: tuple[ThrottleSource, ...] = ()  # by which this board tells that it slows itself down
    power_modes: tuple[PowerModes, ...] = ()
    accelerators: tuple[AcceleratorSpec, ...] = ()
    traps: dict[str, Text] = {}  # check of traps.py -> what it means on this board
    known_issues: tuple[Issue, ...] = ()
    not_stated: dict[Item, Text] = {}  # why an item is empty: not known, or the board has none
    default_budgets: dict[str, Text] = {}


UNKNOWN = Profile(schema="boardfit.board/1", name="unknown", title="Unknown board", recognition=Recognition())


def find_folder() -> Path:
    """Return the folder of the profiles that ship with boardfit. Raises: DeviceError: they are not there."""
    folder = board_profiles()
    if folder is None:
        raise DeviceError("the board profiles of boardfit are not installed", fix="reinstall boardfit")
    return folder


def parse(text: str, source: str) -> Profile:
    """Read one profile. Raises: DeviceError: names file and field."""
    try:
        (document,) = parse_yaml([text])
    except YamlProblemError as error:
        raise _invalid(source, error.problem) from error
    return _profile(document, source)


def _profile(document: object, source: str) -> Profile:
    try:
        profile = msgspec.convert(document, Profile, strict=True)
    except msgspec.ValidationError as error:
        raise _invalid(source, str(error)) from error
    if profile.name != Path(source).stem:
        raise DeviceError(
            f"board profile {source}: $.name is {profile.name!r}", fix="name it like its file", file=source
        )
    return profile


def _invalid(source: str, problem: str) -> DeviceError:
    return DeviceError(f"board profile {source}: {problem}", fix="correct the profile", file=source)


@lru_cache(maxsize=4)
def load_all(folder: Path) -> tuple[Profile, ...]:
    """Load every profile of a folder, by file name. Raises: DeviceError."""
    profiles: list[Profile] = []
    claimed: dict[str, str] = {}
    texts: dict[Path, str] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            texts[path] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DeviceError(f"board profile {path} cannot be read: {error}", fix="reinstall boardfit") from error
    try:
        documents = parse_yaml(list(texts.values()))
    except YamlProblemError as error:
        raise _invalid(str(list(texts)[error.number]), error.problem) from error
    for path, document in zip(texts, documents, strict=True):
        profile = _profile(document, str(path))
        for compatible in profile.recognition.compatible:
            other = claimed.setdefault(compatible, profile.name)
            if other != profile.name:
                raise DeviceError(
                    f"board profile {path}: $.recognition.compatible {compatible!r} is also claimed by {other}",
                    fix="leave it in one of the two",
                    file=str(path),
                )
        profiles.append(profile)
    if not profiles:
        raise DeviceError(f"no board profile in {folder}", fix="point to a folder of profiles")
    return tuple(profiles)
