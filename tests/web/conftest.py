"""A real store of simulated boards' real documents, a console over real HTTP, and one real Chromium for all tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agent.collector.store_reading import StoredReader
from agent.web import ConsoleSettings, Served, start
from benchmarks.simulated_console_fleet import fleet_messages, store

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

FLAGS = [
    "--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
PERIOD_S = 0.1


class Stored:
    """One console and the database below it."""

    def __init__(self, url: str, served: Served) -> None:
        self.database, self.served = url, served

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.served.port}"

    def tell(self, *messages: tuple[str, bytes]) -> None:
        """Have the collector's store take more messages."""
        store(self.database, messages)


@pytest.fixture(scope="session")
def fleet_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("console") / "fleet.sqlite"
    store(f"sqlite:///{path}", fleet_messages(120))
    return path


@pytest.fixture
def serve(tmp_path: Path, fleet_database: Path) -> Iterator[Callable[..., Stored]]:
    """Start a console of its own over a copy of the database, or over an empty one."""
    consoles: list[tuple[Served, StoredReader]] = []

    def make(*, empty: bool = False, told: Iterable[tuple[str, bytes]] = (), **more: Any) -> Stored:
        path = tmp_path / f"fleet-{len(consoles)}.sqlite"
        url = f"sqlite:///{path}"
        if not empty:
            for source in fleet_database.parent.glob(f"{fleet_database.name}*"):
                shutil.copy(source, path.with_name(source.name.replace(fleet_database.name, path.name)))
        store(url, told)
        reader = StoredReader(url)
        served = start(reader, ConsoleSettings(period_s=PERIOD_S, **more), "127.0.0.1:0")
        consoles.append((served, reader))
        return Stored(url, served)

    yield make
    for served, reader in consoles:
        served.close()
        reader.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=20_000)

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.fail("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


class Watched:
    """A browser's context that notes whatever must not happen: errors, and requests to another host."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.amiss: list[str] = []
        self.allowed: tuple[str, ...] = ()
        context.on("console", lambda message: self._note(message.type, message.text, message.location.get("url", "")))
        context.on("weberror", lambda error: self.amiss.append(f"page error: {error.error}"))
        context.on("request", lambda request: self._asked(request.url))
        self.hosts: set[str] = set()

    def page(self) -> Page:
        made = self.context.new_page()
        made.set_default_timeout(15_000)
        return made

    def _note(self, kind: str, text: str, url: str) -> None:
        if kind in ("error", "warning") and not any(part in text or part in url for part in self.allowed):
            self.amiss.append(f"{kind}: {text} {url}")

    def _asked(self, url: str) -> None:
        if not url.startswith(("data:", "blob:")):
            self.hosts.add(url.split("/")[2])


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    made = Watched(context)
    yield made
    context.close()
    assert made.amiss == []
    assert all(host.startswith("127.0.0.1:") for host in made.hosts), made.hosts
