"""The throw-away broker, both kinds."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from agent.demo_broker import EmbeddedBroker, available_kind
from agent.errors import ReportError
from agent.mqtt import Connection, drive


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_it_serves_and_is_gone_afterwards(kind, listen, outbox, system_clock) -> None:
    with EmbeddedBroker(kind) as broker:
        assert (broker.protocol, broker.url) == ({"mosquitto": "5", "amqtt": "3.1.1"}[kind], broker.settings.url)
        sender = Connection(broker.settings)
        sender.connect(10)
        said = sender.publish("hello", b"world", retain=True)
        assert drive(sender, lambda: said.state == "acked", 10)
        listener = listen(broker.settings)
        listener.wait(lambda: [one.payload for one in listener.got] == [b"world"])
        sender.close()
        listener.connection.close()
        port = broker.port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_the_newest_protocol_is_preferred() -> None:
    assert available_kind() == "mosquitto"


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_it_dies_with_its_parent(kind) -> None:
    script = f"""
import sys, time
from agent.demo_broker import EmbeddedBroker
with EmbeddedBroker({kind!r}) as broker:
    print(broker.port, broker._process.pid, flush=True)
    sys.stdin.read()
"""
    arguments = [sys.executable, "-c", script]
    parent = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline().split()[1])
    descriptor = os.pidfd_open(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    assert select.select([descriptor], [], [], 20)[0]
    os.close(descriptor)


def test_a_broker_that_cannot_start_says_what_to_do(monkeypatch, tmp_path) -> None:
    broken = tmp_path / "mosquitto"
    broken.write_text("#!/bin/sh\necho 'Error: no luck' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("agent.demo_broker._SEARCH", str(tmp_path))
    with pytest.raises(ReportError, match="mosquitto did not start: "), EmbeddedBroker("mosquitto"):
        pass
