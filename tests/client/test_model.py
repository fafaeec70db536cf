"""An application opens what serves: the very file, at the very point; typed refusals; swaps; what it tells."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.client import DeploymentError, InferenceError, InputError, Model, ModelError, open_model
from agent.core.deployment import SOCKET_NAME
from agent.core.live import LiveReport
from agent.deploy.store import CURRENT, ReleaseStore
from tests.client import places
from tests.client.places import ONNX, ONNX_INT8, TASK, TFLITE, TFLITE_INT8

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 30.0
FAST = {"check_s": 0.01, "tell_s": 0.02}


def until(true: Callable[[], object], what: str = "it") -> None:
    """Wait for something that another thread or process does."""
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end, f"{what} did not come about"
        os.sched_yield()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[socket.socket]:
    """The agent's end of the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / SOCKET_NAME))
        end.settimeout(WAIT_S)
        yield end


def heard(end: socket.socket) -> LiveReport:
    return msgspec.json.decode(end.recv(1 << 16), type=LiveReport)


def expected(name: str, images: np.ndarray) -> np.ndarray:
    """Run the engine directly on what the published preprocessing makes."""
    from agent.runtimes.preprocess import apply_steps
    from agent.runtimes.table import runtime_class
    from benchmarks.zoo.files import artifact, bundled

    point = places.point_of(name)
    runtime = runtime_class(point.engine).load(artifact(name), point)
    runtime.set_input(0, apply_steps(bundled()[name].manifest["preprocessing"], images))
    runtime.run()
    return runtime.output(0)


@pytest.mark.parametrize("name", [ONNX, TFLITE])
def test_the_model_answers_as_its_engine_does(tmp_path: Path, name: str) -> None:
    document = places.deploy(tmp_path, name)
    images = places.digits()
    with open_model(TASK, state_dir=tmp_path) as model:
        assert model.deployment == document
        assert model.engine_version
        np.testing.assert_array_equal(model.from_images(images), expected(name, images))


def test_real_numbers_in_real_numbers_out_and_the_models_own_type_untouched(tmp_path: Path) -> None:
    places.deploy(tmp_path, TFLITE_INT8)
    images = places.digits()
    with open_model(TASK, state_dir=tmp_path) as model:
        real = model.from_images(images)
        assert real.dtype == np.float32
        own = model(np.zeros((1, 32, 32, 1), np.int8))
        assert own.dtype == np.int8
        assert real.argmax() == expected(TFLITE, images).argmax()


def test_shapes_that_differ_in_dimensions_of_one_are_the_same(tmp_path: Path) -> None:
    places.deploy(tmp_path, ONNX)
    x = np.random.default_rng(1).random((1, 32, 32, 1), np.float32)
    with open_model(TASK, state_dir=tmp_path) as model:
        same = model(x)
        np.testing.assert_array_equal(same, model(x.reshape(1, 1, 32, 32).astype(np.float64)))
        np.testing.assert_array_equal(same, model(input=x))
        np.testing.assert_array_equal(same, model({"input": x[0, ..., 0]}))
        np.testing.assert_array_equal(same, model(x.tolist()))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((np.zeros((1, 1, 32, 31), np.float32),), "'input' takes float32 [1, 1, 32, 32], not float32 [1, 1, 32, 31]"),
        ((np.zeros((1, 1, 32, 32), np.uint8),), "not uint8 [1, 1, 32, 32]"),
        (("text",), "not str, which is no array of numbers"),
        ((np.zeros(1), np.zeros(1)), "the model has 1 inputs (input), and 2 were given"),
        (({"image": np.zeros(1)},), "wrong or missing: image, input"),
    ],
)  # fmt: skip
def test_what_a_model_does_not_take_is_one_sentence(tmp_path: Path, given: tuple[object, ...], says: str) -> None:
    places.deploy(tmp_path, ONNX)
    with open_model(TASK, state_dir=tmp_path) as model:
        with pytest.raises(InputError) as problem:
            model(*given)
        assert says in str(problem.value)
        assert model(np.zeros((1, 1, 32, 32), np.float32)).shape == (1, 10)


