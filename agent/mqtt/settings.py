"""Which broker, and how: the settings of a connection and the URL they are written as."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

import msgspec

from agent.errors import ConfigError

Protocol = Literal["5", "3.1.1"]
_PORTS = {"mqtt": 1883, "mqtts": 8883}


class BrokerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a broker. Paths are files; a password in clear text is never shown by ``repr``.

    ``session_expiry_s`` 0 is a clean start each time; more asks the broker to keep subscriptions and queued messages
    that long (MQTT 3.1.1: for as long as it likes).
    """

    host: str
    port: int = 1883
    tls: bool = False
    ca: str | None = None  # None: the system's trusted certificates
    cert: str | None = None
    key: str | None = None
    username: str | None = None
    password: str | None = None
    password_file: str | None = None
    protocol: Protocol = "5"
    client_id: str = ""
    keepalive_s: int = 60
    session_expiry_s: int = 0
    connect_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        """Refuse combinations that cannot work. Raises: ConfigError."""
        if not self.host:
            raise ConfigError("mqtt: the broker has no host", fix="write the url like mqtts://broker.example.org")
        if not 0 < self.port < 65536:
            raise ConfigError(f"mqtt: {self.port} is not a port", fix="use 1 to 65535")
        if not 5 <= self.keepalive_s <= 65535:
            raise ConfigError(f"mqtt: a keep-alive of {self.keepalive_s} s is out of range", fix="use 5 s to 65535 s")
        if (self.cert is None) != (self.key is None):
            raise ConfigError("mqtt: cert and key go together", fix="give both, or neither")
        if not self.tls and (self.ca or self.cert):
            raise ConfigError("mqtt: ca, cert and key need TLS", fix="write the url as mqtts://")
        if self.password is not None and self.password_file is not None:
            raise ConfigError("mqtt: password and password_file are both given", fix="keep password_file")
        if self.username is None and (self.password is not None or self.password_file is not None):
            raise ConfigError("mqtt: a password without a user name", fix="give username too")

    def __repr__(self) -> str:
        """Show everything but the password."""
        shown = ", ".join(
            f"{name}={'***' if name == 'password' and self.password is not None else repr(getattr(self, name))}"
            for name in self.__struct_fields__
        )
        return f"BrokerSettings({shown})"

    @property
    def url(self) -> str:
        """The broker as a URL, without credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def parse_broker_url(url: str, *, where: str = "mqtt.url") -> BrokerSettings:
    """Read ``mqtt://host[:port]`` or ``mqtts://user@host[:port]``; everything else is set with ``structs.replace``.

    Args: where: configuration path or option, named in errors.
    Raises: ConfigError: another scheme, no host, a bad port, a path, or a password in the URL.
    """
    example = "write it like mqtts://broker.example.org:8883"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{where}: {url!r} is not a URL", fix=example) from error
    if parts.scheme not in _PORTS:
        raise ConfigError(f"{where}: {url!r} is neither mqtt:// nor mqtts://", fix=example)
    if not parts.hostname:
        raise ConfigError(f"{where}: {url!r} has no host", fix=example)
    if parts.password is not None:
        raise ConfigError(
            f"{where}: a password in a URL ends up in logs and process lists",
            fix="write the user name alone and give the password as mqtt.password_file",
        )
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(f"{where}: {url!r} goes on after the port", fix=example)
    return BrokerSettings(
        host=parts.hostname,
        port=_PORTS[parts.scheme] if port is None else port,
        tls=parts.scheme == "mqtts",
        username=parts.username or None,
    )
