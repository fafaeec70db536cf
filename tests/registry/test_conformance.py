"""The command line of TUF's conformance suite, over HTTP, as that suite uses it; registries made with python-tuf."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]  # re-exported without saying so

from agent.registry.conformance import main
from tests.faults.repository import Repository
from tests.faults.web import Exchange, Web, serving

NOW = datetime.now(timezone.utc).replace(microsecond=0)
NAME = "digits/first/model.onnx"


class Client:
    """The three verbs, and what they leave."""

    def __init__(self, folder: Path, web: Web) -> None:
        self.metadata, self.targets, self.web = folder / "metadata", folder / "targets", web

    def init(self, root: Path) -> int:
        return main(["--metadata-dir", str(self.metadata), "init", str(root)])

    def refresh(self) -> int:
        return main(["--metadata-dir", str(self.metadata), "--metadata-url", f"{self.web.url}/r/metadata/", "refresh"])

    def download(self, name: str = NAME) -> int:
        return main([
            "--metadata-dir", str(self.metadata), "--metadata-url", f"{self.web.url}/r/metadata", "--target-name", name,
            "--target-base-url", f"{self.web.url}/r/targets/", "--target-dir", str(self.targets), "download",
        ])  # fmt: skip

    def versions(self) -> dict[str, int]:
        return {path.stem: json.loads(path.read_bytes())["signed"]["version"] for path in self.metadata.glob("*.json")}

    def asked(self) -> list[str]:
        names = [path.removeprefix("/r/") for path, _ in self.web.asked]
        self.web.asked.clear()
        return names


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "repository", NOW - timedelta(hours=1))
    made.add("first", b"the first model")
    return made


@pytest.fixture
def client(tmp_path: Path, repository: Repository) -> Iterator[Client]:
    def answer(exchange: Exchange) -> None:
        path = repository.folder / exchange.path.removeprefix("/r/")
        data = path.read_bytes() if path.is_file() else b""
        exchange.head(200 if path.is_file() else 404, len(data))
        exchange.body(data)

    with serving() as web:
        web.answer = answer
        made = Client(tmp_path / "client", web)
        assert made.init(repository.folder / "metadata/1.root.json") == 0
        yield made


def test_init_asks_nothing_and_a_refresh_asks_for_each_role_once(client: Client) -> None:
    assert client.asked() == []
    assert client.versions() == {"root": 1}
    assert client.refresh() == 0
    assert client.asked() == [
        "metadata/2.root.json", "metadata/timestamp.json", "metadata/2.snapshot.json", "metadata/2.targets.json"
    ]  # fmt: skip
    assert client.versions() == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}
    assert client.refresh() == 0
    assert client.asked() == ["metadata/2.root.json", "metadata/timestamp.json"]


def test_a_target_is_downloaded_once_and_again_when_it_changes(client: Client, repository: Repository) -> None:
    assert client.download() == 0
    (found,) = client.targets.iterdir()
    assert found.read_bytes() == b"the first model"
    client.asked()
    assert client.download() == 0
    assert not [name for name in client.asked() if name.startswith("targets/")]
    repository.add("first", b"another one")
    assert client.download() == 0
    (found,) = client.targets.iterdir()
    assert found.read_bytes() == b"another one"


@pytest.mark.parametrize("name", ["nothing", "../escape"])
def test_what_is_not_signed_is_refused_and_metadata_is_brought_up_to_date_all_the_same(
    client: Client, name: str
) -> None:
    assert client.download(name) == 1
    assert client.versions()["targets"] == 2
    assert not client.targets.exists()


def test_another_file_than_signed_is_refused(client: Client, repository: Repository) -> None:
    (path,) = repository.folder.glob("targets/digits/first/*")
    path.write_bytes(b"the worst model")
    assert client.download() == 1
    assert not client.targets.exists()


def test_names_that_need_quoting_are_asked_for_quoted_once(client: Client, repository: Repository) -> None:
    for name in ("a b/c%20d", "?x=1"):
        repository.documents["targets"].signed.targets[name] = TargetFile.from_data(name, b"x", ["sha256"])
    repository.publish("targets")
    client.asked()
    assert client.download("a b/c%20d") == 1  # not there; what counts is what was asked for
    assert client.asked()[-1].startswith("targets/a%20b/")
    assert client.asked() == []
    assert client.download("?x=1") == 1
    assert client.asked()[-1].endswith(".%3Fx%3D1")


def test_a_repository_without_digests_in_names(client: Client, repository: Repository) -> None:
    repository.documents["root"].signed.consistent_snapshot = False
    repository.publish("root")
    for role in ("snapshot", "targets"):
        repository.write(f"metadata/{role}.json", repository.read(f"metadata/2.{role}.json"))
    repository.write(f"targets/{NAME}", b"the first model")
    assert client.download() == 0
    assert client.asked()[-1] == f"targets/{NAME}"
    assert client.versions() == {"root": 2, "timestamp": 2, "snapshot": 2, "targets": 2}


def test_a_rollback_fails_and_new_keys_recover(client: Client, repository: Repository) -> None:
    old = repository.read("metadata/timestamp.json")
    repository.publish("timestamp", version=1000)
    assert client.refresh() == 0
    repository.write("metadata/timestamp.json", old)
    assert client.refresh() == 1
    assert client.versions()["timestamp"] == 1000
    repository.rotate("timestamp")
    assert client.refresh() == 0
    assert client.versions() == {"root": 2, "timestamp": 1, "snapshot": 2, "targets": 2}


def test_an_expired_role_fails_after_the_root_was_followed(client: Client, repository: Repository) -> None:
    repository.publish("root")
    repository.publish("timestamp", expires=NOW - timedelta(seconds=1))
    assert client.refresh() == 1
    assert client.versions()["root"] == 2


def test_the_command_says_what_is_missing_and_what_is_wrong(tmp_path: Path) -> None:
    def run(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "agent.registry.conformance", "--metadata-dir", str(tmp_path / "m"), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
        return done.returncode, done.stderr

    code, said = run("refresh")
    assert (code, "refresh needs --metadata-url" in said) == (2, True)
    code, said = run("--metadata-url", "http://127.0.0.1:9/", "refresh")
    assert (code, said) == (1, f"no root is installed in {tmp_path / 'm'}. Run init first.\n")
    code, said = run("init", str(tmp_path / "absent"))
    assert (code, "Traceback" in said) == (1, False)
