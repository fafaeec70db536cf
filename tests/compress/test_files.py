"""Techniques on ONNX files, and whole runs of a recipe, with real converters and real engines."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from agent.compress.samples import Samples, read_pack, shared_samples  # noqa: E402
from agent.compress.technique import Step  # noqa: E402
from agent.compress.techniques import technique  # noqa: E402
from agent.errors import BoardfitError, ConfigError  # noqa: E402
from agent.registry.inspect import inspect_model  # noqa: E402
from agent.registry.packing import packed  # noqa: E402
from benchmarks.zoo.files import artifact  # noqa: E402
from tests.compress.conftest import CLASSES, quarters  # noqa: E402


def write_net(path: Path, **changes: Any) -> Path:
    """Write a convolution and a dense layer that solve the quarters exactly: averages of each quarter."""
    draw = np.random.default_rng(0)
    kernel = draw.normal(0, 0.01, (8, 1, 4, 4)).astype(np.float32)
    kernel[0] = 1.0
    dense = draw.normal(0, 0.01, (CLASSES, 32)).astype(np.float32)
    dense[:, :4] = np.eye(4)
    shape = changes.get("shape", [1, 1, 8, 8])
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["maps"], strides=[4, 4]),
        helper.make_node("Relu", ["maps"], ["alive"]),
        helper.make_node("Flatten", ["alive"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "quarters",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shape[0], CLASSES])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(dense, "dense")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def apply(name: str, source: Path, samples: Samples, **given: Any) -> tuple[Any, dict[str, Any], Path]:
    found = technique(name, "test")
    target = source.with_name(f"{name}.onnx")
    reached = found.apply(Step("onnx", source, target, found.read(given, "test"), samples, 0, {}))
    return onnx.load(str(target)), reached, target


def weights(model: Any) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("scope", ["overall", "layer"])
def test_an_onnx_file_is_pruned_to_its_share(tmp_path: Path, samples: Samples, scope: str) -> None:
    before = weights(onnx.load(str(write_net(tmp_path / "net.onnx"))))
    model, reached, _ = apply("magnitude_pruning", tmp_path / "net.onnx", samples, share=0.5, scope=scope)
    after = weights(model)
    zeros = {name: int((array == 0).sum()) for name, array in after.items()}
    assert sum(zeros.values()) == reached["zeros"] == 128
    if scope == "layer":
        assert zeros == {"kernel": 64, "dense": 64}
    for name, array in after.items():
        assert np.array_equal(array[array != 0], before[name][array != 0])


def test_an_onnx_file_is_clustered_into_few_values(tmp_path: Path, samples: Samples) -> None:
    model, reached, _ = apply("weight_clustering", write_net(tmp_path / "net.onnx"), samples, clusters=4)
    assert all(len(np.unique(array)) <= 4 for array in weights(model).values())
    assert reached["most_values"] <= 4
    assert reached["bits"] == 2


def test_pruned_and_shared_weights_are_smaller_once_they_are_packed(tmp_path: Path, samples: Samples) -> None:
    """The last step of Deep Compression, on a real network: before it, nothing is gained."""
    source = tmp_path / "net.onnx"
    shutil.copy(artifact("mobilenet_v1-w025-onnx-f32"), source)
    _, _, pruned = apply("magnitude_pruning", source, samples, share=0.7)
    model, _, shared = apply("weight_clustering", pruned, samples, clusters=32)
    parent, child = source.stat().st_size, shared.stat().st_size
    assert child > 0.95 * parent
    packed_parent, packed_child = packed(source), packed(shared)
    assert packed_parent is not None and packed_child is not None
    assert len(packed_parent) > 0.8 * parent  # float weights hardly pack
    assert len(packed_child) < 0.25 * parent
    assert lzma.decompress(packed_child) == shared.read_bytes()
    # No better than the entropy of the weights allows: the figure is no accident of the file.
    values = np.concatenate([array.ravel() for array in weights(model).values()])
    _, counts = np.unique(values, return_counts=True)
    share = counts / counts.sum()
    assert len(packed_child) > -(share * np.log2(share)).sum() * len(values) / 8 * 0.5


@pytest.mark.parametrize("calibration", ["min_max", "entropy", "percentile"])
def test_static_int8_has_the_scales_of_its_definition(tmp_path: Path, samples: Samples, calibration: str) -> None:
    pytest.importorskip("sympy")
    source = write_net(tmp_path / "net.onnx")
    model, reached, _ = apply("static_int8", source, samples, calibration=calibration)
    assert reached["calibration_samples"] == 50
    after = weights(model)
    kernel = weights(onnx.load(str(source)))["kernel"]
    stored, scale, zero = after["kernel_quantized"], after["kernel_scale"], after["kernel_zero_point"]
    assert stored.dtype == np.int8
    assert np.all(zero == 0)
    assert np.allclose(scale, np.abs(kernel).reshape(8, -1).max(axis=1) / 63.5, rtol=0.02)  # 7 bits of 8
    assert np.allclose(stored * scale[:, None, None, None], kernel, atol=float(scale.max()) / 2 + 1e-6)
    if calibration == "min_max":
        chosen = samples.calibration_inputs("onnx", 0)
        low, high = min(0.0, float(chosen.min())), max(0.0, float(chosen.max()))
        assert float(after["image_scale"]) == pytest.approx((high - low) / 255, rel=1e-3)
        assert int(after["image_zero_point"]) == round(-128 - low / float(after["image_scale"]))


@pytest.mark.parametrize("name", ["dynamic_int8", "static_int8", "int8_int16", "float16"])
def test_no_technique_takes_a_file_beyond_what_boards_run(tmp_path: Path, samples: Samples, name: str) -> None:
    """16-bit types are in ONNX's own operators from opset 21 on; boards run 20."""
    model, _, target = apply(name, write_net(tmp_path / "net.onnx"), samples)
    assert max(entry.version for entry in model.opset_import if not entry.domain) <= 20
    assert model.ir_version <= 10
    assert inspect_model(target).opset in range(1, 21)


