"""Every page in a real Chromium: it loads without an error, asks nobody else, is live, and works by keys and ears."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from benchmarks.simulated_console_board import FLEET, KINDS, Teller
from tests.web.conftest import Stored, Watched

Serve = Callable[..., Stored]
PAGES = {
    "boards": "boards?name=7&group=line-4",
    "board": "boards/sim-pi5-000",
    "classes": "classes",
    "class": f"classes/{KINDS[0].fingerprint}",
    "rollouts": "rollouts",
    "rollout": "rollouts/r7f3a91c2",
}


def opened(watched: Watched, console: Stored, path: str) -> Page:
    page = watched.page()
    page.goto(f"{console.url}/fleets/{FLEET}/{path}")
    page.wait_for_selector("h1")
    expect(page.locator("#live")).to_have_text("live")
    return page


def violations(page: Page, *rules: str) -> list[Any]:
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = list(rules)
    found = Axe().run(page, options=options).response["violations"]
    return [(one["id"], [node["html"][:200] for node in one["nodes"]][:5]) for one in found]


def test_no_page_has_anything_that_keeps_people_out(serve: Serve, watched: Watched) -> None:
    console = serve()
    page = watched.page()
    found: dict[str, list[Any]] = {}
    for name, path in PAGES.items():
        page.emulate_media(color_scheme="light")
        page.goto(f"{console.url}/fleets/{FLEET}/{path}")
        page.wait_for_selector("h1")
        if name == "board":
            page.wait_for_selector("#series svg")
        found[name] = violations(page)
        page.emulate_media(color_scheme="dark")
        found[f"{name}, dark"] = violations(page, "color-contrast")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    found["help"] = violations(page)
    assert found == {name: [] for name in found}


def test_each_page_shows_what_it_is_for(serve: Serve, watched: Watched) -> None:
    console = serve()
    page = opened(watched, console, "boards")
    expect(page.locator("tbody tr")).to_have_count(100)
    expect(page.locator(".pager")).to_contain_text("1–100 of 120")
    page.goto(f"{console.url}/fleets/{FLEET}/{PAGES['board']}")
    expect(page.locator("h1")).to_have_text("sim-pi5-000")
    expect(page.locator(".budgets li.met")).to_have_count(2)
    expect(page.locator("#series svg")).to_have_count(3)
    expect(page.locator("#jobs progress")).to_have_count(1)
    expect(page.locator("#facts")).to_contain_text("bcm2712")
    page.goto(f"{console.url}/fleets/{FLEET}/{PAGES['class']}")
    expect(page.locator("figure.trade svg .option")).to_have_count(8)
    expect(page.locator("tr.winner")).to_have_count(1)
    page.goto(f"{console.url}/fleets/{FLEET}/rollouts")
    page.get_by_role("link", name="r7f3a91c2").click()
    expect(page.locator(".waves li[aria-current=step]")).to_have_count(4)
    expect(page.get_by_role("link", name="sim-pi4-001").first).to_be_visible()
    page.go_back()
    expect(page.locator("h1")).to_contain_text("Rollouts")


def test_what_changes_arrives_without_reload(serve: Serve, watched: Watched) -> None:
    console = serve()
    now = datetime.now(timezone.utc)
    board = Teller(KINDS[0], 4, now)
    page = opened(watched, console, "boards?name=sim-pi5-004")
    page.evaluate("window.still = true")
    row = page.locator("tbody tr")
    expect(row.locator(".status")).to_contain_text("online")
    console.tell(board.status("offline", 0.0))
    expect(row.locator(".status")).to_contain_text("offline")
    expect(page.locator("#announce")).to_contain_text("1 offline")
    row.get_by_role("link", name="sim-pi5-004").click()
    expect(page.locator("h1 + .status")).to_contain_text("offline")
    console.tell(board.job("bench", "IN_PROGRESS", 0.0, stage="measure", done=1.0, total=4.0))
    expect(page.locator("#jobs tbody tr")).to_contain_text("in progress")
    assert page.evaluate("window.still")


def test_a_browser_without_events_asks_now_and_then(serve: Serve, watched: Watched) -> None:
    console = serve()
    watched.allowed = ("live",)
    page = watched.page()
    page.route("**/live", lambda route: route.abort())
    page.goto(f"{console.url}/fleets/{FLEET}/boards?name=sim-pi5-008")
    expect(page.locator("#live")).to_have_text("asking every 5 s")
    console.tell(Teller(KINDS[0], 8, datetime.now(timezone.utc)).status("offline", 0.0))
    expect(page.locator("tbody .status")).to_contain_text("offline")


def test_a_tab_that_nobody_sees_holds_no_connection(serve: Serve, watched: Watched) -> None:
    console = serve()
    page = opened(watched, console, "boards?name=sim-pi5-016")
    hub = console.served._console.hub
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/live")):
        page.evaluate(_HIDDEN, True)
    console.tell(Teller(KINDS[0], 16, datetime.now(timezone.utc)).status("offline", 0.0))
    page.evaluate(_HIDDEN, False)
    expect(page.locator("tbody .status")).to_contain_text("offline")
    expect(page.locator("#live")).to_have_text("live")
    assert len(hub._listeners) == 1


_HIDDEN = """hidden => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_filter_is_kept_in_the_address_and_its_error_is_a_sentence(serve: Serve, watched: Watched) -> None:
    console = serve()
    watched.allowed = ("400",)
    page = opened(watched, console, "boards")
    page.keyboard.press("/")
    expect(page.locator("#filter")).to_be_focused()
    page.keyboard.type("soc=bcm2712 and status=online")
    expect(page.locator("h1")).to_contain_text("29 of 120 boards")
    expect(page).to_have_url(re.compile("filter=soc.*status"))
    page.reload()
    expect(page.locator("tbody tr")).to_have_count(29)
    expect(page.locator("#filter")).to_have_value("soc=bcm2712 and status=online")
    page.locator("#filter").fill("socc=1")
    expect(page.locator("#filter-problem")).to_contain_text("boards have no field `socc`")
    expect(page.locator("#filter")).to_have_attribute("aria-invalid", "true")


