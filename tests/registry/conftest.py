"""Real registries, signed for real, and a real HTTP server with faults that a test can switch on."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from agent.registry.author import add, add_file, init
from agent.registry.cache import Cache
from agent.registry.client import RegistryClient
from agent.registry.serve import RegistryHandler, RegistryServer
from tests.registry.samples import evaluation_pack, onnx_model

START = datetime(2026, 11, 1, 12, 0, 0, tzinfo=timezone.utc)


class FakeClock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = START + timedelta(hours=1)
        self.monotonic = 0.0

    def monotonic_s(self) -> float:
        return self.monotonic

    def utc(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def real_models() -> Path:
    path = Path(os.environ.get("BOARDFIT_REAL", Path(__file__).parents[2] / ".." / "shared" / "real")).resolve()
    if not path.is_dir():
        pytest.skip("the real third-party models are not beside the repository (BOARDFIT_REAL)")
    return path


class Author:
    """One registry on disk and its keys; time moves on by an hour with every act."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.directory = folder / "registry"
        self.keys = folder / "keys"
        self.now = START

    def tick(self) -> datetime:
        self.now += timedelta(seconds=60)
        return self.now

    def add_blob(self, name: str, data: bytes) -> Any:
        source = self.folder / "source.bin"
        source.write_bytes(data)
        return add_file(self.directory, source, f"_test/{name}", kind="test", keys_dir=self.keys, now=self.tick())


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Author:
    """One registry with two candidates, made once."""
    author = Author(tmp_path_factory.mktemp("template"))
    init(author.directory, author.keys, now=author.tick())
    pack = evaluation_pack(author.folder / "eval.npz")
    for name, features in (("float", 4), ("wide", 4)):
        model = onnx_model(author.folder / f"{name}.onnx", features=features, ir_version=8 if name == "float" else 9)
        add(
            author.directory,
            model,
            task="digits",
            name=name,
            keys_dir=author.keys,
            now=author.tick(),
            evaluation=pack,
            extra={"family": "linear", "not_known_yet": {"a": [1, 2.5]}},
        )
    return author


@pytest.fixture
def author(template: Author, tmp_path: Path) -> Author:
    """A copy of that registry that a test may spoil."""
    copy = Author(tmp_path / "author")
    shutil.copytree(template.folder, copy.folder)
    copy.now = template.now
    return copy


@pytest.fixture
def make_client(author: Author, tmp_path: Path, clock: FakeClock) -> Callable[..., RegistryClient]:
    """Clients of that registry which share a state folder; the root is the one that was first installed."""
    root = tmp_path / "root.json"
    shutil.copy(author.directory / "root.json", root)

    def make(url: str | None = None, **options: Any) -> RegistryClient:
        options.setdefault("clock", clock)
        cache = options.pop("cache", None) or Cache(tmp_path / "cache", reserve_bytes=0)
        state = options.pop("state_dir", tmp_path / "state")
        return RegistryClient(url or str(author.directory), options.pop("root", root), state, cache, **options)

    return make


class Faults:
    """What the server does wrong for paths that contain the key; and what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str | None]] = []
        self.handlers: dict[str, list[Callable[[BaseFaulty], bool]]] = {}

    def on(self, part: str, *handlers: Callable[[BaseFaulty], bool]) -> None:
        """Answer the next requests for such a path by these, one each; the last one goes on for good."""
        self.handlers[part] = list(handlers)

    def ranges(self, part: str) -> list[str | None]:
        return [header for _, path, header in self.requests if part in path]


class BaseFaulty(RegistryHandler):
    """Asks the faults first; one that answers True has answered."""

    faults: Faults

    def do_GET(self) -> None:
        self.faults.requests.append(("GET", self.path, self.headers.get("Range")))
        for part, handlers in self.faults.handlers.items():
            if part in self.path and handlers:
                handler = handlers.pop(0) if len(handlers) > 1 else handlers[0]
                with suppress(ConnectionError):
                    if not handler(self):
                        break
                return
        super().do_GET()


class Served:
    def __init__(self, server: RegistryServer, faults: Faults) -> None:
        self.server, self.faults = server, faults
        self.url = server.url


@pytest.fixture
def served(author: Author) -> Iterator[Served]:
    faults = Faults()
    handler = type("Faulty", (BaseFaulty,), {"faults": faults})
    server = RegistryServer(author.directory, ("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield Served(server, faults)
    server.shutdown()
    server.server_close()
    thread.join()
