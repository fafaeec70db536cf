"""A board joins a class that has measured already: a real pass, with what other boards told put beside it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent.clock import SystemClock, iso
from agent.core.class_results import BoardResults, ClassResult, results_to_tell
from agent.database import FILE_NAME, Database
from agent.measure.plan import LASTING
from agent.records import Records
from tests.scenarios.conftest import Installation

TASKS = {
    "digits": {
        "budgets": {"accuracy_top1": ">= 0.9", "size": "1 MiB", "latency_p95": "500 ms"},
        "objective": ["maximize accuracy_top1", "minimize size"],
    }
}
OTHERS = 4


@pytest.fixture(scope="module")
def told(published: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, tuple[ClassResult, ...]]:
    """The class, and what a first board of it measured: this very machine."""
    board = Installation(tmp_path_factory.mktemp("first"), str(published), published / "root.json", tasks=TASKS)
    assert board.write()("once").code == 0
    database = Database(board.state / FILE_NAME)
    records = Records(database)
    facts = records.facts()
    assert facts is not None
    measured = records.measurements("digits", facts.class_fingerprint)
    database.close()
    return facts.class_fingerprint, results_to_tell(measured, LASTING)


@pytest.mark.parametrize("slower", [1.0, 10.0])
def test_a_newcomer_says_what_it_owes_to_its_class(
    told: tuple[str, tuple[ClassResult, ...]], published: Path, tmp_path: Path, slower: float
) -> None:
    fingerprint, results = told
    board = Installation(tmp_path, str(published), published / "root.json", tasks=TASKS).write()
    board.state.mkdir(exist_ok=True)
    database = Database(board.state / FILE_NAME)
    some = tuple(
        msgspec.structs.replace(one, latency_p50_s=one.latency_p50_s and one.latency_p50_s * slower) for one in results
    )
    documents = {
        name: msgspec.json.encode(
            [BoardResults(board=name, task="digits", class_fingerprint=fingerprint, told_at="2026", results=some)]
        )
        for name in (f"test/other-{number}" for number in range(OTHERS))
    }
    Records(database).keep_class(fingerprint, documents, iso(SystemClock().utc()))
    database.close()
    passed = board("once", "--json")
    assert passed.code == 0, passed.err
    (decision,) = passed.document["decisions"]
    assert decision["winner"] is not None
    assert all(check["state"] == "met" for check in decision["options"][0]["checks"])  # by its own measurement
    owed = decision["from_class"]
    assert owed["boards"] == OTHERS
    assert owed["checks"]
    explained = board("explain")
    assert "From its class:" in explained.out
    assert "No budget is met by another board's figure." in explained.out
    if slower > 1.0:  # a class that is said to be ten times as slow is not this board's
        assert (owed["use"], owed["left_out"]) == ("none", 0)
        assert "measured as if there were none" in explained.out