def test_a_column_sorts_and_says_so(serve: Serve, watched: Watched) -> None:
    page = opened(watched, serve(), "boards")
    heading = page.get_by_role("columnheader", name="Temp.")
    heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "ascending")
    expect(heading.get_by_role("button")).to_be_focused()
    page.keyboard.press("Enter")
    expect(heading).to_have_attribute("aria-sort", "descending")


def focused(page: Page) -> str:
    return page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id")


def test_everything_is_reached_with_keys_alone(serve: Serve, watched: Watched) -> None:
    page = opened(watched, serve(), "boards")
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("j")
    first = focused(page)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    page.keyboard.press("Home")
    assert focused(page) == first
    page.keyboard.press("n")
    expect(page.locator(".pager")).to_contain_text("101–120 of 120")
    expect(page.locator("tbody a[data-row]").first).to_be_focused()
    name = focused(page)
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text(name)
    page.keyboard.press("g")
    page.keyboard.press("r")
    expect(page.locator("h1")).to_contain_text("Rollouts")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("The filter")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_texts_of_boards_are_texts(serve: Serve, watched: Watched) -> None:
    console = serve(told=hostile())
    page = watched.page()
    shown = 0
    for path in ("boards?name=sim-pi5-900", "boards/sim-pi5-900", "classes", f"classes/{KINDS[0].fingerprint}",
                 "rollouts", "rollouts/rbad00001"):  # fmt: skip
        page.goto(f"{console.url}/fleets/{FLEET}/{path}")
        page.wait_for_selector("h1")
        expect(page.locator("#live")).to_have_text("live")
        assert page.evaluate("window.bad") is None
        assert page.locator("img, iframe, main script, main a[href^='javascript']").count() == 0
        shown += "<img" in page.locator("main").inner_text()
    assert shown >= 4


BAD = "<img src=x onerror=window.bad=1>\u202e"


def hostile() -> Iterable[tuple[str, bytes]]:
    """Documents of a board whose every free text is markup."""
    import json

    for topic, payload in _of_one_board():
        document = json.loads(payload)
        yield topic, json.dumps(_poisoned(document)).encode()


def _of_one_board() -> Iterable[tuple[str, bytes]]:
    import msgspec

    from agent.core.messages import encode
    from agent.core.topics import rollout_topic
    from benchmarks.simulated_console_fleet import board_messages, running_rollout

    now = datetime.now(timezone.utc)
    teller = Teller(KINDS[0], 900, now)
    yield from board_messages(teller, 900, rich=True)
    tellers = [Teller(kind, number, now) for number, kind in enumerate(KINDS)]
    rollout = msgspec.structs.replace(running_rollout(now, tellers, FLEET), id="rbad00001")
    yield rollout_topic(FLEET, "rbad00001"), encode(rollout)


_KEPT = (
    "fleet", "device", "task", "id", "state", "schema", "standing", "verdict", "outcome", "level", "status", "metric",
    "phase", "class_fingerprint", "verb", "seq", "group", "track", "subject",
)  # fmt: skip


def _poisoned(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _poisoned(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_poisoned(item, name) for item in value]
    if isinstance(value, str) and name not in _KEPT and not name.endswith(("_at", "time", "until", "sha256")):
        return BAD + value
    return value


def test_a_store_that_goes_away_is_said_and_what_is_known_stays(serve: Serve, watched: Watched) -> None:
    console = serve()
    page = opened(watched, console, "boards?name=sim-pi5-012")
    reader = console.served._console.watch._reader
    whole, reader.changes = reader.changes, _away
    expect(page.locator("#live")).to_have_text("the store is away")
    expect(page.locator("tbody tr")).to_have_count(1)
    reader.changes = whole
    console.tell(Teller(KINDS[0], 12, datetime.now(timezone.utc)).status("offline", 0.0))
    expect(page.locator("tbody .status")).to_contain_text("offline")


def _away(*_: object) -> Any:
    from agent.errors import StorageError

    raise StorageError("the database does not answer", fix="look at it")
