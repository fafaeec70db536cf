"""The private keys of a registry: one Ed25519 key per role, PEM (PKCS#8), readable by their owner only.

Rules:
- Keys never lie inside the registry's folder: that folder is published as it is.
- ``root`` is a key of its own. It signs only the list of the other keys, so it can live on a stick in a drawer.
- An existing key file is never overwritten: boards in the field would no longer trust what is signed afterwards.
- Boards only verify and need no ``cryptography``; signing needs it (the extra ``author``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.durable import storage_error, write_file
from agent.errors import ConfigError

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]  # re-exported without saying so

ROLES = ("root", "targets", "snapshot", "timestamp")

_README = """\
Private keys of a boardfit registry. Whoever has these files can publish models to every board that trusts the registry.

root.pem       signs the list of the other keys. Needed only to change keys or to extend the root: keep it offline,
               with a copy in another place. If it is lost, boards must be given a new root.json by hand.
targets.pem    signs which models exist (boardfit registry add, remove).
snapshot.pem   signs which lists belong together.
timestamp.pem  signs that this is still the newest state. It is used by boardfit registry refresh, which must run
               before the timestamp expires: for instance daily, from cron.

Each is an Ed25519 key in PEM (PKCS#8), not encrypted. Never put this folder into the published folder or into a
version control system.
"""


def check_keys_folder(keys_dir: Path, directory: Path) -> None:
    """Refuse a key folder that would be published. Raises: ConfigError."""
    if keys_dir.resolve().is_relative_to(directory.resolve()):
        raise ConfigError(
            f"{keys_dir} lies inside {directory}, which is published",
            fix="choose a folder for the keys outside of the registry",
        )


def create_keys(keys_dir: Path) -> dict[str, CryptoSigner]:
    """Make one key per role and write them, mode 0600, with a README.

    Returns: role to signer.
    Raises: ConfigError: a key is there already, or ``cryptography`` is missing. StorageError.
    """
    crypto_signer = _signer_class()
    existing = [role for role in ROLES if (keys_dir / f"{role}.pem").exists()]
    if existing:
        raise ConfigError(f"{keys_dir} has keys already: {', '.join(existing)}", fix="choose an empty folder")
    signers = {role: crypto_signer.generate_ed25519() for role in ROLES}
    try:
        keys_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        for role, signer in signers.items():
            write_file(keys_dir / f"{role}.pem", signer.private_bytes, 0o600)
        if not (keys_dir / "README").exists():
            write_file(keys_dir / "README", _README.encode())
    except OSError as error:
        raise storage_error(error, keys_dir) from error
    return signers


def create_key(keys_dir: Path, role: str) -> CryptoSigner:
    """Make one more key for a role, beside those that are there. Raises: ConfigError. StorageError."""
    signer = _signer_class().generate_ed25519()
    path = keys_dir / f"{role}-{signer.public_key.keyid[:8]}.pem"
    write_file(path, signer.private_bytes, 0o600)
    return signer


def load_signer(keys_dir: Path, role: str, public: dict[str, SSlibKey]) -> CryptoSigner:
    """Read the private key of a role that the root lists: ``<role>.pem``, or ``<role>-<id>.pem`` after a rotation.

    Args: public: key id to public key, as the registry's root lists them for this role.
    Raises: ConfigError: there is no such file, it is not an Ed25519 key, or none is one the root lists for this role.
    """
    paths = [keys_dir / f"{role}.pem", *sorted(keys_dir.glob(f"{role}-*.pem"))]
    paths = [path for path in paths if path.exists()]
    if not paths:
        raise ConfigError(
            f"there is no {role} key in {keys_dir}", fix="give the folder that `boardfit registry init` wrote"
        )
    for path in paths:
        signer = _read_signer(path)
        if signer.public_key.keyid in public:
            return signer
    raise ConfigError(
        f"{paths[0]} is not the {role} key of this registry", fix="use the key folder this registry was made with"
    )


def _read_signer(path: Path) -> CryptoSigner:
    crypto_signer = _signer_class()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} cannot be read as a private key: {error}", fix="restore it from its copy") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError(f"{path} is not an Ed25519 key", fix="boards verify Ed25519 only")
    return crypto_signer(private)


def _signer_class() -> type[CryptoSigner]:
    try:
        import cryptography  # noqa: F401
        from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # re-exported without saying so
    except ImportError as error:
        raise ConfigError(
            "signing needs the package cryptography", fix="install it with: pip install 'boardfit[author]'"
        ) from error
    return CryptoSigner
