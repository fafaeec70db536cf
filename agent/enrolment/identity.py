"""A board's own key, its signing request and its certificate, in a folder of the board's.

Rules:
- The key is made here, readable by its owner alone, and never leaves: what travels is the request and the certificate.
- The key stays when a certificate is renewed, unless a new one is asked for. Nothing is written over: each key and each
  certificate has a name of its own, and the configuration says which pair is in force.
- A certificate is taken only if it belongs to a key of this folder and to the name that was asked for.
- A certificate that has ended is refused; one that has not begun is not: a board's clock may be wrong, which is said.
"""

from __future__ import annotations

import os
import pwd
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from agent.durable import storage_error, write_file
from agent.enrolment import certificates
from agent.enrolment.names import SERVICE_USER, Member, parse_name
from agent.errors import ConfigError


class Requested(msgspec.Struct, frozen=True, kw_only=True):
    """A request that waits to be signed."""

    name: str
    request: Path
    key: Path
    key_id: str
    new_key: bool


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate that was checked and lies beside its key; ``doubt`` says what could not be judged, and why."""

    name: str
    certificate: Path
    key: Path
    ca: Path
    not_after: datetime
    doubt: str | None = None


def request_certificate(folder: Path, member: Member, *, new_key: bool = False) -> Requested:
    """Make a key where there is none, and a request for it.

    Args: new_key: make a key even so; one that has no certificate yet is taken first.
    Raises: ConfigError: a key cannot be read. StorageError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, folder) from error
    keys = _keys(folder)
    certified = {certificates.key_id(one.public_key()) for one in _certificates(folder)}
    waiting = [path for path in keys if path.stem not in certified]
    chosen = next(iter(waiting), None) if new_key else next(iter(waiting or keys), None)
    if chosen is None:
        key = certificates.make_key()
        path = folder / f"{certificates.key_id(key.public_key())}.key"
        write_file(path, certificates.key_pem(key), 0o600)
        give_to_service(path)
    else:
        path, key = chosen, certificates.load_key(chosen)
    request = path.with_suffix(".csr")
    write_file(request, certificates.request_pem(key, str(member)))
    return Requested(name=str(member), request=request, key=path, key_id=path.stem, new_key=chosen is None)


def install_certificate(folder: Path, certificate: Path, ca: Path, *, now: datetime) -> Installed:
    """Check a signed certificate and put it beside its key, with the authority that signed the broker's.

    Args: now: wall time, UTC; it may be wrong.
    Raises: ConfigError: it is not of this board, has ended, or a file is not what it should be. StorageError.
    """
    data = certificates.read_public(certificate, "the certificate")
    first = certificates.parse_certificates(data, certificate)[0]
    name = str(parse_name(certificates.common_name(first.subject), where=str(certificate)))
    key = _matching_key(folder, first.public_key(), certificate)
    asked = _asked_name(key)
    if asked is not None and asked != name:
        raise ConfigError(
            f"{certificate} is for {name}, and this board asked for {asked}", fix="have its own request signed"
        )
    if not certificates.fits_client(first):
        raise ConfigError(f"{certificate} may not be used by a client", fix="have it signed with the usage clientAuth")
    begins, ends = certificates.valid_times(first)
    if now > ends:
        raise ConfigError(
            f"{certificate} ended on {ends:%Y-%m-%d}, and it is {now:%Y-%m-%d} here",
            fix="have the request signed again, or set this board's clock",
        )
    trusted = certificates.read_public(ca, "the authority's certificate")
    authorities = certificates.parse_certificates(trusted, ca)
    doubt = None
    if now < begins:
        doubt = (
            f"this board's clock says {now:%Y-%m-%d}, before the certificate begins ({begins:%Y-%m-%d}); its end was "
            "not judged, and the broker's own certificate will not be trusted until the clock is right"
        )
    written = folder / f"{_digest(first)}.crt"
    authority = folder / f"ca-{_digest(authorities[0])}.pem"
    write_file(written, data)
    write_file(authority, trusted)
    return Installed(name=name, certificate=written, key=key, ca=authority, not_after=ends, doubt=doubt)


def _keys(folder: Path) -> list[Path]:
    """Return the keys, the newest first."""
    return sorted(folder.glob("*.key"), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _certificates(folder: Path) -> list[x509.Certificate]:
    return [certificates.parse_certificates(path.read_bytes(), path)[0] for path in folder.glob("*.crt")]


def _matching_key(folder: Path, public: CertificatePublicKeyTypes, certificate: Path) -> Path:
    wanted = certificates.key_id(public)
    for path in _keys(folder):
        if path.stem == wanted and certificates.key_id(certificates.load_key(path).public_key()) == wanted:
            return path
    raise ConfigError(
        f"{certificate} does not belong to any key of this board, which are in {folder}",
        fix="have this board's own request signed: `boardfit enroll` shows it; boards never share a key",
    )


def _asked_name(key: Path) -> str | None:
    request = key.with_suffix(".csr")
    if not request.exists():
        return None
    return certificates.common_name(certificates.parse_request(request.read_bytes(), request).subject)


def _digest(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()[:16]


def give_to_service(key: Path) -> None:
    """Let the service's user own a key that root made, where there is such a user: the mode keeps all others out."""
    if os.geteuid() != 0:
        return
    try:
        user = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return
    try:
        os.chown(key, user.pw_uid, user.pw_gid)
    except OSError as error:
        raise storage_error(error, key) from error
