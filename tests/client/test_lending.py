"""Lending requests, from the other end: a plain socket that speaks what docs/client.md says."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.client import Model, open_model
from tests.client import places
from tests.client.places import ONNX, ONNX_INT8, TASK
from tests.client.test_model import FAST, WAIT_S, two_by_two, until

PACE_S = 0.002  # between two calls, so that the others have a core


class Asker:
    """The agent's end, in nothing but sockets and JSON."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "deploy" / TASK
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.settimeout(WAIT_S)
        self.server.bind(str(self.folder / "shadow.sock"))
        self.server.listen()
        self.end: socket.socket | None = None

    def ask(self, release: str, **more: Any) -> socket.socket:
        self.end, _ = self.server.accept()
        self.end.settimeout(WAIT_S)
        told = {"schema": "boardfit.shadow-ask/1", "task": TASK, "release": release, **more}
        self.end.sendall(json.dumps(told).encode() + b"\n")
        return self.end

    def sample(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        assert self.end is not None
        self.end.sendall(b".")
        (length,) = struct.unpack(">I", self._exactly(4))
        header = json.loads(self._exactly(length))
        arrays = [
            np.frombuffer(self._exactly(int(np.prod(one["shape"])) * np.dtype(one["dtype"]).itemsize), one["dtype"])
            .reshape(one["shape"])
            for one in (*header["inputs"], *header["outputs"])
        ]  # fmt: skip
        return header, arrays

    def _exactly(self, length: int) -> bytes:
        assert self.end is not None
        found = b""
        while len(found) < length:
            part = self.end.recv(length - len(found))
            assert part
            found += part
        return found

    def close(self) -> None:
        (self.folder / "shadow.sock").unlink(missing_ok=True)
        self.server.close()
        if self.end is not None:
            self.end.close()


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asker]:
    (tmp_path / "deploy" / TASK).mkdir(parents=True)
    asker = Asker(tmp_path)
    yield asker
    asker.close()


class Calls:
    """An application that goes on calling its model."""

    def __init__(self, model: Model, *given: Any, images: bool = False, **named: Any) -> None:
        self.count, self._stop = 0, threading.Event()
        self._call = (lambda: model.from_images(*given)) if images else (lambda: model(*given, **named))
        self._thread = threading.Thread(target=self._run)
        self.error: BaseException | None = None
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.wait(PACE_S):
                self.last = self._call()
                self.count += 1
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.error = error

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self.error is None


def test_a_request_is_lent_for_each_byte_with_its_answer(tmp_path: Path, asked: Asker) -> None:
    document = places.deploy(tmp_path, ONNX)
    x = np.random.default_rng(1).random((1, 1, 32, 32), np.float32)
    with open_model(TASK, state_dir=tmp_path, **FAST) as model, Calls(model, x) as calls:
        asked.ask(document.release)
        for _ in range(3):
            header, (given, answer) = asked.sample()
            assert header["schema"] == "boardfit.shadow-sample/1"
            assert header["kind"] == "tensors"
            np.testing.assert_array_equal(given, x)
            np.testing.assert_array_equal(answer, calls.last)
        assert not model._lender.armed  # none is owed


def test_images_are_lent_as_the_application_has_them(tmp_path: Path, asked: Asker) -> None:
    document = places.deploy(tmp_path, ONNX)
    images = places.digits()
    with open_model(TASK, state_dir=tmp_path, **FAST) as model, Calls(model, images, images=True):
        asked.ask(document.release)
        header, (given, _) = asked.sample()
        assert (header["kind"], given.dtype) == ("images", np.uint8)
        np.testing.assert_array_equal(given, images)


def test_several_inputs_keep_their_names(tmp_path: Path, asked: Asker) -> None:
    file = two_by_two(tmp_path / "two.onnx")
    document = places.deploy(tmp_path, ONNX, file, inputs=(), outputs=())
    a, b = np.full((1, 4), 3.0, np.float32), np.full((2, 4), 1.0, np.float32)
    with open_model(TASK, state_dir=tmp_path, **FAST) as model, Calls(model, a=a, b=b):
        asked.ask(document.release)
        header, arrays = asked.sample()
        assert [one["name"] for one in header["inputs"]] == ["a", "b"]
        assert len(header["outputs"]) == 2
        np.testing.assert_array_equal(arrays[1], b)


def test_what_is_too_large_is_told_in_its_place(tmp_path: Path, asked: Asker) -> None:
    document = places.deploy(tmp_path, ONNX)
    x = np.zeros((1, 1, 32, 32), np.float32)
    with open_model(TASK, state_dir=tmp_path, **FAST) as model, Calls(model, x):
        asked.ask(document.release, most_bytes=1000)
        header, arrays = asked.sample()
        assert header["problem"] == "a request of 4136 bytes is larger than the 1000 that are taken"
        assert arrays == []


def test_another_release_is_not_lent_and_a_swap_ends_the_lending(tmp_path: Path, asked: Asker) -> None:
    document = places.deploy(tmp_path, ONNX)
    x = np.zeros((1, 1, 32, 32), np.float32)
    with open_model(TASK, state_dir=tmp_path, **FAST) as model, Calls(model, x):
        end = asked.ask(document.release)
        asked.sample()
        places.deploy(tmp_path, ONNX_INT8)
        until(lambda: model.swaps == 1)
        assert end.recv(1) == b""
        assert not model._lender.armed
    places.deploy(tmp_path, ONNX)
    asked.close()
    other = Asker(tmp_path)
    with open_model(TASK, state_dir=tmp_path, **FAST) as model, Calls(model, x):
        assert other.ask("f" * 64).recv(1) == b""
    other.close()


def test_an_agent_that_goes_or_never_reads_harms_no_call(tmp_path: Path, asked: Asker) -> None:
    document = places.deploy(tmp_path, ONNX)
    x = np.zeros((1, 1, 32, 32), np.float32)
    with open_model(TASK, state_dir=tmp_path, **FAST) as model, Calls(model, x) as calls:
        end = asked.ask(document.release)
        end.sendall(b"." * 1000)  # and reads nothing, until no more goes in
        seen = calls.count
        until(lambda: calls.count > seen + 200)
        end.close()
        until(lambda: not model._lender.armed)
        seen = calls.count
        until(lambda: calls.count > seen + 50)


def test_a_model_is_closed_while_the_agent_does_not_read(tmp_path: Path, asked: Asker) -> None:
    document = places.deploy(tmp_path, ONNX)
    x = np.zeros((1, 1, 32, 32), np.float32)
    with open_model(TASK, state_dir=tmp_path, **FAST) as model:
        with Calls(model, x):
            asked.ask(document.release).sendall(b"." * 1000)
            until(lambda: model._lender.armed is False and model._lender._slot[1])
        thread = model._lender._thread
    assert thread is not None and not thread.is_alive()
