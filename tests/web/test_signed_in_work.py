"""The whole way: a browser, ``fleet serve``, ``fleet sign-in`` with a real key, mosquitto, and a simulated board."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec
import pytest
from playwright.sync_api import Page, expect

from agent.core.operators import OperatorList
from tests.brokers import Mosquitto
from tests.fleet.conftest import Desk
from tests.fleet.simulated_board import SimulatedBoard
from tests.scenarios.conftest import ROOT
from tests.web.conftest import Watched

WAIT_S = 60.0


class Running:
    """A command that goes on, and what it prints."""

    def __init__(self, words: list[str], home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent", *words], cwd=ROOT, text=True, bufsize=1, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "HOME": str(home), "COLUMNS": "200"},
        )  # fmt: skip
        self.lines: list[str] = []
        self._more = threading.Condition()
        self._ended = False
        assert self.process.stdout is not None
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            with self._more:
                self.lines.append(line.rstrip())
                self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait for a line that holds a pattern."""
        with self._more:
            found: list[re.Match[str]] = []

            def seen() -> bool:
                found[:] = [match for line in self.lines if (match := re.search(pattern, line))]
                return bool(found) or self._ended

            assert self._more.wait_for(seen, WAIT_S), self.lines
            assert found, self.lines
        return found[-1]

    def type(self, text: str) -> None:
        """Type a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def stop(self) -> int:
        """Press Ctrl-C."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[list[str]], Running]]:
    started: list[Running] = []

    def begin(words: list[str]) -> Running:
        started.append(Running(words, tmp_path))
        return started[-1]

    yield begin
    for one in reversed(started):
        one.stop()


@pytest.fixture
def desk(tmp_path: Path, broker: Mosquitto) -> Desk:
    return Desk(tmp_path, broker)


@pytest.fixture
def board(broker: Mosquitto, desk: Desk) -> Iterator[SimulatedBoard]:
    made = SimulatedBoard(broker.settings(), "sim-1", [desk.operator("admin")])
    made.tell_task("digits", "net-int8", 0.004)
    yield made
    made.stop()


Run = Callable[[list[str]], Running]


def begin(run: Run, desk: Desk) -> tuple[str, Running]:
    """Start the console. Returns: its address, and the command."""
    operators = desk.folder / "operators.json"
    operators.write_bytes(msgspec.json.encode(OperatorList(operators=(desk.operator("operator"),))))
    serving = run(desk.words("serve", "--operators", operators, "--listen", "127.0.0.1:0"))
    return serving.wait_for(r"Shown at (http://\S+)\.$")[1], serving


def sign_in(run: Run, desk: Desk, url: str, *more: str) -> tuple[Running, str]:
    """Sign in. Returns: the command, and the link that it prints."""
    pen = run(desk.words("sign-in", url, "--no-browser", *more))
    return pen, pen.wait_for(r"in one browser: (\S+)$")[1]


def ask_for_bench(page: Page) -> None:
    page.get_by_role("button", name="Act on this board…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("radio", name="Ask for settings")).to_be_disabled()
    expect(dialog).to_contain_text("it needs the role admin, and yours is operator")
    dialog.get_by_role("radio", name="Bench").check()
    dialog.get_by_label("Task").select_option("digits")
    dialog.get_by_role("button", name="Ask for it").click()


def test_a_wish_is_shown_signed_and_done(run: Run, desk: Desk, board: SimulatedBoard, watched: Watched) -> None:
    url, serving = begin(run, desk)
    pen, link = sign_in(run, desk, url)
    page = watched.page()
    page.goto(link)
    expect(page.locator(".who")).to_contain_text("anna · operator")
    assert "#" not in page.url
    page.get_by_role("link", name="sim-1").click()
    expect(page.locator("h1")).to_have_text("sim-1")

    ask_for_bench(page)
    pen.wait_for(r"Asked for in the browser: bench for sim-1 \(task digits\)")
    pen.wait_for(r"1 boards: sim-1")
    expect(page.locator(".wishes")).to_contain_text("waits for your yes")
    pen.wait_for(r"Sign and send it")
    assert board.commands == []
    pen.type("n")
    expect(page.locator(".wishes")).to_contain_text("refused: no was said in the terminal")
    assert board.commands == []
    page.keyboard.press("Escape")

    ask_for_bench(page)
    pen.wait_for(r"not sent")
    pen.type("y")
    pen.wait_for(r"^bench: 1 succeeded")
    expect(page.locator(".wishes")).to_contain_text("done: 1 succeeded")
    page.keyboard.press("Escape")
    (command,) = board.commands
    assert (command.verb, command.issuer, command.arguments) == ("bench", "anna", {"task": "digits"})
    expect(page.locator("#jobs tbody tr").first).to_contain_text("succeeded")

    assert pen.stop() == 0
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    expect(page.get_by_role("button", name="Act on this board…")).to_be_disabled()

    watched.allowed = ("403", "ERR_", "Failed to load resource")  # from here on on purpose
    pen, link = sign_in(run, desk, link.partition("/sign-in")[0], "--yes")
    page.goto(link)
    expect(page.locator(".who")).to_contain_text("anna")
    page.goto(link.replace("/sign-in", "/sign-in?again=1"))  # a link lets one in once
    expect(page.get_by_role("dialog")).to_contain_text("used before")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="sim-1").click()
    ask_for_bench(page)
    pen.wait_for(r"^bench: 1 succeeded")
    assert len(board.commands) == 2
    serving.stop()
    expect(page.locator("#live")).to_have_text("not connected")


def test_a_console_that_is_none_is_said_in_a_sentence(desk: Desk) -> None:
    for url, says in (("http://127.0.0.1:9", "cannot be reached"), ("http://console.example.org", "is not protected")):
        ended = desk("sign-in", url, "--no-browser")
        assert ended.code != 0
        assert says in ended.err
