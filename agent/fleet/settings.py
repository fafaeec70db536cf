"""Where the fleet's broker is and who orders: ``fleet.yaml``, or the ``mqtt`` part of an agent.yaml, and the options.

::

    mqtt: {url: mqtts://broker.example.org, fleet: plant-7, ca: ca.pem, cert: anna.pem, key: anna-tls.key}
    operator: {name: anna, key: operator.key}
    registry: {url: https://models.example.org, root: root.json}   # optional: signatures are checked by its list

Rules:
- An option on the command line takes the place of the file's value; paths in the file start at the file's folder.
- The operator's name stands beside his key, in ``<key>.pub``, where ``fleet keys make`` has put it, unless it is said.
- Nothing here speaks with a broker.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import yaml

from agent.config import load_config
from agent.config_values import beside, check_keys
from agent.core.topics import check_id
from agent.durable import write_file
from agent.errors import ConfigError
from agent.mqtt import BrokerSettings, parse_broker_url

AGENT_FILE = Path("/etc/boardfit/agent.yaml")


class FleetSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a fleet, and as whom. ``operator`` None: to be read beside the key. ``registry``: URL and root."""

    broker: BrokerSettings
    fleet: str
    key: Path
    operator: str | None = None
    registry: tuple[str, Path] | None = None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says in place of the file."""

    config: Path | None = None
    broker: str | None = None
    fleet: str | None = None
    ca: Path | None = None
    cert: Path | None = None
    key_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None
    operator: str | None = None
    key: Path | None = None
    registry: str | None = None
    root: Path | None = None


class _Mqtt(msgspec.Struct, kw_only=True):
    url: str
    fleet: str
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    username: str | None = None
    password_file: str | None = None
    protocol: str = "5"


class _Operator(msgspec.Struct, kw_only=True):
    name: str | None = None
    key: str | None = None


class _Registry(msgspec.Struct, kw_only=True):
    url: str
    root: str


class _Document(msgspec.Struct, kw_only=True):
    mqtt: _Mqtt | None = None
    operator: _Operator = msgspec.field(default_factory=_Operator)
    registry: _Registry | None = None


def config_folder() -> Path:
    """Return ``$XDG_CONFIG_HOME/boardfit``, usually ~/.config/boardfit."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "boardfit"


def state_folder() -> Path:
    """Return ``$XDG_STATE_HOME/boardfit``, usually ~/.local/state/boardfit."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "boardfit"


def default_key() -> Path:
    """Return where the operator's key lies unless it is said."""
    return config_folder() / "operator.key"


def load_settings(options: Options) -> FleetSettings:
    """Return the settings in force.

    Raises: ConfigError: a file cannot be read or has an unknown key, or no broker or fleet is given.
    """
    document, path = _read(options.config)
    mqtt = document.mqtt
    url = options.broker or (mqtt.url if mqtt else None)
    fleet = options.fleet or (mqtt.fleet if mqtt else None)
    if url is None or fleet is None:
        missing, flag = ("broker", "--broker URL") if url is None else ("fleet", "--fleet NAME")
        raise ConfigError(f"no {missing} is given", fix=f"say {flag}, or write {config_folder() / 'fleet.yaml'}")
    own = mqtt if mqtt is not None and options.broker is None else _Mqtt(url=url, fleet=fleet)  # other certificates
    broker = parse_broker_url(url, where="--broker" if options.broker else "mqtt.url")
    broker = msgspec.structs.replace(
        broker,
        ca=_path(options.ca, own.ca, path),
        cert=_path(options.cert, own.cert, path),
        key=_path(options.key_file, own.key, path),
        username=options.username or own.username or broker.username,
        password_file=_path(options.password_file, own.password_file, path),
        protocol="3.1.1" if own.protocol == "3.1.1" else "5",
    )
    key = _path(options.key, document.operator.key, path)
    return FleetSettings(
        broker=broker,
        fleet=check_id(fleet, where="mqtt.fleet"),
        key=Path(key) if key is not None else default_key(),
        operator=options.operator or document.operator.name,
        registry=_registry(options, document.registry, path),
    )


def _registry(options: Options, written: _Registry | None, config: Path | None) -> tuple[str, Path] | None:
    root = _path(options.root, None if written is None else written.root, config)
    if options.registry is None and written is None:
        if options.root is not None:
            raise ConfigError("--root is of which registry?", fix="say --registry URL too")
        return None
    if root is None:
        raise ConfigError("by which root is the registry trusted?", fix="say --root FILE, a root.json that you trust")
    if options.registry is not None:
        return options.registry, Path(root)
    assert written is not None
    is_path = "://" not in written.url
    return (str(beside(config, written.url)) if is_path else written.url), Path(root)


def write_public(key: Path, name: str, public_key: str) -> Path:
    """Write an operator's name and public key beside the private one. Returns: that file. Raises: StorageError."""
    public = key.with_name(key.name + ".pub")
    write_file(public, f"{name} {public_key}\n".encode())
    return public


def read_public(path: Path) -> tuple[str, str]:
    """Return the name and public key (64 hex digits) of a ``.pub`` file. Raises: ConfigError."""
    try:
        words = path.read_text("ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}", fix="give the .pub file that `fleet keys make` wrote"
        ) from error
    if len(words) != 2:
        raise ConfigError(f"{path} does not hold a name and a public key", fix="make it with `fleet keys make`")
    return check_id(words[0], where=str(path)), words[1]


def operator_name(settings: FleetSettings) -> str:
    """Return the name that commands are issued under. Raises: ConfigError: it is not known."""
    if settings.operator is not None:
        return check_id(settings.operator, where="operator")
    public = settings.key.with_name(settings.key.name + ".pub")
    if not public.exists():
        raise ConfigError(
            f"whose key {settings.key} is, is not known",
            fix="say --operator NAME as the registry's operator list has it",
        )
    return read_public(public)[0]


def _path(option: Path | None, written: str | None, config: Path | None) -> str | None:
    if option is not None:
        return str(option)
    return None if written is None else str(beside(config, written))


def _read(chosen: Path | None) -> tuple[_Document, Path | None]:
    path = chosen or next((p for p in (config_folder() / "fleet.yaml", AGENT_FILE) if p.is_file()), None)
    if path is None:
        return _Document(), None
    try:
        document: Any = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}", fix="check the file") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must be a mapping", fix="write `mqtt: {url: ..., fleet: ...}`")
    agents = "registry" in document and "operator" not in document  # where the two have the same words
    if set(document) - {"mqtt", "operator", "registry"} or agents or path == AGENT_FILE:
        return _of_agent(path), path
    check_keys(document, msgspec.inspect.type_info(_Document), "")
    try:
        return msgspec.convert(document, _Document), path
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path} is not valid: {error}", fix="correct that value") from error


def _of_agent(path: Path) -> _Document:
    """Read a board's configuration: broker, fleet and registry are ours too, its certificate is the board's own."""
    config = load_config(path)
    mqtt, registry = config.mqtt, config.registry
    if mqtt is None:
        raise ConfigError(f"{path} names no broker", fix="say --broker URL and --fleet NAME")
    text = {name: None if (p := getattr(mqtt, name)) is None else str(p) for name in ("ca", "cert", "key")}
    password = None if mqtt.password_file is None else str(mqtt.password_file)
    return _Document(
        mqtt=_Mqtt(
            url=mqtt.url,
            fleet=mqtt.fleet,
            username=mqtt.username,
            password_file=password,
            protocol=mqtt.protocol,
            **text,
        ),
        registry=None if registry is None else _Registry(url=registry.url, root=str(registry.root)),
    )
