"""Payloads of real meters, as their makers' documents and public captures show them, to watts and joules."""

from __future__ import annotations

import json

import pytest

from agent.device.outside import MeterKind
from agent.device.power_meter_kinds import Heard, talk

PLUS = (
    b'{"id":0, "source":"loopback", "output":true, "apower":10.7, "voltage":120.7, "current":0.133, '
    b'"aenergy":{"total":46791.262,"by_minute":[73.921,177.749,177.749],"minute_ts":1682952864},'
    b'"temperature":{"tC":47.9, "tF":118.3}}'
)
TASMOTA = (
    b'{"Time":"2022-01-11T21:57:38","ENERGY":{"TotalStartTime":"2020-10-21T22:15:00","Total":3.705,"Yesterday":0.028,'
    b'"Today":0.026,"Period":1,"Power":5,"ApparentPower":5,"ReactivePower":0,"Factor":1.00,"Voltage":233,'
    b'"Current":0.021}}'
)


def test_shelly_tells_watts_and_thousandths_of_a_watt_hour() -> None:
    how = talk("shelly", "shellyplus1pm-a8032abe54dc", None, "me")
    heard = how.hear("shellyplus1pm-a8032abe54dc/status/switch:0", PLUS)
    assert heard == Heard(10.7, pytest.approx(0.1), pytest.approx(46791.262 * 3600), pytest.approx(3.6))


def test_shelly_is_asked_by_rpc_and_answers_to_us_alone() -> None:
    how = talk("shelly", "plug", "switch:2", "boardfit-meter-1")
    topic, payload = how.question(7)
    assert (topic, json.loads(payload)) == (
        "plug/rpc",
        {"id": 7, "src": "boardfit-meter-1", "method": "Switch.GetStatus", "params": {"id": 2}},
    )
    assert how.patterns == ("plug/status/switch:2", "boardfit-meter-1/rpc")
    answer = b'{"id":7,"src":"plug","dst":"boardfit-meter-1","result":' + PLUS + b"}"
    heard = how.hear("boardfit-meter-1/rpc", answer)
    assert heard is not None and heard.power_w == 10.7
    refused = b'{"id":7,"src":"plug","error":{"code":404,"message":"No handler for Switch.GetStatus"}}'
    with pytest.raises(ValueError, match="No handler"):
        how.hear("boardfit-meter-1/rpc", refused)


@pytest.mark.parametrize(
    ("component", "method", "payload", "power_w"),
    [
        ("pm1:0", "PM1.GetStatus", b'{"id":0,"apower":3.25,"aenergy":{"total":9}}', 3.25),
        ("em1:1", "EM1.GetStatus", b'{"id":1,"current":2.540,"voltage":232.8,"act_power":-22.9}', -22.9),
        ("em:0", "EM.GetStatus", b'{"id":0,"total_current":4.5,"total_act_power":1035.0}', 1035.0),
    ],
)
def test_other_shelly_parts(component: str, method: str, payload: bytes, power_w: float) -> None:
    how = talk("shelly", "x", component, "me")
    assert json.loads(how.question(1)[1])["method"] == method
    heard = how.hear(f"x/status/{component}", payload)
    assert heard is not None and heard.power_w == power_w


def test_shelly_of_the_first_generation() -> None:
    relay = talk("shelly-gen1", "shellyplug-s-040BAD", None, "me")
    assert relay.patterns == (
        "shellies/shellyplug-s-040BAD/relay/0/power",
        "shellies/shellyplug-s-040BAD/relay/0/energy",
    )
    assert relay.question(1) == ("shellies/shellyplug-s-040BAD/command", b"update")
    assert relay.hear(relay.patterns[0], b"4.27") == Heard(4.27, pytest.approx(0.01))
    assert relay.hear(relay.patterns[1], b"1245") == Heard(energy_j=1245 * 60.0, step_j=60.0)
    emeter = talk("shelly-gen1", "shellies/shellyem3-C45BBE6A8F1F", "emeter:1", "me")
    assert emeter.patterns[1] == "shellies/shellyem3-C45BBE6A8F1F/emeter/1/total"
    assert emeter.hear(emeter.patterns[1], b"3003.4") == Heard(energy_j=3003.4 * 3600, step_j=pytest.approx(360.0))


def test_tasmota_counts_whole_watts_and_watt_hours() -> None:
    how = talk("tasmota", "livingroom-lamp", None, "me")
    assert how.patterns[0] == "tele/livingroom-lamp/SENSOR"
    expected = Heard(5.0, 1.0, pytest.approx(3.705 * 3.6e6), pytest.approx(3600.0))
    assert how.hear("tele/livingroom-lamp/SENSOR", TASMOTA) == expected
    assert how.hear("stat/livingroom-lamp/STATUS8", b'{"StatusSNS":' + TASMOTA + b"}") == expected
    assert how.hear("stat/livingroom-lamp/STATUS10", b'{"StatusSNS":' + TASMOTA + b"}") == expected
    assert how.question(3) == ("cmnd/livingroom-lamp/Status", b"8")


def test_tasmota_before_version_six_and_with_another_order_of_topics() -> None:
    how = talk("tasmota", "house/%prefix%/pow", None, "me")
    old = b'{"StatusPWR":{"Total":0.520, "Yesterday":0.100, "Today":0.320, "Power":27, "Factor":0.94}}'
    assert how.hear("house/stat/pow/STATUS8", old) == Heard(27.0, 1.0, pytest.approx(0.52 * 3.6e6), pytest.approx(3600))
    assert how.question(1)[0] == "house/cmnd/pow/Status"


def test_tasmota_phases_are_added_or_chosen() -> None:
    three = b'{"ENERGY":{"Total":1.25,"Power":[5.1,7.2,9.3]}}'
    whole = talk("tasmota", "t", None, "me").hear("tele/t/SENSOR", three)
    second = talk("tasmota", "t", "1", "me").hear("tele/t/SENSOR", three)
    assert whole is not None and second is not None
    assert (whole.power_w, whole.step_w) == (pytest.approx(21.6), pytest.approx(0.1))
    assert (second.power_w, second.energy_j) == (pytest.approx(7.2), None)


@pytest.mark.parametrize("kind", ["shelly", "shelly-gen1", "tasmota"])
@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b"null", b"on", b'{"apower":null}', b'{"apower":"7"}', b'{"apower":true}', b'{"ENERGY":7}',
     b'{"ENERGY":{"Power":"x"}}', b'{"StatusSNS":5}', b'{"StatusSNS":{"Time":"now"}}', b"\xff\xfe", b"NaN",
     b'{"apower":NaN}', b'{"apower":Infinity}', b'{"result":[]}', b'{"aenergy":{"total":[]}}'],
)  # fmt: skip
def test_what_says_nothing_of_power_is_no_value(kind: MeterKind, payload: bytes) -> None:
    how = talk(kind, "t", None, "me")
    for topic in how.patterns:
        assert how.hear(topic, payload) is None


@pytest.mark.parametrize(
    ("kind", "component"),
    [("shelly", "relay:0"), ("shelly", "switch"), ("shelly-gen1", "switch:0"), ("tasmota", "power")],
)
def test_a_part_that_a_meter_does_not_have_is_refused(kind: MeterKind, component: str) -> None:
    with pytest.raises(ValueError, match=component):
        talk(kind, "t", component, "me")
