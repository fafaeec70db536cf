"""The access files beside each other, and beside the topics that there are."""

from __future__ import annotations

import re
from typing import get_args

from agent.core.topics import PARAMETER, Kind
from agent.enrolment.access import OTHERS, READ, WRITTEN, mosquitto_acl
from agent.enrolment.names import parse_name
from tests.enrolment.conftest import EXAMPLE, ROOT

NAMES = ("plant-7/pi5-kitchen", "plant-7/pi5-garage", "plant-9/pi5-kitchen", "operator/otto", "collector/one")


def test_the_example_is_what_the_command_writes() -> None:
    assert (EXAMPLE / "boardfit.acl").read_text() == mosquitto_acl(parse_name(name) for name in NAMES)


def test_every_kind_of_topic_is_given_to_somebody() -> None:
    assert set(get_args(Kind)) <= {*WRITTEN, *READ, *OTHERS}
    assert not {*WRITTEN, *READ} & set(OTHERS)
    assert set(WRITTEN) & set(READ) == {"status"}


def test_a_party_that_is_named_twice_is_listed_once() -> None:
    assert mosquitto_acl([parse_name(NAMES[0])] * 2) == mosquitto_acl([parse_name(NAMES[0])])


def test_emqx_is_told_the_same() -> None:
    """Not run with EMQX: the topics of each rule are those of the file that is run with mosquitto."""
    text = (ROOT / "examples" / "emqx" / "acl.conf").read_text()
    rules = re.sub(r"^%%.*$", "", text, flags=re.MULTILINE).replace("\n", " ")
    topics = {
        action: set(re.findall(r'"(boardfit/[^"]+)"', body))
        for action, body in re.findall(r"\{allow, all, (publish|subscribe), \[(.*?)\]\}\.", rules)
    }
    board = mosquitto_acl([parse_name("plant-7/x")]).replace("%u", "${username}")
    board = board.replace("boardfit/v1/plant-7/", "boardfit/v1/${client_attrs.fleet}/")
    assert topics["publish"] == set(re.findall(r"^\w+ write (\S+)$", board, re.MULTILINE))
    assert topics["subscribe"] == set(re.findall(r"^\w+ read (\S+)$", board, re.MULTILINE))
    for role in ("operator", "collector"):
        wanted = mosquitto_acl([parse_name(f"{role}/me")]).split(f"user {role}/me")[1]
        wanted = wanted.replace("_collector/me", "_collector/${client_attrs.name}")
        for action, word in (("publish", "write"), ("subscribe", "read")):
            rule = re.search(rf'"\^{role}/[^"]*"\}}\}}, {action}, \[(.*?)\]\}}\.', rules)
            assert rule is not None
            assert set(re.findall(r'"([^"]+)"', rule[1])) == set(re.findall(rf"{word} (\S+)$", wanted, re.MULTILINE))
    assert rules.rstrip().endswith("{deny, all}.")
    assert {"cmd", "decision"} < set(PARAMETER)
