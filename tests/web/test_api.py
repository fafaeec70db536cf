"""What the console answers over real HTTP, from a real store with the documents of simulated boards."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from urllib.parse import quote, urlencode

import pytest

from agent.errors import ConfigError
from agent.web import ConsoleSettings, start
from agent.web.server import parse_listen
from benchmarks.simulated_console_board import FLEET, KINDS, TASK, Teller
from benchmarks.simulated_console_fleet import fleet_messages
from tests.web.asking import ask
from tests.web.conftest import Stored

Serve = Callable[..., Stored]
BOARDS = f"/api/fleets/{FLEET}/boards"


def table(console: Stored, **given: object) -> dict[str, object]:
    answer = ask(console.url, f"{BOARDS}?{urlencode(given)}")
    assert answer.status == 200, answer.body
    return answer.document


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"filter": "soc=bcm2712 and ram>=4GiB"}, {"pi5"}),
        ({"filter": "soc=bcm2712", "name": "*8"}, {"pi5"}),
        ({"model": "orin"}, {"orin"}),
        ({"status": "offline"}, {"pi4", "orin", "rock5", "pi5"}),
        ({"filter": "not model ~ \"*pi*\" and status=online"}, {"orin", "rock5"}),
    ],
)  # fmt: skip
def test_the_table_is_filtered_by_the_words_of_the_command_line(
    serve: Serve, given: dict[str, str], names: set[str]
) -> None:
    found = table(serve(), **given)
    kinds = {board["name"].split("-")[1] for board in found["boards"]}
    assert kinds
    assert kinds <= names
    assert found["found"] < found["total"] == 120


def test_the_expression_of_columns_means_the_same_on_the_command_line(serve: Serve) -> None:
    console = serve()
    found = table(console, filter="status=online or status=busy", group="line-2", temperature="> 50 °C")
    again = table(console, filter=found["expression"])
    assert found["found"] == again["found"] > 0
    assert found["expression"] == '(status=online or status=busy) and group ~ "*line-2*" and temperature > 50 °C'


@pytest.mark.parametrize("sort", ["name", "use", "temperature", "energy", "seen", "outbox", "status"])
def test_sorting_goes_over_all_pages_and_what_is_not_known_comes_last(serve: Serve, sort: str) -> None:
    console = serve(told=[Teller(KINDS[0], 998, datetime.now(timezone.utc)).profile()])
    for order in ("asc", "desc"):
        pages = [table(console, sort=sort, order=order, page=page, per_page=50) for page in (1, 2, 3)]
        names = [board["name"] for page in pages for board in page["boards"]]
        assert len(set(names)) == len(names) == pages[0]["total"]
        if sort != "name":
            keys = {"energy": "energy_j", "temperature": "temperature_celsius"}
            last = pages[2]["boards"][-1]
            assert last[keys.get(sort, sort)] is None or sort == "seen"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (f"{BOARDS}?filter={quote('socc=x')}", "boards have no field `socc`"),
        (f"{BOARDS}?filter={quote('ram>=')}", "a value for ram is missing"),
        (f"{BOARDS}?sort=nothing", "nothing can be sorted by"),
        (f"{BOARDS}?page=x", "is not a number of a page"),
        (f"{BOARDS}?temperature=hot", "temperature"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(serve: Serve, path: str, says: str) -> None:
    answer = ask(serve().url, path)
    assert answer.status == 400
    assert says in answer.document["problem"]


@pytest.mark.parametrize("path", [f"{BOARDS}/nobody", "/api/fleets/none/boards", f"/api/fleets/{FLEET}/rollouts/rx"])
def test_what_is_not_there_is_not_found(serve: Serve, path: str) -> None:
    answer = ask(serve().url, path)
    assert answer.status == 404
    assert answer.document["fix"]


def test_a_board_says_what_it_is_what_runs_and_why(serve: Serve) -> None:
    console = serve()
    page = ask(console.url, f"{BOARDS}/sim-pi5-000").document
    assert ["System on chip", "bcm2712"] in page["facts"]
    (task,) = page["tasks"]
    assert task["deployment"]["candidate"] == "sim-net-w100-int8"
    assert "Nearest miss: sim-net-w025-int8" in task["text"]
    assert "sim-net-w100-int8 – chosen" in task["plot"]
    assert 'style="' not in task["plot"]  # the page's policy would refuse it
    assert {job["verb"] for job in page["jobs"]} == {"bench", "select", "deploy", "sync"}
    assert page["events"][0]["level"] == "warning"
    assert page["reported"]["settings"]["tasks"][TASK]["objective"] == ["maximize accuracy_top1"]
    series = ask(console.url, f"{BOARDS}/sim-pi5-000/series").document["plots"]
    assert [one["name"] for one in series if one["svg"]] == ["latency", "energy", "temperature"]
    assert series[0]["series"][0] == "sim-net-w100-int8"
    assert 'class="limit"' in series[0]["svg"]


def test_a_class_shows_the_budgets_of_its_boards_and_what_serves(serve: Serve) -> None:
    console = serve()
    classes = ask(console.url, f"/api/fleets/{FLEET}/classes").document["classes"]
    assert sum(one["boards"] for one in classes) == 120
    page = ask(console.url, f"/api/fleets/{FLEET}/classes/{KINDS[2].fingerprint[:12]}").document
    assert {one["metric"] for one in page["budgets"]} == {"latency_p95", "accuracy_top1"}
    assert page["having"] == page["counted"] == 30
    by_name = {row["figures"]["candidate"]: row for row in page["rows"]}
    assert by_name["sim-net-w050-int8"]["figures"]["serving"] == 10
    assert by_name["sim-net-deep-f32"]["standing"] == "over_budget"
    assert by_name["sim-net-w025-int8"]["front"]
    assert not by_name["sim-net-deep-int8"]["front"]
    assert "runs now" in page["plot"]


def test_rollouts_are_listed_without_and_shown_with_their_boards(serve: Serve) -> None:
    console = serve()
    listed = ask(console.url, f"/api/fleets/{FLEET}/rollouts").document["rollouts"]
    assert [one["status"] for one in listed] == ["running", "rolled_back"]
    assert "boards" not in listed[0]
    shown = ask(console.url, f"/api/fleets/{FLEET}/rollouts/{listed[0]['id']}").document["rollout"]
    assert {board["phase"] for board in shown["boards"]} == {"failed", "unreachable"}
    assert len(shown["tracks"]) == len(KINDS)


def test_what_changes_is_told_to_whoever_listens(serve: Serve) -> None:
    import http.client
    from urllib.parse import urlsplit

    console = serve()
    connection = http.client.HTTPConnection(urlsplit(console.url).netloc, timeout=30)
    connection.request("GET", f"/api/fleets/{FLEET}/live")
    stream = connection.getresponse()
    assert stream.headers["content-type"].startswith("text/event-stream")

    def heard() -> tuple[str, dict[str, object]]:
        kind = data = b""
        while (line := stream.readline().strip()) or not kind:
            if line.startswith(b"event:"):
                kind = line[7:]
            elif line.startswith(b"data:"):
                data = line[6:]
        return kind.decode(), json.loads(data)

    assert heard()[0] == "hello"
    console.tell(Teller(KINDS[0], 4, datetime.now(timezone.utc)).status("offline", 0.0))
    kind, news = heard()
    assert (kind, news["boards"]) == ("changed", ["sim-pi5-004"])
    connection.close()
    assert table(console, name="sim-pi5-004")["boards"][0]["status"] == "offline"


def test_a_store_without_a_fleet_is_an_empty_list(serve: Serve) -> None:
    assert ask(serve(empty=True).url, "/api/fleets").document["fleets"] == []


def test_five_thousand_boards_are_a_page_at_a_time(tmp_path_factory: pytest.TempPathFactory) -> None:
    from agent.collector.store_reading import StoredReader
    from benchmarks.simulated_console_fleet import store

    url = f"sqlite:///{tmp_path_factory.mktemp('large')}/fleet.sqlite"
    now = datetime.now(timezone.utc)
    tellers = [Teller(KINDS[number % 4], number, now) for number in range(5000)]
    store(url, [one.status("online", 1.0) for one in tellers])
    with StoredReader(url) as reader, start(reader, ConsoleSettings(), "127.0.0.1:0") as served:
        answer = ask(served.url, f"{BOARDS}?filter={quote('status=online')}&sort=seen&page=50")
        assert answer.document["found"] == 5000
        assert len(answer.document["boards"]) == 100
        assert len(answer.body) < 100_000


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "user@127.0.0.1", "", "127.0.0.1/x"])
def test_a_name_that_is_not_the_consoles_is_refused(serve: Serve, host: str) -> None:
    answer = ask(serve().url, "/api/fleets", Host=host)
    assert answer.status == 421


def test_a_name_that_the_settings_say_is_taken(serve: Serve) -> None:
    console = serve(url="https://console.example.org")
    assert ask(console.url, "/api/fleets", Host="console.example.org").status == 200
    assert (
        ask(console.url, "/api/session", Host="console.example.org").document["origin"] == "https://console.example.org"
    )


def test_every_answer_carries_the_policy(serve: Serve) -> None:
    console = serve()
    for path in ("/", "/static/main.js", "/api/fleets", "/api/nothing", "/nothing"):
        headers = ask(console.url, path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_a_path_out_of_the_static_files_is_not_found(serve: Serve) -> None:
    for path in ("/static/../application.py", "/static/%2e%2e/application.py", "/static//etc/passwd"):
        assert ask(serve().url, path).status == 404


@pytest.mark.parametrize("text", ["", "x", "127.0.0.1:x", "127.0.0.1:99999", "no.such.host.invalid:0"])
def test_an_address_that_cannot_be_listened_to_is_said(text: str, fleet_database: object) -> None:
    from agent.collector.store_reading import StoredReader

    with StoredReader(f"sqlite:///{fleet_database}") as reader, pytest.raises(ConfigError, match="listened to"):
        start(reader, ConsoleSettings(), text)


def test_a_port_alone_listens_to_this_machine() -> None:
    assert parse_listen("8080") == ("127.0.0.1", 8080)
    assert parse_listen("[::1]:8080") == ("::1", 8080)


def test_more_addresses_are_served_beside(serve: Serve) -> None:
    console = serve(more={"/metrics": lambda: ("text/plain; version=0.0.4", b"boardfit_up 1\n")})
    assert ask(console.url, "/metrics").body == b"boardfit_up 1\n"


def test_the_simulated_fleet_says_that_it_is() -> None:
    assert all(b"sim" in payload for _, payload in fleet_messages(3))
