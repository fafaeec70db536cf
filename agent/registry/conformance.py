"""The board's registry client behind the command line that TUF's public conformance suite asks of a client.

``python -m agent.registry.conformance --metadata-dir DIR init ROOT``, and with ``--metadata-url`` ``refresh``, and with
``--target-name``, ``--target-base-url`` and ``--target-dir`` ``download``; exit code 0, or 1 with a sentence.

What is tested is what a board runs: ``trust`` over python-tuf, ``http_transport``, ``download`` and ``cache``. Three
things are here only, because the suite asks for them: ``root.json`` is a link to the newest root, delegated lists are
walked (by python-tuf; a board reads the first list only), and addresses of metadata and targets are two. The time floor
of ``client`` is left out: the suite sets the clock back on purpose.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.updater import Updater

from agent.clock import SystemClock
from agent.core.manifest import TargetRef
from agent.durable import write_file
from agent.errors import BoardfitError, ConfigError, TrustError
from agent.registry.cache import Cache
from agent.registry.download import download
from agent.registry.fetch import TransportFetcher
from agent.registry.http_transport import HttpTransport
from agent.registry.layout import TARGETS_FOLDER, is_sha256, target_file
from agent.registry.trust import DurableUpdater, translated

_ANCHOR = "installed-root"  # not .json: the suite takes each such file for a role's metadata


class _LinkedUpdater(DurableUpdater):
    def _update_root_symlink(self) -> None:
        Updater._update_root_symlink(self)


class _Metadata(HttpTransport):
    """Names come quoted from python-tuf, which a board's own four roles never need."""

    def escaped(self, path: str) -> str:
        """Leave a path as it is."""
        return path


class _Targets(HttpTransport):
    """The suite's targets are at an address of their own, and without a digest in their names if the root says so."""

    renamed: tuple[str, str] = ("", "")

    def escaped(self, path: str) -> str:
        """Quote a path below the targets' address."""
        before, after = self.renamed
        return quote(after if path == before else path.removeprefix(f"{TARGETS_FOLDER}/"))


class _Fetcher(TransportFetcher):
    def _fetch(self, url: str) -> Iterator[bytes]:
        yield from super()._fetch(url.removeprefix("/"))


def init(metadata_dir: Path, root: Path) -> None:
    """Install a root of trust. Raises: ConfigError: it cannot be read. StorageError."""
    try:
        data = root.read_bytes()
    except OSError as error:
        raise ConfigError(f"{root} cannot be read: {error.strerror}", fix="check the path") from error
    metadata_dir.mkdir(parents=True, exist_ok=True)
    write_file(metadata_dir / _ANCHOR, data)
    write_file(metadata_dir / "root.json", data)


def refresh(metadata_dir: Path, url: str) -> DurableUpdater:
    """Bring metadata up to date. Raises: TrustError. DownloadError. StorageError. ConfigError: no ``init`` before."""
    try:
        anchor = (metadata_dir / _ANCHOR).read_bytes()
    except OSError as error:
        raise ConfigError(f"no root is installed in {metadata_dir}", fix="run init first") from error
    with translated("the repository"):
        fetcher = _Fetcher(_Metadata(url))
        updater = _LinkedUpdater(str(metadata_dir), "", fetcher=fetcher, config=UpdaterConfig(), bootstrap=anchor)
        updater.verify(SystemClock().utc())
    return updater


def fetch(metadata_dir: Path, url: str, name: str, base_url: str, target_dir: Path) -> Path:
    """Refresh, and download one target; one that is here already is not asked for again. Raises: as ``refresh``."""
    updater = refresh(metadata_dir, url)
    with translated("the repository"):
        info = updater.get_targetinfo(name)
    sha256 = "" if info is None else info.hashes.get("sha256", "")
    if info is None or not is_sha256(sha256):
        raise TrustError(f"{name} is not signed with a SHA-256", fix="check its name")
    ref = TargetRef(path=name, sha256=sha256, length=info.length)
    transport = _Targets(base_url)
    if not updater._trusted_set.root.consistent_snapshot:
        transport.renamed = (target_file(name, sha256), name)
    found = download(transport, ref, Cache(metadata_dir / "cache", reserve_bytes=0))
    target_dir.mkdir(parents=True, exist_ok=True)
    path = target_dir / quote(name, "")
    if not path.exists() or not filecmp.cmp(found, path, shallow=False):
        shutil.copyfile(found, path)
    return path


def main(words: Sequence[str] | None = None) -> int:
    """Do one verb. Returns: the exit code."""
    parser = argparse.ArgumentParser(prog="python -m agent.registry.conformance", description=__doc__.split("\n")[0])
    parser.add_argument("--metadata-dir", type=Path, required=True)
    for option in ("--metadata-url", "--target-name", "--target-base-url"):
        parser.add_argument(option)
    parser.add_argument("--target-dir", type=Path)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("init").add_argument("root", type=Path)
    verbs.add_parser("refresh")
    verbs.add_parser("download")
    given = parser.parse_args(words)
    needed = {"init": (), "refresh": ("metadata_url",)}.get(
        given.verb, ("metadata_url", "target_name", "target_base_url", "target_dir")
    )
    missing = [f"--{name.replace('_', '-')}" for name in needed if getattr(given, name) is None]
    if missing:
        parser.error(f"{given.verb} needs {', '.join(missing)}")
    try:
        if given.verb == "init":
            init(given.metadata_dir, given.root)
        elif given.verb == "refresh":
            refresh(given.metadata_dir, given.metadata_url)
        else:
            fetch(given.metadata_dir, given.metadata_url, given.target_name, given.target_base_url, given.target_dir)
    except BoardfitError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
