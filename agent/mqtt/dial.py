"""Makes the TCP or TLS connection to a broker without holding up the caller's loop.

Rules:
- Name look-up, connect and TLS handshake block, and a board without network waits long for each: they run in a thread
  that lives only as long as the attempt. Its end makes ``fileno()`` readable.
- TCP_NODELAY is always set: without it a request and its answer take 40 to 90 ms on a loopback.
- Every failure is one ``ReportError`` that says what to do next; missing or unreadable files are a ``ConfigError``.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

from agent.errors import BoardfitError, ConfigError, ReportError
from agent.mqtt.settings import BrokerSettings


class Dialer:
    """One attempt to connect. Made, watched through ``fileno()``, and asked for its ``result()``."""

    def __init__(self, settings: BrokerSettings, context: ssl.SSLContext | None) -> None:
        self._settings = settings
        self._context = context
        self._socket: socket.socket | None = None
        self._error: BoardfitError | None = None
        self._lock = threading.Lock()  # guards the four fields around the end of the attempt
        self._ended = False
        self._abandoned = False
        self._readable, self._writable = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._work, name="mqtt-dial", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the attempt has ended."""
        return self._readable

    def result(self) -> socket.socket | None:
        """Return the connected socket, or None while still at it; once it is had, the dialer is used up.

        Raises: ReportError: it could not be connected.
        """
        with self._lock:
            if not self._ended:
                return None
        self._thread.join()  # it has nothing left to do; a caller may fork once there is one thread only
        self._close_pipe()
        if self._error is not None:
            raise self._error
        return self._socket

    def abandon(self) -> None:
        """Forget the attempt; a socket that it has brought or may still bring is closed."""
        with self._lock:
            self._abandoned = True
            if self._ended:
                self._discard()

    def _work(self) -> None:
        try:
            self._socket = dial(self._settings, self._context)
        except BoardfitError as error:
            self._error = error
        with self._lock:
            self._ended = True
            if self._abandoned:
                self._discard()
            else:
                os.write(self._writable, b"x")

    def _discard(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._close_pipe()

    def _close_pipe(self) -> None:
        os.close(self._readable)
        os.close(self._writable)


def dial(settings: BrokerSettings, context: ssl.SSLContext | None) -> socket.socket:
    """Connect, and shake hands when ``context`` is given. Blocks for at most a few connect timeouts.

    Raises: ReportError: with one sentence per cause.
    """
    where = settings.url
    plain: socket.socket | None = None
    try:
        # As bytes, a plain name is not put through the idna codec, which would stay with the idle daemon.
        host: Any = settings.host.encode() if settings.host.isascii() else settings.host
        plain = socket.create_connection((host, settings.port), timeout=settings.connect_timeout_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Unacknowledged bytes fail the connection after this time, rather than after the kernel's quarter of an hour.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, settings.keepalive_s * 1000)
        if context is None:
            return plain
        return context.wrap_socket(plain, server_hostname=settings.host)
    except OSError as error:
        if plain is not None:
            plain.close()
        raise connect_error(error, where, tls=context is not None) from error


def tls_context(settings: BrokerSettings) -> ssl.SSLContext | None:
    """Return the TLS settings, None without TLS.

    Raises: ConfigError: a certificate or key file is missing, unreadable or not what it should be.
    """
    if not settings.tls:
        return None
    for name, path in (("ca", settings.ca), ("cert", settings.cert), ("key", settings.key)):
        if path is not None and not Path(path).is_file():
            raise ConfigError(f"mqtt.{name}: there is no file {path}", fix="install it, or correct the path")
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        if settings.cert is not None:
            context.load_cert_chain(settings.cert, settings.key)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"mqtt: the TLS files cannot be used: {error}",
            fix="ca, cert and key must be readable PEM files, and the key must belong to the certificate",
        ) from error
    return context


def password_of(settings: BrokerSettings) -> str | None:
    """Return the password, read from its file where one is named. Raises: ConfigError: the file cannot be read."""
    if settings.password_file is None:
        return settings.password
    try:
        return Path(settings.password_file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"mqtt.password_file: {settings.password_file} cannot be read: {error}",
            fix="make it a text file that the service's user may read",
        ) from error


def connect_error(error: OSError, where: str, *, tls: bool) -> ReportError:
    """Say a failed connect in one sentence and what to do about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ReportError(
            f"the certificate of {where} is not trusted: {error.verify_message}",
            fix="set mqtt.ca to the authority that signed the broker's certificate, and use the host name in it",
            cause="tls",
        )
    if isinstance(error, ssl.SSLError):
        return ReportError(
            f"the TLS handshake with {where} failed: {error.reason or error}",
            fix="check that the port speaks TLS, and that mqtt.cert is one the broker accepts",
            cause="tls",
        )
    if isinstance(error, socket.gaierror):
        return ReportError(
            f"the broker's name in {where} cannot be resolved", fix="check the host name and the DNS", cause="dns"
        )
    if isinstance(error, ConnectionRefusedError):
        return ReportError(f"nothing listens at {where}", fix="start the broker, or correct mqtt.url", cause="refused")
    if isinstance(error, TimeoutError):
        return ReportError(
            f"{where} does not answer", fix="check the network, the firewall and mqtt.url", cause="timeout"
        )
    if tls and isinstance(error, ConnectionResetError):
        return ReportError(f"{where} broke off the TLS handshake", fix="check that the port speaks TLS", cause="tls")
    return ReportError(
        f"{where} cannot be reached: {error.strerror or error}", fix="check the network and mqtt.url", cause="network"
    )