def test_several_inputs_and_outputs_by_place_and_by_name(tmp_path: Path) -> None:
    file = two_by_two(tmp_path / "two.onnx")
    places.deploy(tmp_path, ONNX, file, inputs=(), outputs=())
    a, b = np.full((1, 4), 3.0, np.float32), np.full((2, 4), 1.0, np.float32)
    with open_model(TASK, state_dir=tmp_path) as model:
        for got in (model(a, b), model(b=b, a=a), model({"a": a, "b": b})):
            assert list(got) == ["sum", "difference"]
            np.testing.assert_array_equal(got["difference"], a - b)
        with pytest.raises(InputError, match="in one way"):
            model(a, b=b)
        with pytest.raises(InferenceError, match="the engine failed"):  # sizes that do not go together
            model(np.zeros((3, 4), np.float32), np.zeros((2, 4), np.float32))
        np.testing.assert_array_equal(model(a, b)["sum"], a + b)


def two_by_two(path: Path) -> Path:
    """A model of two inputs with a dynamic dimension and two outputs."""
    from onnx import TensorProto, helper, save

    def value(name: str) -> object:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4])

    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    graph = helper.make_graph(nodes, "two", [value("a"), value("b")], [value("sum"), value("difference")])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_nothing_deployed_and_what_is_damaged_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match="nothing serves the task 'digits' below"):
        open_model(TASK, state_dir=tmp_path)
    with pytest.raises(DeploymentError, match="not a plain name"):
        open_model("../etc", state_dir=tmp_path)
    document = places.deploy(tmp_path, ONNX)
    folder = ReleaseStore(tmp_path / "deploy").release_folder(TASK, document.release)
    model = folder / document.model.path
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    with pytest.raises(ModelError, match="not the one that was proven"):
        open_model(TASK, state_dir=tmp_path)
    text = (folder / "deployment.json").read_text()
    (folder / "deployment.json").write_text(text.replace('"threads": 1', '"threads": 2'))
    with pytest.raises(DeploymentError, match="its digest is not its name"):
        open_model(TASK, state_dir=tmp_path)
    (folder / "deployment.json").unlink()
    with pytest.raises(DeploymentError, match="it is missing"):
        open_model(TASK, state_dir=tmp_path)


def test_an_engine_or_provider_that_is_not_here_is_a_sentence(tmp_path: Path) -> None:
    point = msgspec.structs.replace(places.point_of(ONNX), provider="CUDAExecutionProvider")
    places.deploy(tmp_path, ONNX, point=point)
    with pytest.raises(DeploymentError, match="cannot be opened: onnxruntime here offers"):
        open_model(TASK, state_dir=tmp_path)


def test_a_model_that_would_run_elsewhere_than_decided_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tflite_runtime", reason="tflite-runtime: no wheel for this Python")
    asked = msgspec.structs.replace(places.point_of(TFLITE), engine="tflite-runtime")
    places.deploy(tmp_path, TFLITE_INT8, point=asked)
    try:
        open_model(TASK, state_dir=tmp_path).close()
    except DeploymentError as error:
        assert "would run on builtin here, which is not what was decided" in str(error)
    else:
        pytest.skip("tflite-runtime: its XNNPACK takes int8 nodes on this processor")
    point = msgspec.structs.replace(asked, provider="builtin")
    places.deploy(tmp_path, TFLITE_INT8, point=point)
    with open_model(TASK, state_dir=tmp_path) as model:
        assert (model.deployment.point, model.engine_version) == (point, "2.14.0")


