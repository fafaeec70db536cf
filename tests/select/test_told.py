"""A combination as it is told: in words, on the page, to the fleet, and back from what the fleet was told."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import msgspec

from agent.core.asyncapi import message_schema
from agent.core.combination import Combination, JointMeasurement, as_together
from agent.core.conversions import message_for_decision
from agent.core.payloads import Origin
from agent.database import FILE_NAME, Database
from agent.records import Records
from agent.report.html import render
from agent.select.explain import explain, explain_combination
from agent.select.joint import Judged, attempted, confirmed, in_combination, judge_joint, unproven
from agent.select.shared import choices_of
from agent.web.words import decision_of, explained, read_decision
from tests.report.synthetic_report import synthetic_report
from tests.select.test_shared import DIGITS, MEMORY, OWN, WORDS, chosen, decided, figure, joint, posed, sharer

WHO = Origin(fleet="plant", device="board-1", time="2026-11-23T00:00:00Z")


def settled() -> tuple[Combination, JointMeasurement]:
    plan = chosen(posed(sharer(DIGITS), sharer(WORDS)))
    seen = joint(plan)
    judged = judge_joint(seen, MEMORY, OWN)
    failed = attempted(plan, None, Judged(False, "words: latency_p95 30 ms is over 20 ms by 50 %", {}, ()))
    return confirmed(plan, seen, judged, [failed, attempted(plan, seen, judged)]), seen


def test_the_words_say_what_each_got_and_what_stood_in_the_way() -> None:
    text = explain_combination(settled()[0])
    assert text.splitlines() == [
        "The board, decided now, for digits, then words:",
        (
            "What each would get alone is too much together: memory_peak 700 MiB is over 600 MiB by 17 %; "
            "run together: memory_peak 450 MiB <= 600 MiB."
        ),
        "Budgets over all of them: memory_peak <= 600 MiB.",
        "  digits gets large (onnxruntime/CPU x1), as it would alone (adds memory_peak 300 MiB).",
        (
            "  words gets middle (onnxruntime/CPU x1) instead of large (onnxruntime/CPU x1): with that, beside what "
            "the others get, memory_peak 700 MiB is over 600 MiB by 17 % (adds memory_peak 200 MiB)."
        ),
        "If each had what it would get alone: memory_peak 700 MiB is not <= 600 MiB (missed).",
        "Summed up from runs alone: memory_peak 500 MiB <= 600 MiB (met).",
        "With all of them running: memory_peak 450 MiB <= 600 MiB (met).",
        "  digits, while the others ran: latency_p95 15 ms (95 %: 14.8 ms .. 15.2 ms) <= 20 ms (met).",
        (
            "Run together and left: digits large (onnxruntime/CPU x1) + words middle (onnxruntime/CPU x1): words: "
            "latency_p95 30 ms is over 20 ms by 50 %."
        ),
        "Of 6 combinations none that sums allow and that did not fail is better in this order of tasks.",
    ]


def test_what_nobody_saw_run_is_not_switched() -> None:
    plan = chosen(posed(sharer(DIGITS), sharer(WORDS)))
    told = unproven(plan, (), "it was not run together yet")
    assert (told.outcome, choices_of(told)) == ("unknown", ((), ()))
    words = in_combination(decided(WORDS), told, None)
    assert (words.winner, words.outcome) == (None, "nothing_fits")
    assert "it was not run together yet" in words.reason


def test_the_fleet_is_told_and_reads_it_back() -> None:
    combination, seen = settled()
    decision = in_combination(decided(WORDS), combination, seen)
    message = message_for_decision(decision, WHO)
    document = json.loads(msgspec.json.encode(message))
    jsonschema.validate(document, message_schema("decision"))
    told = document["combination"]
    assert (told["alone_candidate"], told["metric"], told["latency_p95_s"]) == ("large", "memory_peak", 0.015)
    assert (document["candidate"], told["tasks"]) == ("middle", ["digits", "words"])
    read = read_decision(document)
    assert read is not None
    again = decision_of(read)
    assert again.winner is not None
    assert again.winner.candidate == "middle"  # of rank 2: the first in rank is what it would get alone
    assert "Beside digits on this board: gets middle" in explained(read)
    alone = json.loads(msgspec.json.encode(message_for_decision(decided(WORDS), WHO)))
    jsonschema.validate(alone, message_schema("decision"))
    assert alone["combination"] is None
    del alone["combination"]  # of a board of before
    assert read_decision(alone) is not None


def test_the_page_shows_the_tasks_that_share() -> None:
    report = synthetic_report()
    page = render(msgspec.structs.replace(report, combination=settled()[0]))
    cells: list[str] = []

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            cells.append(data)

    Reader().feed(page)
    assert "Tasks that share this board" in cells
    assert any("instead of large" in cell for cell in cells)
    assert "Tasks that share this board" not in render(report)


def test_an_application_is_told_what_the_model_does_beside_the_others() -> None:
    _, seen = settled()
    member = msgspec.structs.replace(seen.members[1], latency_p50_s=figure(0.011))
    together = as_together(WORDS[1], member)
    assert together.latency is not None
    assert (together.latency.p95_s.value, together.latency.p50_s.value) == (0.015, 0.011)
    assert as_together(WORDS[1], None) == WORDS[1]
    assert "shared" not in explain(decided(WORDS)) and "Beside" not in explain(decided(WORDS))


def test_what_was_run_together_is_found_by_its_members_in_any_order(tmp_path: Path) -> None:
    combination, seen = settled()
    with Database(tmp_path / FILE_NAME) as database:
        records = Records(database)
        assert (records.joint(seen.key), records.last_combination()) == (None, None)
        for number in range(2):
            records.add_joint(msgspec.structs.replace(seen, id=f"j{number}"))
            records.add_combination(msgspec.structs.replace(combination, id=f"c{number}"))
        turned = msgspec.structs.replace(seen, members=seen.members[::-1])
        found = records.joint(turned.key)
        assert found is not None
        assert found.id == "j1"
        assert database.rows("SELECT COUNT(*) AS n FROM joint")[0]["n"] == 1
        assert records.joint(("other", *seen.key[1:])) is None
        last = records.last_combination()
        assert last is not None
        assert last == msgspec.structs.replace(combination, id="c1")
        with database.transaction() as connection:
            connection.execute("UPDATE joint SET document=?", (b"{}",))
        assert records.joint(seen.key) is None
        assert records.count_unreadable() == 1
