"""Operating system, container and NVIDIA's Linux for Tegra release.

Sources: os-release(5); /etc/nv_tegra_release as jetson_stats reads it (missing in containers, so it is no test for
"is a Jetson"); container marks: Docker's /.dockerenv, Podman's /run/.containerenv, systemd's /run/systemd/container.
"""

from __future__ import annotations

import re
import shlex

from agent.core.facts import OsFacts
from agent.device.host import Host
from agent.device.root import SysRoot

_L4T = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")
_CGROUP_MARKS = (("kubepods", "kubernetes"), ("docker", "docker"), ("libpod", "podman"), ("lxc", "lxc"))


def parse_os_release(text: str) -> dict[str, str]:
    """Read shell-like assignments; a line that is none is left out."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or name.startswith("#"):
            continue
        try:
            fields[name] = " ".join(shlex.split(value))
        except ValueError:
            continue
    return fields


def read_l4t(root: SysRoot) -> str | None:
    """Return the release such as R36.4.3, None where the file is missing."""
    match = _L4T.search(root.try_text("etc/nv_tegra_release") or "")
    return f"R{match[1]}.{match[2]}" if match else None


def read_container(root: SysRoot) -> str | None:
    """Name the kind of container we run in, None outside of one."""
    said = root.try_text("run/systemd/container")
    if said:
        return said
    if root.exists(".dockerenv"):
        return "docker"
    if root.exists("run/.containerenv"):
        return "podman"
    groups = root.try_text("proc/1/cgroup") or ""
    return next((name for mark, name in _CGROUP_MARKS if mark in groups), None)


def read_os(root: SysRoot, host: Host) -> OsFacts:
    """Read the operating system's facts; what the running process knows comes as a value."""
    release = parse_os_release(root.try_text("etc/os-release") or root.try_text("usr/lib/os-release") or "")
    return OsFacts(
        name=release.get("PRETTY_NAME") or release.get("NAME"),
        kernel=root.try_text("proc/sys/kernel/osrelease"),
        python=host.python,
        libc=host.libc,
        pointer_bits=host.pointer_bits,
        l4t=read_l4t(root),
        container=read_container(root),
    )