def test_a_swap_takes_the_new_model_and_one_that_does_not_load_leaves_the_old(
    tmp_path: Path, agent: socket.socket
) -> None:
    first = places.deploy(tmp_path, ONNX)
    changes: list[str] = []
    with open_model(TASK, state_dir=tmp_path, on_change=lambda new: changes.append(new.candidate), **FAST) as model:
        before = model._loaded
        bad = tmp_path / "bad.onnx"
        bad.write_bytes(b"no model at all")
        refused = places.deploy(tmp_path, ONNX_INT8, bad)
        until(lambda: model.refused, "the refusal")
        assert "the engine refuses the model" in (model.refused or "")
        assert model.deployment == first
        assert model.from_images(places.digits()).shape == (1, 10)
        told = heard(agent)
        while told.refused_release is None:
            told = heard(agent)
        assert (told.release, told.refused_release) == (first.release, refused.release)
        assert told.refused_reason == model.refused
        second = places.deploy(tmp_path, TFLITE)
        until(lambda: model.swaps == 1 and changes, "the swap")
        assert model.deployment == second
        assert changes == [TFLITE]
        assert model.refused is None
        assert before.runtime is None  # freed by the thread that swapped
        np.testing.assert_array_equal(model.from_images(places.digits()), expected(TFLITE, places.digits()))
        while (told := heard(agent)).release != second.release:
            assert told.requests <= 1
    with pytest.raises(InferenceError, match="was closed"):
        model(np.zeros((1, 32, 32, 1), np.float32))


def test_a_call_in_the_moment_the_old_model_is_freed_takes_the_new_one(tmp_path: Path) -> None:
    places.deploy(tmp_path, ONNX)
    x = np.zeros((1, 1, 32, 32), np.float32)
    served: list[object] = []
    with open_model(TASK, state_dir=tmp_path, **FAST) as model:
        old = model._loaded
        free = old.retire

        def freed() -> None:
            free()
            try:
                served.append(model(x))
            except InferenceError as error:
                served.append(error)

        old.retire = freed  # type: ignore[method-assign]
        places.deploy(tmp_path, ONNX_INT8)
        until(lambda: served, "the swap")
        assert isinstance(served[0], np.ndarray), served
        assert model.deployment.candidate == ONNX_INT8


def test_a_link_that_goes_away_leaves_what_is_open(tmp_path: Path) -> None:
    places.deploy(tmp_path, ONNX)
    with open_model(TASK, state_dir=tmp_path, **FAST) as model:
        looks = count_looks(model)
        ReleaseStore(tmp_path / "deploy").set_link(TASK, CURRENT, None)
        begin = looks()
        until(lambda: looks() > begin + 2)
        assert model(np.zeros((1, 1, 32, 32), np.float32)).shape == (1, 10)


def count_looks(model: Model) -> Callable[[], int]:
    count = [0]
    real = model._look

    def look() -> None:
        count[0] += 1
        real()

    model._look = look  # type: ignore[method-assign]
    return lambda: count[0]


def test_each_inference_is_told_once_and_errors_apart(tmp_path: Path, agent: socket.socket) -> None:
    document = places.deploy(tmp_path, ONNX)
    x = np.zeros((1, 1, 32, 32), np.float32)
    with open_model(TASK, state_dir=tmp_path, **FAST) as model:
        for _ in range(100):
            model(x)
        with pytest.raises(InputError):  # the application's own mistake is no failure of the model
            model(np.zeros(3, np.float32))
    agent.setblocking(False)
    reports = []
    while True:
        try:
            reports.append(heard(agent))
        except BlockingIOError:
            break
    assert sum(one.requests for one in reports) == 100
    assert sum(count for one in reports for _, count in one.latency) == 100
    assert sum(one.errors for one in reports) == 0
    assert {one.release for one in reports} == {document.release}
    assert {one.engine_version for one in reports} == {model.engine_version}


def test_an_agent_that_is_away_or_does_not_read_costs_nothing_but_reports(tmp_path: Path) -> None:
    places.deploy(tmp_path, ONNX)
    x = np.zeros((1, 1, 32, 32), np.float32)
    with open_model(TASK, state_dir=tmp_path, **FAST) as model:
        model(x)
        until(lambda: model.telling.lost >= 1)
        assert model.telling.reason == "the agent is not running"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
            deaf.bind(str(tmp_path / SOCKET_NAME))

            def fed() -> bool:
                model(x)
                return model.telling.reason == "the agent does not keep up"

            until(fed, "a full queue")  # the kernel queues some, then a blocking send would wait
            lost = model.telling.lost
            deaf.settimeout(WAIT_S)
            while heard(deaf).lost_reports < lost:
                model(x)
        model(x)


