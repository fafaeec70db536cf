"""The list of defects fits the sources as they are, and a defect is called caught when it was, and only then."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.faults.defects.listed import DEFECTS, Defect
from tests.faults.defects.trying import ROOT, Copy, Ran, UnfitError, judge, put_in, try_all, without

SUITE = ("tests/test_door.py",)
DOOR = 'def opens(key):\n    return key == "right" and bool(key)\n'
TESTS = """
import pytest, door

@pytest.fixture
def there():
    assert door.opens("right"), "no door"

def test_a_wrong_key(there):
    assert not door.opens("wrong"), "it opens"

@pytest.mark.skip
def test_nothing():
    pass
"""


def defect(old: str, new: str, says: str = "it opens") -> Defect:
    return Defect(f"{old} for {new}", "door.py", old, new, "whoever lives here", SUITE, says)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small tree with a suite of its own."""
    root = tmp_path / "house"
    (root / "tests").mkdir(parents=True)
    (root / "door.py").write_text(DOOR)
    (root / "tests/conftest.py").write_text("def pytest_addoption(parser): parser.addoption('--faults-seed')")
    (root / "tests/test_door.py").write_text(TESTS)
    return root


@pytest.mark.parametrize("one", DEFECTS, ids=lambda one: one.name)
def test_a_defect_still_fits_the_source(one: Defect) -> None:
    source = (ROOT / one.file).read_text()
    spoiled = put_in(source, one)
    assert ast.dump(ast.parse(spoiled)) != ast.dump(ast.parse(source)), "it changes nothing"
    assert (ROOT / one.suite[0]).is_file()
    assert one.costs


def test_no_defect_is_listed_twice() -> None:
    assert len(DEFECTS) >= 25
    assert len({one.name for one in DEFECTS}) == len(DEFECTS)
    assert len({(one.file, one.old, one.new, one.suite) for one in DEFECTS}) == len(DEFECTS)


def test_a_defect_is_caught_by_a_test_that_fails_for_its_reason(house: Path, tmp_path: Path) -> None:
    tried = [
        defect('key == "right"', "True"),
        defect('key == "right"', "True", says="the roof leaks"),
        defect("and bool(key)", ""),
        defect('"right"', '"other"'),
        defect("def opens", "defopens"),
    ]
    told: list[str] = []
    caught, *others = try_all(tried, tmp_path / "place", seed=1, root=house, tell=told.append)
    assert caught.by == "test_a_wrong_key" and "it opens" in caught.said
    assert [one.by for one in others] == [None] * 4
    for found, said in zip(others, ("another reason", "1 tests passed", "no door", "pytest ended with 2"), strict=True):
        assert said in found.said
    assert len(told) == 5
    assert (house / "door.py").read_text() == (tmp_path / "place/tree/door.py").read_text() == DOOR


def test_a_suite_that_is_red_or_empty_without_a_defect_is_of_no_use(house: Path, tmp_path: Path) -> None:
    copy = Copy(house, tmp_path / "copy", seed=1)
    skipped, absent = (*SUITE, "-k", "nothing"), (*SUITE, "-k", "garden")
    assert set(without(copy, (skipped, absent))) == {skipped, absent}
    (tmp_path / "copy/door.py").write_text(DOOR.replace("return", "return True or"))
    assert "red without a defect" in without(copy, (SUITE,))[SUITE]


def test_what_does_not_fit_any_more_is_said_before_anything_is_tried(house: Path, tmp_path: Path) -> None:
    with pytest.raises(UnfitError, match=r"stands 0 times in door\.py"):
        try_all([defect("the window", "")], tmp_path / "place", seed=1, tell=[].append, root=house)
    assert not (tmp_path / "place").exists()


def test_a_suite_whose_fixture_fails_has_caught_nothing() -> None:
    found = judge(DEFECTS[0], Ran(0, (), "test_x: failed on setup", 1.0))
    assert (found.by, found.said) == (None, "test_x: failed on setup")
