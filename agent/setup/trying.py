"""Tries each answer by doing it: a root by a sync that it verifies, a broker by hearing ourselves, sensors by reading.

Rules:
- What is tried leaves nothing behind on this board: the sync goes into a folder that is deleted.
- A root of trust is a file that somebody brought, or is fetched and has the fingerprint that somebody brought; never
  what a server says it is.
- At the broker the board says, unretained, that it is being set up, on its own status topic, and must hear just that.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from agent import __version__
from agent.config import MqttConfig, parse_config
from agent.core.messages import encode
from agent.core.payloads import Status
from agent.core.topics import address, client_id, topic_for
from agent.endpoints import broker_of
from agent.enrolment.proof import Finding
from agent.errors import BoardfitError, ConfigError, ReportError
from agent.mqtt import Connection, Incoming, drive
from agent.registry.transport import open_transport
from agent.site import Site

TIMEOUT_S = 15.0
_MAX_ROOT_BYTES = 512_000  # as ``agent.registry.client``
_WEB = ("http://", "https://")


def take_root(where: str, fingerprint: str) -> bytes:
    """Return the root of trust from a file, or from a web server by its SHA-256.

    Raises: ConfigError: no such file, another fingerprint, or none for one that is fetched. DownloadError.
    """
    wanted = re.sub(r"[\s:]", "", fingerprint).lower()
    if wanted and not re.fullmatch(r"[0-9a-f]{64}", wanted):
        raise ConfigError("root_sha256 is not a SHA-256", fix="give 64 hexadecimal digits: sha256sum root.json")
    if where.startswith(_WEB):
        if not wanted:
            raise ConfigError(
                f"the root of trust at {where} is not taken on the server's word",
                fix="give its fingerprint as root_sha256 (sha256sum root.json, where it was made), or bring the file",
            )
        folder, _, name = where.rpartition("/")
        with open_transport(folder).open_range(name) as stream:
            data = b""
            for piece in stream:
                data += piece
                if len(data) > _MAX_ROOT_BYTES:
                    raise ConfigError(f"{where} is no root of trust: it is too large", fix="check the address")
    else:
        path = Path(os.path.expanduser(where.removeprefix("file://")))  # noqa: PTH111 - as agent.config_values
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"the root of trust {path} cannot be read: {error.strerror}", fix="copy root.json to this board"
            ) from error
    found = hashlib.sha256(data).hexdigest()
    if wanted and found != wanted:
        raise ConfigError(
            f"the root of trust at {where} has the fingerprint {found[:16]}…, not {wanted[:16]}…",
            fix="do not use it before you know why: ask who runs the registry",
        )
    return data


def try_registry(section: dict[str, Any], root: bytes) -> tuple[Finding, dict[str, int]]:
    """Sync with this root, and count the candidates of each task.

    Raises: TrustError, DownloadError, ConfigError.
    """
    with tempfile.TemporaryDirectory(prefix="boardfit-setup-") as folder:
        anchor = Path(folder) / "root.json"
        anchor.write_bytes(root)
        config = parse_config({"registry": {**section, "root": str(anchor)}}, path=None)
        with Site(config, Path(folder) / "state") as site:
            status = site.registry.refresh()
            tasks: dict[str, int] = {}
            for candidate in site.registry.candidates():
                tasks[candidate.task] = tasks.get(candidate.task, 0) + 1
    text = f"{section['url']}: {status.candidates} candidates, valid until {min(status.expires.values())}"
    return Finding(subject="registry", state="ok", text=text), tasks


def try_broker(settings: MqttConfig, device: str, password: str | None = None) -> Finding:
    """Connect, and hear on the status topic what we say there.

    Args: password: instead of a file.
    Raises: ReportError: not reached, refused, or not heard. ConfigError: a file cannot be used.
    """
    at = address(settings.fleet, device)
    broker = broker_of(settings)
    if password is not None:
        broker = msgspec.structs.replace(broker, password=password, password_file=None)
    # A name of its own: with the device's, a running daemon would be thrown off.
    connection = Connection(msgspec.structs.replace(broker, client_id=f"{client_id(at)}-setup"))
    topic = topic_for(at, "status")
    reason = f"being set up ({os.urandom(4).hex()})"
    status = Status(fleet=at.fleet, device=device, state="offline", reason=reason, agent_version=__version__)
    heard: list[Incoming] = []
    try:
        connection.connect(TIMEOUT_S)
        connection.subscribe(topic, heard.append)
        drive(connection, lambda: connection.listening, TIMEOUT_S)
        if connection.refused_filters:
            raise _deaf(broker.url, f"does not let this board hear {topic}")
        said = connection.publish(topic, encode(status))
        drive(connection, lambda: said.state not in ("sent", "acked") or _among(heard, reason), TIMEOUT_S)
        if said.state not in ("sent", "acked"):
            raise _deaf(broker.url, f"does not let this board write {topic} ({said.reason or said.state})")
        if not _among(heard, reason):
            raise _deaf(broker.url, f"took a message on {topic} and did not give it back")
    finally:
        connection.close()
    return Finding(subject="broker", state="ok", text=f"{broker.url} takes and gives back what {device} says")


def _among(heard: list[Incoming], reason: str) -> bool:
    return any(reason.encode() in one.payload for one in heard)


def _deaf(url: str, what: str) -> ReportError:
    fix = "give it the access rules of its fleet and name: `boardfit enroll acl` prints mosquitto's"
    return ReportError(f"{url} {what}", fix=fix)


def read_sensors(site: Site) -> list[Finding]:
    """Read what the board can be read for, once."""
    try:
        profile, seen = site.board.profile, site.board.read_context()
    except BoardfitError as error:
        return [Finding(subject="board", state="fail", text=error.problem, fix=error.fix)]
    found = [Finding(subject="board", state="ok", text=f"profile {profile.name} ({profile.title})")]
    if seen.temperature_celsius is None:
        text = "none: " + ("; ".join(seen.notes) or "this board has no thermal zone that can be read")
        found.append(Finding(subject="temperature", state="warn", text=text))
    else:
        text = f"{seen.temperature_celsius:.1f} °C ({seen.temperature_zone})"
        found.append(Finding(subject="temperature", state="ok", text=text))
    meters = site.board.power_meters()
    if meters:
        found.append(Finding(subject="power", state="ok", text=f"{len(meters)} meter(s)"))
    else:
        text = f"none: {site.board.power_absence()}"
        found.append(Finding(subject="power", state="warn", text=text, fix="leave power and energy out of the budgets"))
    return found