def test_a_state_directory_of_any_length_is_reached(tmp_path: Path) -> None:
    state = tmp_path / ("long" * 30)
    places.deploy(state, ONNX)
    handle = os.open(state, os.O_PATH)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(f"/proc/self/fd/{handle}/{SOCKET_NAME}")
        end.settimeout(WAIT_S)
        with open_model(TASK, state_dir=state, **FAST) as model:
            model(np.zeros((1, 1, 32, 32), np.float32))
            assert heard(end).requests == 1
    os.close(handle)


def test_calls_of_many_threads_while_models_are_swapped_all_succeed(tmp_path: Path) -> None:
    names = (ONNX, TFLITE, ONNX_INT8, TFLITE_INT8)
    documents = [places.stage(tmp_path, name) for name in names]
    store = ReleaseStore(tmp_path / "deploy")
    store.set_link(TASK, CURRENT, documents[0].release)
    x = np.random.default_rng(1).random((1, 32, 32, 1), np.float32)
    failures: list[BaseException] = []
    counts, stop = [0, 0, 0], threading.Event()
    with open_model(TASK, state_dir=tmp_path, **FAST) as model:

        def call(number: int) -> None:
            try:
                while not stop.is_set():
                    assert model(x).shape == (1, 10)
                    counts[number] += 1
            except BaseException as error:  # noqa: BLE001 - of a thread
                failures.append(error)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(1, 13):
            wanted = documents[turn % len(documents)]
            store.set_link(TASK, CURRENT, wanted.release)
            until(lambda wanted=wanted: model.deployment == wanted or failures, "a swap")
        stop.set()
        for thread in threads:
            thread.join()
        assert model.swaps == 12
    assert not failures
    assert min(counts) > 0


APPLICATION = """
import sys, numpy as np
from agent.client import open_model
with open_model("digits", state_dir=sys.argv[1], check_s=0.02) as model:
    x = np.zeros((1, 1, 32, 32), np.float32)
    ran = failed = 0
    print("ready", flush=True)
    while model.swaps < int(sys.argv[2]):
        try:
            model(x)
            ran += 1
        except Exception as error:
            failed += 1
    print(f'{{"ran": {ran}, "failed": {failed}, "swaps": {model.swaps}}}')
"""


def test_an_application_in_its_own_process_loses_no_request_while_deployments_change(tmp_path: Path) -> None:
    names = (ONNX, ONNX_INT8)
    places.deploy(tmp_path, names[0])
    command = [sys.executable, "-c", APPLICATION, str(tmp_path), "6"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        turn = 0
        while process.poll() is None:
            turn += 1
            document = places.deploy(tmp_path, names[turn % 2])
            ReleaseStore(tmp_path / "deploy").collect(TASK, {document.release})  # what served is gone from the disk
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        said = json.loads(process.stdout.read())
    assert (said["failed"], said["swaps"]) == (0, 6)
    assert said["ran"] > 0


@pytest.mark.parametrize(("name", "engine"), [(ONNX, "onnxruntime"), (TFLITE, "ai_edge_litert")])
def test_an_application_loads_its_engine_and_little_else(tmp_path: Path, name: str, engine: str) -> None:
    places.deploy(tmp_path, name)
    code = (
        "import sys; from agent.client import open_model\n"
        f"with open_model('digits', state_dir={str(tmp_path)!r}) as model: pass\n"
        "print(*sys.modules)"
    )
    loaded = set(run(code).split())
    alone = "from ai_edge_litert.interpreter import Interpreter" if engine != "onnxruntime" else f"import {engine}"
    before = set(run(f"import sys, numpy; {alone}\nprint(*sys.modules)").split())
    assert engine in loaded
    engines = {"onnxruntime", "ai_edge_litert", "tflite_runtime"}
    assert not loaded & (engines - {engine})
    assert not loaded & {
        "tuf",
        "paho",
        "yaml",
        "rich",
        "psutil",
        "sqlite3",
        "PIL",
        "argparse",
        "http.client",
        "asyncio",
    }
    heavy = {"measure", "registry", "report", "pipeline", "site", "device", "config", "database", "mqtt"}
    assert not heavy & {one.split(".")[1] for one in loaded if one.startswith("agent.")}
    assert len(loaded - before) <= 60, sorted(loaded - before)  # msgspec and what it loads are 18 of them


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
