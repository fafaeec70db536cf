"""The MQTT adapter against a real mosquitto: both protocols, TLS, refusals, and what it does when the line breaks."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time

import msgspec
import pytest

from agent.demo_broker import free_port
from agent.errors import ConfigError, ReportError
from agent.mqtt import BrokerSettings, Connection, drive, parse_broker_url, random_share
from agent.mqtt.connection import BACKOFF_CAP_S
from agent.mqtt.refusals import refused_error


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://broker", BrokerSettings(host="broker")),
        ("mqtt://127.0.0.1:1999", BrokerSettings(host="127.0.0.1", port=1999)),
        ("mqtts://broker.example.org", BrokerSettings(host="broker.example.org", port=8883, tls=True)),
        ("mqtts://me@[::1]:8884/", BrokerSettings(host="::1", port=8884, tls=True, username="me")),
    ],
)
def test_a_url_becomes_settings(url: str, expected: BrokerSettings) -> None:
    assert parse_broker_url(url) == expected
    assert parse_broker_url(expected.url) == msgspec.structs.replace(expected, username=None)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("broker:1883", "neither mqtt://"),
        ("http://broker", "neither mqtt://"),
        ("mqtt://", "no host"),
        ("mqtt://broker:port", "not a URL"),
        ("mqtt://broker:99999", "not a URL"),
        ("mqtt://broker:0", "not a port"),
        ("mqtt://me:secret@broker", "password"),
        ("mqtt://broker/topic", "after the port"),
    ],
)
def test_a_bad_url_is_refused_in_words(url: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        parse_broker_url(url)


@pytest.mark.parametrize(
    "changes",
    [
        {"tls": True, "cert": "a.pem"},
        {"ca": "a.pem"},
        {"password": "x"},
        {"username": "me", "password": "x", "password_file": "y"},
        {"keepalive_s": 1},
        {"host": ""},
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        BrokerSettings(**{"host": "broker", **changes})  # type: ignore[arg-type]


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(BrokerSettings(host="b", username="me", password="secret"))


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_messages_go_out_and_come_in(broker, listen, protocol) -> None:
    listener = listen(broker.settings(protocol=protocol))
    sender = Connection(broker.settings(protocol=protocol))
    sender.connect(10)
    publications = [sender.publish(f"t/{i}", str(i).encode(), retain=i == 0) for i in range(50)]
    assert drive(sender, lambda: all(one.state == "acked" for one in publications), 10)
    listener.wait(lambda: len(listener.got) == 50)
    assert [one.payload for one in listener.got] == [str(i).encode() for i in range(50)]
    late = listen(broker.settings(protocol=protocol))
    late.wait(lambda: bool(late.got))
    assert (late.got[0].topic, late.got[0].retain) == ("t/0", True)
    sender.close()


def test_the_socket_has_no_delay_and_no_thread_stays(broker) -> None:
    before = threading.active_count()
    connection = Connection(broker.settings())
    connection.connect(10)
    descriptor = connection.fileno()
    assert descriptor is not None
    with socket.socket(fileno=socket.dup(descriptor)) as same:
        assert same.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    deadline = time.monotonic() + 5
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    connection.close()


def test_an_idle_connection_asks_to_be_woken_for_the_keep_alive_only(broker) -> None:
    connection = Connection(broker.settings(keepalive_s=60))
    connection.connect(10)
    drive(connection, lambda: not connection.wants_write(), 5)
    deadline = connection.on_timer()
    assert deadline is not None
    assert 58 < deadline - time.monotonic() <= 60
    woken = []
    drive(connection, lambda: bool(woken.append(1)), 0.5)
    assert len(woken) <= 4  # asked twice before and twice after the one wait: no tick in between
    connection.close()


def test_the_keep_alive_holds_a_silent_connection_open(broker) -> None:
    connection = Connection(broker.settings(keepalive_s=5))
    connection.connect(10)
    assert not drive(connection, lambda: connection.state != "online", 8.5)  # the broker gives up after 7.5 s
    connection.close()


def test_a_frozen_broker_is_noticed(broker) -> None:
    connection = Connection(broker.settings(keepalive_s=5))
    connection.connect(10)
    broker.freeze()
    assert drive(connection, lambda: connection.state != "online", 12)
    assert connection.last_error is not None
    connection.close()


def test_callbacks_may_publish(broker, listen) -> None:
    listener = listen(broker.settings())
    echo = Connection(broker.settings())
    echo.connect(10)
    echo.subscribe("ask", lambda one: echo.publish("answer", one.payload.upper()) and None)
    marker = echo.publish("x", b"")
    drive(echo, lambda: marker.state == "acked", 5)
    listener.connection.publish("ask", b"hello")
    deadline = time.monotonic() + 10
    while not listener.topic("answer") and time.monotonic() < deadline:
        drive(echo, lambda: False, 0.02)
        drive(listener.connection, lambda: False, 0.02)
    assert listener.topic("answer")[0].payload == b"HELLO"
    echo.close()


def test_nothing_listening_says_so() -> None:
    with pytest.raises(ReportError, match="nothing listens at mqtt://") as caught:
        Connection(BrokerSettings(host="127.0.0.1", port=free_port())).connect(10)
    assert caught.value.facts["cause"] == "refused"
    assert caught.value.fix is not None


def test_an_unknown_name_says_so() -> None:
    with pytest.raises(ReportError, match="cannot be resolved"):
        Connection(BrokerSettings(host="no-such-broker.invalid")).connect(10)


def test_a_port_that_speaks_something_else_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = BrokerSettings(host="127.0.0.1", port=server.getsockname()[1], connect_timeout_s=0.3)
        with pytest.raises(ReportError, match="does not answer"):
            Connection(settings).connect(10)


def test_a_broker_that_hangs_up_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        settings = BrokerSettings(host="127.0.0.1", port=server.getsockname()[1])
        with pytest.raises(ReportError, match=r"without an answer.*3\.1\.1"):
            Connection(settings).connect(10)


@pytest.fixture
def guarded(start_broker, tmp_path):
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "pi5", "right"], check=True)
    rules = tmp_path / "rules"
    rules.write_text("user pi5\ntopic readwrite allowed/#\n")
    return start_broker(f"allow_anonymous false\npassword_file {passwords}\nacl_file {rules}")


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("who", [{}, {"username": "pi5", "password": "wrong"}, {"username": "nobody", "password": "x"}])
def test_a_wrong_password_is_said_and_what_to_do(guarded, protocol, who) -> None:
    with pytest.raises(ReportError, match=r"user name or password|does not authorise") as caught:
        Connection(guarded.settings(protocol=protocol, **who)).connect(10)
    assert caught.value.facts["cause"] == "unauthorised"


def test_a_password_comes_from_its_file(guarded, tmp_path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("right\n")
    connection = Connection(guarded.settings(username="pi5", password_file=str(secret)))
    connection.connect(10)
    assert connection.state == "online"
    connection.close()
    with pytest.raises(ConfigError, match="password_file"):
        Connection(guarded.settings(username="pi5", password_file=str(tmp_path / "gone")))


def test_a_refused_message_is_told_apart_from_a_sent_one(guarded) -> None:
    connection = Connection(guarded.settings(username="pi5", password="right"))
    connection.connect(10)
    good, bad = connection.publish("allowed/x", b""), connection.publish("forbidden/x", b"")
    assert drive(connection, lambda: good.state != "sent" and bad.state != "sent", 10)
    assert (good.state, bad.state, bad.reason) == ("acked", "refused", "Not authorized")
    connection.close()


@pytest.fixture
def tls_broker(start_broker, make_authority):
    authority = make_authority("authority")
    cert, key = authority.issue("broker")
    return authority, start_broker(
        f"allow_anonymous true\ncafile {authority.path}\ncertfile {cert}\nkeyfile {key}\nrequire_certificate true"
    )


def test_tls_with_a_client_certificate(tls_broker, listen) -> None:
    authority, broker = tls_broker
    cert, key = authority.issue("pi5")
    settings = broker.settings(tls=True, ca=authority.path, cert=cert, key=key)
    listener = listen(settings)
    sender = Connection(settings)
    sender.connect(10)
    payload = b"x" * 100_000  # more than one TLS record, so that decrypted bytes wait inside the TLS layer
    publications = [sender.publish("big", payload) for _ in range(5)]
    assert drive(sender, lambda: all(one.state == "acked" for one in publications), 15)
    listener.wait(lambda: len(listener.got) == 5)
    assert {one.payload for one in listener.got} == {payload}
    sender.close()


def test_an_authority_we_do_not_know_is_refused(tls_broker, make_authority) -> None:
    authority, broker = tls_broker
    cert, key = authority.issue("pi5")
    stranger = make_authority("stranger")
    with pytest.raises(ReportError, match="not trusted") as caught:
        Connection(broker.settings(tls=True, ca=stranger.path, cert=cert, key=key)).connect(10)
    assert caught.value.facts["cause"] == "tls"


def test_a_name_that_is_not_in_the_certificate_is_refused(tls_broker) -> None:
    authority, broker = tls_broker
    cert, key = authority.issue("pi5")
    with pytest.raises(ReportError, match="not trusted"):
        Connection(broker.settings(host="localhost", tls=True, ca=authority.path, cert=cert, key=key)).connect(10)


@pytest.mark.parametrize("whose", ["none", "stranger"])
def test_a_broker_that_refuses_our_certificate_says_so(tls_broker, make_authority, whose) -> None:
    authority, broker = tls_broker
    changes: dict[str, object] = {}
    if whose == "stranger":
        cert, key = make_authority("stranger").issue("pi5")
        changes = {"cert": cert, "key": key}
    with pytest.raises(ReportError, match=r"mqtt\.cert"):
        Connection(broker.settings(tls=True, ca=authority.path, **changes)).connect(10)


def test_tls_against_a_plain_port_says_so(broker, make_authority) -> None:
    with pytest.raises(ReportError, match="TLS handshake"):
        Connection(broker.settings(tls=True, ca=make_authority("authority").path)).connect(10)


def test_tls_files_are_looked_at_before_anything_is_dialled(tmp_path, make_authority) -> None:
    with pytest.raises(ConfigError, match=r"mqtt\.ca: there is no file"):
        Connection(BrokerSettings(host="broker", tls=True, ca=str(tmp_path / "gone")))
    authority = make_authority("authority")
    cert, _ = authority.issue("one")
    _, key = authority.issue("two")
    with pytest.raises(ConfigError, match="key must belong"):
        Connection(BrokerSettings(host="broker", tls=True, ca=authority.path, cert=cert, key=key))


def test_a_second_client_with_our_id_is_named_as_such(broker) -> None:
    first = Connection(broker.settings(client_id="pi5"))
    first.connect(10)
    second = Connection(broker.settings(client_id="pi5"))
    second.connect(10)
    assert drive(first, lambda: first.state != "online", 10)
    assert first.last_error is not None
    assert "another client with the id 'pi5'" in str(first.last_error)
    first.close()
    second.close()


def test_reason_codes_become_sentences() -> None:
    settings = BrokerSettings(host="b", client_id="pi5")
    taken = refused_error(settings, "Session taken over")
    assert (taken.problem, taken.facts["cause"]) == (
        "another client with the id 'pi5' took over the connection to mqtt://b:1883",
        "taken_over",
    )
    other = refused_error(settings, "Unsupported protocol version")
    assert str(other) == "mqtt://b:1883 does not speak MQTT 5. Set mqtt.protocol to '3.1.1'."
    assert "Topic name invalid" in str(refused_error(settings, "Topic name invalid"))


def test_a_broken_connection_comes_back_with_its_subscriptions(broker, listen) -> None:
    connection = Connection(broker.settings(), jitter=lambda: 0.0)
    connection.connect(10)
    got: list[bytes] = []
    connection.subscribe("news", lambda one: got.append(one.payload))
    lost = connection.publish("x", b"")
    broker.freeze()
    broker.kill()
    assert drive(connection, lambda: connection.state != "online", 10)
    assert lost.state in ("lost", "acked")
    broker.start()
    assert drive(connection, lambda: connection.state == "online", 10)
    marker = connection.publish("news", b"again")
    assert drive(connection, lambda: bool(got) and marker.state == "acked", 10)
    assert got == [b"again"]
    connection.close()


def test_the_delay_between_attempts_doubles_up_to_its_cap_and_is_random() -> None:
    now = [0.0]
    for share in (1.0, 0.25):
        connection = Connection(
            BrokerSettings(host="127.0.0.1", port=free_port()), clock=lambda: now[0], jitter=lambda share=share: share
        )
        delays = []
        connection.start()
        for _ in range(9):
            while connection.state == "dialing":
                connection.on_readable()
            deadline = connection.deadline()
            assert deadline is not None
            delays.append(deadline - now[0])
            now[0] = deadline
            connection.on_timer()
        expected = [min(BACKOFF_CAP_S, 2.0**i) * share for i in range(9)]
        assert delays == pytest.approx(expected)
        connection.close()


def test_the_random_part_lies_anywhere_between_none_and_all_of_it() -> None:
    drawn = sorted(random_share() for _ in range(1000))
    assert 0.0 <= drawn[0] < 0.1
    assert 0.4 < drawn[500] < 0.6
    assert 0.9 < drawn[-1] < 1.0


def test_reconnecting_two_hundred_times_leaks_no_descriptor_and_no_thread(broker, tmp_path) -> None:
    script = """
import os, sys, threading
from agent.mqtt import BrokerSettings, Connection, drive
connection = Connection(BrokerSettings(host="127.0.0.1", port=int(sys.argv[1])), jitter=lambda: 0.0)
connection.connect(10)
def descriptors(): return len(os.listdir("/proc/self/fd"))
def rss(): return int(open("/proc/self/statm").read().split()[1])
for i in range(200):
    os.close(os.dup(connection.fileno()))
    import socket
    same = socket.socket(fileno=os.dup(connection.fileno()))
    same.shutdown(socket.SHUT_RDWR); same.close()
    assert drive(connection, lambda: connection.connects == i + 2, 20)
    if i == 20: before = (descriptors(), rss())
after = (descriptors(), rss())
connection.close()
print(before[0], after[0], after[1] / before[1])
"""
    done = subprocess.run([sys.executable, "-c", script, str(broker.port)], capture_output=True, text=True, check=True)
    before, after, growth = done.stdout.split()
    assert before == after
    assert float(growth) <= 1.02