def test_calibration_never_sees_the_evaluation_data(tmp_path: Path) -> None:
    inputs, labels = quarters(50, 1)
    np.savez(tmp_path / "a.npz", inputs=inputs, labels=labels)
    np.savez(
        tmp_path / "b.npz", inputs=np.concatenate([quarters(20, 2)[0], inputs[7:9]]), labels=np.zeros(22, np.int64)
    )
    assert shared_samples(read_pack(tmp_path / "a.npz"), read_pack(tmp_path / "b.npz")) == 2


def recipe(folder: Path, *candidates: dict[str, Any], **more: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for name, count, seed in (("train", 200, 1), ("test", 80, 2)):
        inputs, labels = quarters(count, seed)
        np.savez(folder / f"{name}.npz", inputs=inputs, labels=labels)
    write_net(folder / "net.onnx")
    document = {
        "task": "quarters",
        "data": {"training": "train.npz", "evaluation": "test.npz", "calibration": 40},
        "models": {"net": {"onnx": "net.onnx", "family": "made_up"}},
        "candidates": list(candidates),
        **more,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document))
    return folder / "recipe.yaml"


def boardfit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)


def test_a_recipe_becomes_a_signed_family_and_goes_on_where_it_was(tmp_path: Path) -> None:
    path = recipe(
        tmp_path / "job",
        {"of": "net"},
        {"of": "net", "chain": [{"magnitude_pruning": {"share": 0.5}}]},
        {"of": "net", "chain": [{"magnitude_pruning": {"share": 0.5}}, {"weight_clustering": {"clusters": 8}}]},
        licence="Apache-2.0",
    )
    registry = tmp_path / "models"
    done = boardfit("compress", "run", path, "--registry", registry, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    made = {one["name"]: one for one in document["candidates"]}
    assert document["published"] == list(made)
    assert len(made) == 3
    last = made["net-onnx-magnitude-pruning-0.5-weight-clustering-8"]
    assert [step["technique"] for step in last["chain"]] == ["magnitude_pruning", "weight_clustering"]
    assert last["chain"][0]["reached"]["sparsity"] == 0.5
    assert last["parent"] == "net-onnx-magnitude-pruning-0.5"
    for one in made.values():
        (judged,) = one["judged"]
        assert judged["engine"] == "onnxruntime"
        assert judged["accuracy"]["n"] == 80
        assert judged["accuracy"]["top1"]["low"] < judged["accuracy"]["top1"]["value"]
    checked = boardfit("registry", "check", registry, "--json")
    assert checked.returncode == 0, checked.stdout
    assert json.loads(checked.stdout)["candidates"] == 3
    work = path.with_suffix(".work")
    times = {file: file.stat().st_mtime_ns for file in work.glob("*/model.*")}
    again = boardfit("compress", "run", path, "--json")
    assert json.loads(again.stdout)["candidates"] == document["candidates"]
    assert {file: file.stat().st_mtime_ns for file in work.glob("*/model.*")} == times


def test_one_that_no_board_could_take_leaves_the_others(tmp_path: Path) -> None:
    path = recipe(tmp_path / "job", {"of": "net"}, {"of": "new"},
                  models={"net": {"onnx": "net.onnx"}, "new": {"onnx": "new.onnx"}})  # fmt: skip
    model = onnx.load(str(write_net(tmp_path / "job" / "new.onnx")))
    model.opset_import[0].version = 21
    onnx.save(model, str(tmp_path / "job" / "new.onnx"))
    done = boardfit("compress", "run", path, "--registry", tmp_path / "models", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["published"] == ["net-onnx-f32"]
    (refused,) = [one["reason"] for one in document["candidates"] if one["name"] == "new-onnx-f32"]
    assert refused.startswith("not published: the model uses opset 21")


def test_a_packed_candidate_is_judged_unpacked_and_published_packed(tmp_path: Path) -> None:
    pruned = [{"magnitude_pruning": {"share": 0.5}}]
    clustered = [*pruned, {"weight_clustering": {"clusters": 4}}]
    path = recipe(
        tmp_path / "job", {"of": "net"}, {"of": "net", "chain": clustered, "pack": True},
        limits={"size": "1000 B"}, keep="not_dominated",
    )  # fmt: skip
    registry = tmp_path / "models"
    done = boardfit("compress", "run", path, "--registry", registry, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    plain, small = document["candidates"]
    assert plain["packed_bytes"] is None
    assert plain["reason"] == f"{plain['size_bytes']} bytes are over the recipe's limit of 1000"
    assert small["size_bytes"] > 1000 > small["packed_bytes"]  # the limit is on what is transferred
    assert document["published"] == [small["name"]]
    (file,) = (registry / "targets" / "quarters" / small["name"]).glob("*.onnx.xz")
    assert file.stat().st_size == small["packed_bytes"]
    assert lzma.decompress(file.read_bytes()) == Path(small["path"]).read_bytes()
    shown = boardfit("compress", "run", path)
    assert "unpacked" in shown.stdout
    page = boardfit("compress", "report", path)
    assert page.returncode == 0, page.stderr
    assert "unpacked" in path.with_suffix(".html").read_text()


def test_a_kill_in_the_middle_loses_only_the_step_at_hand(tmp_path: Path) -> None:
    chains = [[{"magnitude_pruning": {"share": share}}] for share in (0.2, 0.4, 0.6)]
    path = recipe(tmp_path / "job", *({"of": "net", "chain": chain} for chain in chains))
    work = path.with_suffix(".work")
    command = [sys.executable, "-m", "agent", "compress", "run", str(path), "--jobs", "1"]
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert child.stderr is not None
    for line in child.stderr:
        if "magnitude_pruning" in line and len(list(work.glob("*/record.json"))) >= 2:
            break
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    child.stderr.close()
    finished = {file.parent.name for file in work.glob("*/record.json") if not file.parent.name.startswith(".")}
    assert finished
    before = {key: (work / key / "record.json").stat().st_mtime_ns for key in finished}
    done = boardfit("compress", "run", path, "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["candidates"]) == 3
    assert {key: (work / key / "record.json").stat().st_mtime_ns for key in finished} == before
    assert not list(work.glob(".making-*"))


def test_one_failing_chain_leaves_the_others(tmp_path: Path) -> None:
    path = recipe(
        tmp_path / "job",
        {"of": "net"},
        {"of": "broken"},
        models={"net": {"onnx": "net.onnx"}, "broken": {"onnx": "broken.onnx"}},
    )
    (tmp_path / "job" / "broken.onnx").write_bytes(b"no model")
    done = boardfit("compress", "run", path, "--json")
    assert done.returncode == 0, done.stderr
    made = {one["name"]: one for one in json.loads(done.stdout)["candidates"]}
    assert made["net-onnx-f32"]["reason"] is None
    assert "broken.onnx is not a valid ONNX model" in made["broken-onnx-f32"]["reason"]
    assert "Traceback" not in done.stderr


def test_what_cannot_be_compressed_is_one_sentence(tmp_path: Path) -> None:
    from agent.compress.taking import first_model

    def taken(path: Path) -> str:
        with pytest.raises(BoardfitError) as caught:
            first_model(
                "take",
                {"onnx": path.name},
                path.parent,
                tmp_path / "out.onnx",
                samples=Samples(path),
                seed=0,
                threads=1,
            )
        return str(caught.value)

    assert "input image has a dynamic shape" in taken(write_net(tmp_path / "dynamic.onnx", shape=["n", 1, 8, 8]))
    model = onnx.load(str(write_net(tmp_path / "custom.onnx")))
    model.graph.node[1].domain = "my.company"
    model.opset_import.append(helper.make_opsetid("my.company", 1))
    onnx.save(model, str(tmp_path / "custom.onnx"))
    assert "uses operators of my.company" in taken(tmp_path / "custom.onnx")
    model = onnx.load(str(write_net(tmp_path / "outside.onnx")))
    onnx.save(
        model, str(tmp_path / "outside.onnx"), save_as_external_data=True, location="outside.bin", size_threshold=0
    )
    assert "keeps weights in another file" in taken(tmp_path / "outside.onnx")
    assert "there is no file" in taken(tmp_path / "absent.onnx")


def test_packs_that_are_none_are_one_sentence(tmp_path: Path) -> None:
    path = recipe(tmp_path / "job", {"of": "net"})
    np.savez(path.parent / "test.npz", inputs=quarters(5, 3)[0])
    done = boardfit("compress", "run", path)
    assert done.returncode == 2
    assert "test.npz is not a pack of samples" in done.stderr
    with np.load(path.parent / "train.npz") as arrays:
        np.savez(path.parent / "test.npz", inputs=arrays["inputs"][:4], labels=arrays["labels"][:4])
    done = boardfit("compress", "run", path)
    assert "4 of 4 evaluation samples are training samples too" in done.stderr
    with pytest.raises(ConfigError, match="one whole number for each"):
        np.savez(path.parent / "test.npz", inputs=np.zeros((3, 2)), labels=np.zeros((3, 2)))
        read_pack(path.parent / "test.npz")


def test_one_technique_alone_from_the_command_line(tmp_path: Path, samples: Samples) -> None:
    source = write_net(tmp_path / "net.onnx")
    target = tmp_path / "pruned.onnx"
    done = boardfit(
        "compress",
        "apply",
        "magnitude_pruning",
        source,
        target,
        "--set",
        "share=0.25",
        "--set",
        "scope=layer",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reached"]["sparsity"] == 0.25
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "pruned.onnx", "train.npz"}
    bad = boardfit("compress", "apply", "magnitude_pruning", source, target, "--set", "share=7")
    assert bad.returncode == 2
    assert "Expected `float` < 1.0" in bad.stderr
    listed = json.loads(boardfit("compress", "techniques", "--json").stdout)
    assert {"static_int8", "low_rank", "distillation"} <= {one["name"] for one in listed["techniques"]}


def test_a_stop_ends_the_step_at_hand(tmp_path: Path) -> None:
    path = recipe(tmp_path / "job", {"of": "net"})
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib, signal, sys\n"
        f"began = pathlib.Path({str(tmp_path / 'began')!r})\n"
        "'agent.compress.step' in sys.orig_argv and (began.touch(), signal.pause())\n"
    )
    command = [sys.executable, "-m", "agent", "compress", "run", str(path), "--jobs", "1"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    assert child.stderr is not None
    for _ in child.stderr:  # a line of progress each second
        if (tmp_path / "began").exists():
            break
    child.send_signal(signal.SIGTERM)
    said = child.stderr.read()
    child.stderr.close()
    assert child.wait(60) == 1
    assert "stopped on request" in said.lower()
    done = boardfit("compress", "run", path, "--json")
    assert done.returncode == 0, done.stderr
