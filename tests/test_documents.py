"""YAML read by a copy of the process: the same answers as here, and nothing of the parser left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import documents
from agent.documents import YamlProblemError, parse_yaml, written_yaml
from agent.errors import ConfigError
from agent.verbs import authoring, fleet_desired

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ["a: 1\nb: [x, 2.5, null, true]\n", "", "- {c: '2026-01-01'}\n"]
VALUES = [{"a": 1, "b": ["x", 2.5, None, True]}, None, [{"c": "2026-01-01"}]]


def parse_apart(texts: list[str]) -> object:
    """Parse in a copy of a fresh process: one with threads, as this one may have from other tests, makes no copy."""
    code = "import json, sys; from agent.documents import _parse_apart as f; print(json.dumps(f(json.load(sys.stdin))))"
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(texts), capture_output=True, text=True, check=True, cwd=ROOT
    )
    return json.loads(done.stdout)


def test_the_copy_answers_as_this_process_does() -> None:
    assert parse_apart(TEXTS) == [True, VALUES]
    assert documents._parse(TEXTS) == (True, VALUES)


@pytest.mark.parametrize(
    ("text", "says"), [("a: 1\na: 2\n", "'a' is written twice"), ("a: [1\n", "line 2"), ("a: 1\n b: 2", "line 2")]
)
def test_a_bad_text_is_named_by_number_and_place(text: str, says: str) -> None:
    assert parse_apart(["ok: 1", text]) == json.loads(json.dumps(documents._parse(["ok: 1", text])))
    with pytest.raises(YamlProblemError, match=says) as raised:
        parse_yaml(["ok: 1", text])
    assert raised.value.number == 1


def test_a_value_that_has_no_plain_form_is_read_here() -> None:
    assert parse_apart(["day: 2026-01-01"]) is None
    (document,) = parse_yaml(["day: 2026-01-01"])
    assert document["day"].year == 2026


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("-2E+4", -2e4), ("1.5e3", 1500.0), ("1.e2", 100.0), ("3", 3), ("0.5", 0.5)]
    + [(text, text) for text in ("1e", "e3", "1e3s", "12e4-5", "1e-3 s", "0x1e3z", "v1e3")],
)
def test_a_number_with_an_exponent_is_one_without_a_point_too(text: str, value: object) -> None:
    assert parse_yaml([f"a: {text}", f"'{text}'"]) == [{"a": value}, text]
    assert type(parse_yaml([text])[0]) is type(value)


def test_what_is_written_is_read_as_the_same() -> None:
    document = {"z": 1e-5, "a": "1e-5", "list": ["1.0e-3", 1e300, "yes", None, {"b": "12e4"}], "label": "3"}
    assert parse_yaml([written_yaml(document)]) == [document]
    assert list(parse_yaml([written_yaml(document)])[0]) == list(document)


def test_the_parser_does_not_stay_and_other_threads_forbid_a_copy() -> None:
    code = (
        "import sys, threading; from agent.documents import parse_yaml\n"
        "assert parse_yaml(['a: 1']) == [{'a': 1}] and 'yaml' not in sys.modules\n"
        "stop = threading.Event(); threading.Thread(target=stop.wait).start()\n"
        "assert parse_yaml(['a: 1']) == [{'a': 1}] and 'yaml' in sys.modules; stop.set()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_libraries_work_without_what_is_kept_from_them() -> None:
    code = (
        "import agent.lean, msgspec, sys, typing\n"
        "class P(msgspec.Struct): x: typing.Annotated[int, msgspec.Meta(ge=1)]; y: 'str | None' = None\n"
        "assert msgspec.json.decode(b'{\"x\":2}', type=P) == P(2)\n"
        "assert 'typing_extensions' not in sys.modules and 'urllib.request' not in sys.modules\n"
        "import urllib.request; assert urllib.request.getproxies() is not None\n"
        "import typing_extensions; assert typing_extensions.get_type_hints(P)['x'] is int"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("read", [authoring._extra, fleet_desired._load])
@pytest.mark.parametrize("text", ["day: 2001-99-99", "n: !!int x", "a: " + "[" * 3000, "a: 1\na: 2"])
def test_what_an_operator_writes_is_read_as_strictly(tmp_path: Path, read: Callable[[Path], object], text: str) -> None:
    path = tmp_path / "written.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(path)
