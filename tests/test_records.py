"""Records: what is kept, what speaks, and that unreadable rows are not lost."""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent.config import parse_config
from agent.core.measurement import Measurement, OperatingPoint
from agent.database import FILE_NAME, Database
from agent.records import KEPT_PER_KEY, Records
from agent.site import Site
from agent.verbs.checkup import _state


def measurement(number: int, *, threads: int = 1, artifact: str = "a" * 64) -> Measurement:
    point = OperatingPoint(engine="onnxruntime", engine_version="1", provider="CPUExecutionProvider", threads=threads)
    return Measurement(
        id=f"m{number}-{threads}", task="digits", candidate="x", artifact_sha256=artifact, size_bytes=1, point=point,
        class_fingerprint="c", verdict="ok", started_at="2026-01-01T00:00:00Z", duration_s=1.0, latencies_s=(0.1, 0.2),
    )  # fmt: skip


def test_the_newest_of_each_key_speaks_and_old_ones_are_pruned(tmp_path: Path) -> None:
    with Database(tmp_path / FILE_NAME) as database:
        records = Records(database)
        for number in range(KEPT_PER_KEY + 3):
            records.add_measurement(measurement(number))
        records.add_measurement(measurement(0, threads=2))
        assert [m.id for m in records.measurements("digits", "c")] == [f"m{KEPT_PER_KEY + 2}-1", "m0-2"]
        assert database.rows("SELECT COUNT(*) AS n FROM measurement")[0]["n"] == KEPT_PER_KEY + 1
        assert records.measurements("digits", "other") == ()


def test_a_document_of_another_version_is_skipped_and_kept(tmp_path: Path) -> None:
    with Database(tmp_path / FILE_NAME) as database:
        records = Records(database)
        records.add_measurement(measurement(1))
        with database.transaction() as connection:
            connection.execute("UPDATE measurement SET document=?", (b'{"schema":"boardfit.measurement/9"}',))
        assert records.measurements("digits", "c") == ()
        assert records.unreadable == 1
        assert records.count_unreadable() == 1
        assert database.rows("SELECT COUNT(*) AS n FROM measurement")[0]["n"] == 1


def test_doctor_says_how_many_documents_it_cannot_read(tmp_path: Path) -> None:
    with Site(parse_config({}, path=None), tmp_path) as site:
        site.records.add_measurement(measurement(1))
        assert not [finding for finding in _state(site, site.config) if "cannot be read by" in finding.text]
        with site.database.transaction() as connection:
            connection.execute("UPDATE measurement SET document=?", (b"{}",))
            connection.execute("INSERT INTO facts VALUES (1, ?)", (b'{"schema":"boardfit.facts/9"}',))
        (finding,) = [finding for finding in _state(site, site.config) if "cannot be read by" in finding.text]
    assert (finding.state, finding.text.split()[0]) == ("warn", "2")


def test_a_database_whose_damage_is_no_utf_8_is_set_aside_too(tmp_path: Path) -> None:
    """SQLite's error quotes the damaged name, and Python cannot read that error."""
    path = tmp_path / FILE_NAME
    with Database(path) as database:
        database.ensure(["CREATE TABLE things (name TEXT)"])
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE things", b"CREATE \xa8ABLE \xf5hings"))
    with Database(path) as database:
        assert database.set_aside is not None


def test_a_damaged_database_is_set_aside_and_a_fresh_one_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with Database(path) as database:
        Records(database).add_measurement(measurement(1))
    path.write_bytes(b"this is not a database" * 500)
    with Database(path) as database:
        assert database.set_aside == tmp_path / f"{FILE_NAME}.damaged-1"
        assert database.set_aside.read_bytes().startswith(b"this is not")
        assert Records(database).measurements("digits", "c") == ()


def test_damaged_files_do_not_pile_up(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    for number in range(1, 6):
        path.write_bytes(b"this is not a database" * 500)
        with Database(path) as database:
            assert database.set_aside == tmp_path / f"{FILE_NAME}.damaged-{number}"
    kept = {f"{FILE_NAME}.damaged-{number}" for number in (3, 4, 5)}
    assert {one.name for one in tmp_path.glob("*.damaged-*")} == kept


def test_all_measurements_together_stay_below_their_bound(tmp_path: Path) -> None:
    size = len(msgspec.json.encode(measurement(1, artifact="a" * 64)))
    with Database(tmp_path / FILE_NAME) as database:
        records = Records(database, measurements_max_bytes=3 * size + 10)
        for number, name in enumerate("abcde"):
            records.add_measurement(measurement(number, artifact=name * 64))
        assert [one.id for one in records.measurements("digits", "c")] == ["m2-1", "m3-1", "m4-1"]
