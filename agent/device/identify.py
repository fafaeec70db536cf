"""Which board is this, and which boot of it: device tree, DMI, hypervisor, matched to a profile.

Rules:
- A board is matched on device-tree ``compatible``, most specific entry first; ``model`` strings change between
  releases (a Jetson's L4T 32.1 and 32.2 disagree) and carry revisions. ``-super`` is accepted after any entry.
- A virtual machine is a virtual machine whatever board it imitates, unless its device tree names a board we know.
- What no profile knows falls to the architecture's generic profile, and says so in ``matched_on``.

Sources: torvalds/linux Documentation/devicetree/usage-model.rst; systemd/systemd src/basic/virt.c for the order and
prefixes of DMI vendors; NVIDIA/jetson-gpio issue 125 for ``-super``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from agent.core.facts import BoardIdentity, Hardware
from agent.device.profiles import UNKNOWN, Profile
from agent.device.root import SysRoot

_SUFFIXES = ("", "-super")
_DMI = "sys/class/dmi/id"
_DMI_FIELDS = ("product_name", "sys_vendor", "board_vendor", "bios_vendor", "product_version")
_DMI_PREFIXES = (
    ("KVM", "kvm"),
    ("OpenStack", "kvm"),
    ("KubeVirt", "kvm"),
    ("Amazon EC2", "amazon"),
    ("QEMU", "qemu"),
    ("VMware", "vmware"),
    ("VMW", "vmware"),
    ("innotek GmbH", "oracle"),
    ("VirtualBox", "oracle"),
    ("Xen", "xen"),
    ("Bochs", "bochs"),
    ("Parallels", "parallels"),
    ("BHYVE", "bhyve"),
    ("Hyper-V", "microsoft"),
    ("Apple Virtualization", "apple"),
    ("Google Compute Engine", "google"),
)
_CLOCKSOURCES = (("kvm-clock", "kvm"), ("hyperv_clocksource", "microsoft"), ("xen", "xen"))
_OTHER = "vm-other"


def _dmi_virtualization(root: SysRoot) -> str | None:
    values = {field: root.try_text(f"{_DMI}/{field}") or "" for field in _DMI_FIELDS}
    for field in _DMI_FIELDS:
        for prefix, name in _DMI_PREFIXES:
            if values[field].startswith(prefix):
                metal = name == "amazon" and values["product_name"].endswith(".metal")
                return None if metal else name
    return None


def read_virtualization(root: SysRoot) -> str | None:
    """Name the hypervisor this machine runs under; None on bare metal."""
    from_dmi = _dmi_virtualization(root)
    if from_dmi is not None:
        return from_dmi
    hypervisor = root.device_tree("hypervisor/compatible")
    if hypervisor:
        return "kvm" if any("kvm" in name for name in hypervisor) else hypervisor[0]
    if any("fw-cfg" in name for name in root.device_tree_names()):
        return "qemu"
    kind = root.try_text("sys/hypervisor/type")
    if kind:
        return kind
    if " hypervisor " not in f" {_first_flags(root)} ":
        return None
    # a guest often runs on tsc, but the hypervisor's own clock stays on the list of what it could use
    clocks = (root.try_text("sys/devices/system/clocksource/clocksource0/available_clocksource") or "").split()
    return next((name for prefix, name in _CLOCKSOURCES for clock in clocks if clock.startswith(prefix)), _OTHER)


def _first_flags(root: SysRoot) -> str:
    for line in (root.try_text("proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return value.strip()
    return ""


def match(
    profiles: Sequence[Profile], compatible: Sequence[str], virtualization: str | None, architecture: str
) -> tuple[Profile, str]:
    """Return the profile that fits and by what it was recognised."""
    claims = {
        entry + suffix: profile
        for profile in profiles
        for entry in profile.recognition.compatible
        for suffix in _SUFFIXES
    }
    for entry in compatible:
        if entry in claims:
            return claims[entry], f"compatible {entry}"
    if virtualization is not None:
        for profile in profiles:
            if profile.recognition.virtual:
                return profile, f"virtualization {virtualization}"
    for profile in profiles:
        if architecture in profile.recognition.architectures:
            return profile, f"architecture {architecture}"
    return UNKNOWN, "nothing: no profile knows this board or its architecture"


def read_model(root: SysRoot) -> str | None:
    """Return what the board calls itself: device-tree model, or DMI vendor and product."""
    tree = root.device_tree("model")
    if tree:
        return tree[0]
    parts = [text for field in ("sys_vendor", "product_name") if (text := root.try_text(f"{_DMI}/{field}"))]
    return " ".join(parts) or None


def read_device_id(root: SysRoot) -> str | None:
    """Derive a stable identity from the machine id, and the board's serial if it has one, without disclosing either.

    The serial keeps two boards apart whose memory cards were copied, machine id and all.
    Source: systemd machine-id(5): the id is confidential; applications derive their own by a keyed hash.
    """
    machine_id = _machine_id(root)
    if machine_id is None:
        return None
    return hashlib.sha256(f"boardfit{machine_id}{_serial(root) or ''}".encode()).hexdigest()[:16]


def read_hardware(root: SysRoot) -> Hardware:
    """Return by what this machine is told from others; DMI's serials are left out, which only root may read."""
    return Hardware(serial=_disguised(_serial(root)), machine=_disguised(_machine_id(root)))


def _machine_id(root: SysRoot) -> str | None:
    machine_id = root.try_text("etc/machine-id") or root.try_text("var/lib/dbus/machine-id")
    return machine_id if machine_id and machine_id != "uninitialized" else None


def _serial(root: SysRoot) -> str | None:
    """Return the board's own number: the device tree's ``serial-number``, which firmware fills in; zeros are none.

    Source: Devicetree Specification 0.4, section 3.2.
    """
    text = next(iter(root.device_tree("serial-number")), "")
    return text if text.strip("0") else None


def _disguised(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(b"boardfit hardware" + text.encode()).hexdigest()[:32]


def read_boot_id(root: SysRoot) -> str | None:
    """Return the random id of this boot, None where the kernel does not give one.

    Source: proc/sys/kernel/random/boot_id, torvalds/linux Documentation/admin-guide/sysctl/kernel.rst.
    """
    return root.try_text("proc/sys/kernel/random/boot_id") or None


def identify(root: SysRoot, profiles: Sequence[Profile], architecture: str) -> tuple[BoardIdentity, Profile]:
    """Recognise the board and return who it is with the profile that describes it."""
    compatible = root.device_tree("compatible")
    virtualization = read_virtualization(root)
    profile, matched_on = match(profiles, compatible, virtualization, architecture)
    soc = profile.soc.name if profile.soc else (compatible[-1] if compatible else None)
    identity = BoardIdentity(
        model=read_model(root),
        compatible=compatible,
        soc=soc,
        profile=profile.name,
        matched_on=matched_on,
        virtualization=virtualization,
        device_id=read_device_id(root),
    )
    return identity, profile
