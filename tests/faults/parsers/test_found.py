"""What the fuzzers found, each as its smallest input: it ended in no typed error, or in none at all."""

from __future__ import annotations

import pytest

from agent.core.envelope import COMMAND_TYPE, open_envelope
from agent.documents import YamlProblemError, parse_yaml
from agent.errors import OrderError, SensorUnavailableError
from agent.orders.outcome import read_outcome
from tests.faults.parsers.own_readers import CONFIG
from tests.faults.parsers.targets import TARGETS

DEEP = b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
FOUND = {
    "an envelope of half a surrogate pair": ("command", b'\0{"\\ud800":1}'),
    "a command of half a surrogate pair": ("command", b'\1{"\\ud800":1}'),
    "an operator list nested deep": ("command", b"\2" + DEEP),
    "a receipt nested deep": ("command", b"\3" + DEEP),
    "our own status nested deep": ("command", b"\4" + DEEP),
    "our own status in no UTF-8": ("command", b'\4{"boot_id":"\xed\xa0\x80"}'),
    "an event nested deep": ("worker", b"\0" + DEEP),
    "a job nested deep": ("worker", b"\1" + DEEP),
    "a job in no UTF-8": ("worker", b'\1{"schema":"\xff"}'),
    "a verb's output nested deep": ("worker", b"\2" + DEEP),
    "a step nested deep": ("worker", b"\3" + b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}"),
    "a host nested deep": ("capture", b"\0\0" + DEEP),
    "a host in no UTF-8": ("capture", b'\0\0{"machine":"\xff"}'),
    "a power meter's message nested deep": ("sensors", b"\1" + b'{"apower":' * 20_000),
    "a processor's number of 5,000 digits": ("capture", b"\0\4processor\t: " + b"9" * 5000),
    "a stored document nested deep": ("registry", b"\0\2" + DEEP),
    "a root nested deep": ("registry", b"\0\0" + DEEP),
    "a root in no UTF-8": ("registry", b'\0\0{"signed":"\xff"}'),
    "a key that is a list": ("config", b"\0" + CONFIG + b"? [a, b]\n: c\n"),
    "a number that is none": ("config", b"\0n: !!int x\n"),
    "a day that is none": ("config", b"\0day: 2001-99-99\n"),
    "an alias in its own anchor": ("config", b"\0a: &a [*a]\n"),
    "brackets without end": ("config", b"\0a: " + b"[" * 1500),
    "brackets that overflow a stack": ("config", b"\0a: " + b"[" * 100_000 + b"]" * 100_000),
    "half a surrogate pair in a configuration": ("config", b'\0mqtt: {url: "\\ud800", fleet: plant}\n'),
    "half a surrogate pair in a desired state": ("config", b'\1{"\\ud800":1}'),
}


@pytest.mark.parametrize("found", FOUND)
def test_what_was_found_ends_typed(found: str) -> None:
    name, data = FOUND[found]
    TARGETS[name].run(data)


def test_what_nobody_has_signed_and_nobody_can_write_is_refused_as_an_order() -> None:
    with pytest.raises(OrderError, match="not JSON as it must be"):
        open_envelope(b'{"\\ud800":1}', COMMAND_TYPE)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("n: !!int x", "invalid literal"),
        ("day: 2001-99-99", "month must be in"),
        ("a: &a [*a]", "refers to itself"),
        ("a: " + "[" * 1500, "nested too deep"),
        ("? [a, b]\n: c", "unhashable"),
        ('a: "\\ud800"', "surrogate"),
        (
            "y0: &l0 [x]\n" + "".join(f"y{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 12)),
            "too often",
        ),
    ],
)
def test_yaml_that_has_no_value_is_a_problem_of_its_text(text: str, problem: str) -> None:
    with pytest.raises(YamlProblemError, match=problem):
        parse_yaml([text])


def test_a_verb_whose_output_cannot_be_read_stands_by_its_exit_code() -> None:
    assert read_outcome(3, DEEP) == ("no candidate fits", {})


def test_a_number_that_no_kernel_counts_to_is_a_broken_sensor(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from agent.device.root import SysRoot

    (tmp_path / "in1_input").write_text("9" * 400)
    with pytest.raises(SensorUnavailableError, match="more than a kernel counts to"):
        SysRoot(tmp_path).read_int("in1_input")
