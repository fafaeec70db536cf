"""Serves a console in a thread of its own, until it is closed."""

from __future__ import annotations

import socket
import threading

import uvicorn

from agent.collector.reading import Reader
from agent.errors import ConfigError
from agent.web.application import Console
from agent.web.settings import ConsoleSettings

_CLOSE_S = 10.0


class Served:
    """A console that is being served. ``url``: where to open it. ``port``: what it listens on."""

    def __init__(self, console: Console, server: uvicorn.Server, listening: socket.socket, url: str) -> None:
        self.url, self.port = url, int(listening.getsockname()[1])
        self._console, self._server, self._listening = console, server, listening
        self._thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="console", daemon=True)
        self._thread.start()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the browsers go, and end."""
        self._console.hub.close_from_outside()
        self._server.should_exit = True
        self._thread.join(_CLOSE_S)
        self._console.close()
        self._listening.close()


def start(reader: Reader, settings: ConsoleSettings, listen: str) -> Served:
    """Serve a console.

    Args: listen: ``host:port`` or ``port``, which listens to this machine only; port 0 takes a free one.
    Raises: ConfigError: an address that cannot be listened to, or TLS files that cannot be read.
    """
    host, port = parse_listen(listen)
    console = Console(reader, settings)
    certificate, key = settings.tls_cert, settings.tls_key
    config = uvicorn.Config(
        console.application, log_level="warning", access_log=False, server_header=False, lifespan="on",
        timeout_graceful_shutdown=3, ws="none", timeout_keep_alive=20, proxy_headers=False,
        ssl_certfile=certificate, ssl_keyfile=key,
    )  # fmt: skip
    try:
        config.load()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{certificate}, {key} cannot be used: {error}", fix="give a certificate and its key"
        ) from error
    listening = _socket(host, port)
    bound = listening.getsockname()[1]
    shown = "127.0.0.1" if host in ("", "0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104
    url = settings.url or f"{'https' if certificate else 'http'}://{shown}:{bound}"
    return Served(console, uvicorn.Server(config), listening, url)


def parse_listen(text: str) -> tuple[str, int]:
    """Read ``host:port``, ``[::1]:port`` or ``port``. Raises: ConfigError."""
    host, colon, port = text.strip().rpartition(":")
    host = host.strip("[]") if colon else "127.0.0.1"
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{text!r} cannot be listened to", fix="write it like 127.0.0.1:8080")
    return host, int(port)


def _socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(256)
    except OSError as error:
        made.close()
        raise ConfigError(
            f"{host}:{port} cannot be listened to: {error}", fix="choose another with --listen"
        ) from error
    return made
