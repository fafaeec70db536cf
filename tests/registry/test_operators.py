"""The operator list in a registry: authored by the command line, fetched by a board, gone when it is removed."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from agent.cli import main
from agent.clock import SystemClock
from agent.core.operators import OPERATORS_PATH, parse_operators
from agent.errors import ConfigError, TrustError
from agent.fleet.signing import OperatorKey
from agent.registry import layout
from agent.registry.author import init
from agent.registry.cache import Cache
from agent.registry.checking import check
from agent.registry.client import RegistryClient
from agent.registry.operators import add_operator, fetch_operators, list_operators, remove_operator

NOW = datetime.now(timezone.utc)
LATER = NOW + timedelta(days=10)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    init(tmp_path / "models", tmp_path / "models.keys", now=NOW)
    return tmp_path / "models"


def client_of(directory: Path) -> RegistryClient:
    state = directory.parent / "board"
    cache = Cache(state / "cache", quota_bytes=2**20, protected=set)
    return RegistryClient(str(directory), directory / "root.json", state / "registry", cache, clock=SystemClock())


def test_the_command_line_lists_adds_replaces_and_removes(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(action: str, *more: str | Path) -> int:
        return main(["registry", "operators", action, *map(str, (directory, "--json", *more))])

    def operators(action: str, *more: str | Path) -> list[dict[str, str]]:
        code, said = call(action, *more), capsys.readouterr()
        assert code == 0, said.err
        listed: list[dict[str, str]] = json.loads(said.out)["operators"]
        return listed

    assert operators("list") == []
    pem = directory.parent / "otto.pem"
    (otto,) = operators("add", "--name", "otto", "--role", "operator", "--make", pem)
    key = OperatorKey.load(pem)
    assert (otto["public_key"], otto["keyid"]) == (key.public_key, key.keyid)
    assert pem.stat().st_mode & 0o077 == 0
    listed = operators("add", "--name", "otto", "--role", "viewer", "--key", key.public_key, "--valid-days", "1")
    assert [one["role"] for one in listed] == ["viewer"]
    report = check(directory, now=SystemClock().utc())
    assert (report.sound, report.candidates) == (True, 0)
    assert operators("remove", "--name", "otto") == []
    for wrong in ((), ("--key", "00"), ("--make", pem)):
        assert call("add", "--name", "x", "--role", "viewer", *wrong) == 2
    assert call("remove", "--name", "nobody") == 2


def test_a_board_fetches_the_list_and_its_end(directory: Path) -> None:
    client = client_of(directory)
    client.refresh()
    assert fetch_operators(client) is None
    keys = directory.with_name("models.keys")
    for name, role in (("vera", "viewer"), ("anna", "admin")):
        add_operator(
            directory, name=name, public_key=f"{role:0<64}".encode().hex()[:64], role=role, valid_until=LATER,
            keys_dir=keys, now=NOW,
        )  # fmt: skip
    client.refresh()
    fetched = fetch_operators(client)
    assert fetched is not None
    assert [one.name for one in parse_operators(fetched).operators] == ["anna", "vera"]
    assert client.candidates() == ()
    remove_operator(directory, name="anna", keys_dir=keys, now=NOW)
    client.refresh()
    fetched = fetch_operators(client)
    assert fetched is not None
    assert [one.name for one in parse_operators(fetched).operators] == ["vera"]


def test_a_list_that_was_tampered_with_is_neither_signed_again_nor_taken(directory: Path) -> None:
    keys = directory.with_name("models.keys")
    common = {"role": "viewer", "valid_until": LATER, "keys_dir": keys, "now": NOW}
    add_operator(directory, name="vera", public_key="a" * 64, **common)  # type: ignore[arg-type]
    client = client_of(directory)
    client.refresh()
    ref = client.find(OPERATORS_PATH)
    assert ref is not None
    path = directory / layout.target_file(OPERATORS_PATH, ref.sha256)
    document = json.loads(path.read_bytes())
    document["operators"][0]["role"] = "admin "
    path.write_text(json.dumps(document))
    with pytest.raises(TrustError, match="damaged"):
        list_operators(directory)
    with pytest.raises(TrustError):
        fetch_operators(client)


def test_a_key_is_one_persons_and_must_last(directory: Path) -> None:
    keys = directory.with_name("models.keys")
    common = {"role": "viewer", "keys_dir": keys, "now": NOW}
    add_operator(directory, name="vera", public_key="a" * 64, valid_until=LATER, **common)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="twice"):
        add_operator(directory, name="bert", public_key="a" * 64, valid_until=LATER, **common)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="past"):
        add_operator(directory, name="bert", public_key="b" * 64, valid_until=NOW, **common)  # type: ignore[arg-type]
