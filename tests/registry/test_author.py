"""Authoring: init, add, remove, check, refresh."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from agent.core import golden
from agent.errors import BusyError, ConfigError, ModelError, TrustError
from agent.registry import author as authoring
from agent.registry.checking import check
from agent.registry.signing import load_state
from tests.registry.samples import evaluation_pack, onnx_model


def _problems(author) -> list[tuple[str, str]]:
    return [(finding.level, finding.where) for finding in check(author.directory, now=author.now).findings]


def test_init_makes_keys_that_only_their_owner_reads(template):
    names = sorted(path.name for path in template.keys.iterdir())
    assert names == ["README", "root.pem", "snapshot.pem", "targets.pem", "timestamp.pem"]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in template.keys.glob("*.pem")}
    assert modes == {0o600}


def test_init_refuses_keys_inside_the_published_folder(tmp_path, template):
    with pytest.raises(ConfigError, match="published"):
        authoring.init(tmp_path / "r", tmp_path / "r" / "keys", now=template.now)


def test_init_refuses_a_registry_that_is_there_and_keys_that_are_there(author, tmp_path):
    with pytest.raises(ConfigError, match="registry already"):
        authoring.init(author.directory, tmp_path / "new-keys", now=author.now)
    with pytest.raises(ConfigError, match="keys already"):
        authoring.init(tmp_path / "other", author.keys, now=author.now)


def test_init_gives_the_root_to_install(tmp_path, template):
    result = authoring.init(tmp_path / "r", tmp_path / "k", now=template.now, validity={"timestamp": timedelta(days=2)})
    assert Path(result.root).read_bytes() == (tmp_path / "r" / "metadata" / "1.root.json").read_bytes()
    assert result.expires["timestamp"] == (template.now + timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_fresh_registry_is_sound(author):
    report = check(author.directory, now=author.now)
    assert (report.sound, report.findings, report.candidates) == (True, (), 2)


def test_files_are_named_by_content_and_shared_data_lies_there_once(author):
    files = sorted(str(path.relative_to(author.directory)) for path in (author.directory / "targets").rglob("*.*"))
    assert len([name for name in files if "evaluation-" in name]) == 1
    for name in files:
        data = (author.directory / name).read_bytes()
        import hashlib

        assert Path(name).name.split(".")[0] == hashlib.sha256(data).hexdigest()


def test_every_role_carries_its_time_of_issue(author):
    state = load_state(author.directory)
    for role in ("root", "targets", "snapshot", "timestamp"):
        assert isinstance(state.signed(role).unrecognized_fields["issued"], str)


def test_a_name_is_unique_within_its_task(author, tmp_path):
    model = onnx_model(tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="already"):
        authoring.add(author.directory, model, task="digits", name="float", keys_dir=author.keys, now=author.tick())
    result = authoring.add(
        author.directory, model, task="digits", name="float", keys_dir=author.keys, now=author.tick(), replace=True
    )
    assert result.target.path == "digits/float/m.onnx"
    names = [c for c in load_state(author.directory).targets.signed.targets if c.startswith("digits/float/")]
    assert names == ["digits/float/m.onnx"]


@pytest.mark.parametrize("name", ["", "UP", "a/b", "..", ".hidden", "_data", "a b", "x" * 65, "ä"])
def test_names_that_could_leave_their_folder_are_refused(author, tmp_path, name):
    with pytest.raises(ConfigError, match="cannot name"):
        authoring.add(
            author.directory, tmp_path / "m", task="digits", name=name, keys_dir=author.keys, now=author.tick()
        )


def test_a_file_that_fails_leaves_the_registry_as_it_was(author, tmp_path):
    before = {path: path.read_bytes() for path in author.directory.rglob("*") if path.is_file()}
    garbage = tmp_path / "m.onnx"
    garbage.write_bytes(b"\x08garbage that is no model at all")
    with pytest.raises(ModelError):
        authoring.add(author.directory, garbage, task="digits", name="bad", keys_dir=author.keys, now=author.tick())
    assert {path: path.read_bytes() for path in author.directory.rglob("*") if path.is_file()} == before


def test_what_the_file_says_cannot_be_contradicted(author, tmp_path):
    model = onnx_model(tmp_path / "m.onnx")
    for extra in ({"format": "tflite"}, {"inputs": [{"name": "x", "dtype": "int8"}]}, {"task": "other"}):
        with pytest.raises(ModelError):
            authoring.add(
                author.directory, model, task="digits", name="new", keys_dir=author.keys, now=author.tick(), extra=extra
            )


def test_layout_and_needs_are_taken_from_the_publisher(author, tmp_path):
    model = onnx_model(tmp_path / "m.onnx")
    extra = {"inputs": [{"name": "x", "layout": "NC"}], "needs": {"isa": ["asimd"], "opset": 3}, "licence": "MIT"}
    manifest = authoring.add(
        author.directory, model, task="digits", name="new", keys_dir=author.keys, now=author.tick(), extra=extra
    ).manifest
    assert manifest["inputs"][0]["layout"] == "NC"
    assert (manifest["needs"]["isa"], manifest["needs"]["opset"]) == (("asimd",), 17)


def test_an_evaluation_pack_that_does_not_fit_is_refused(author, tmp_path):
    model = onnx_model(tmp_path / "m.onnx")
    pack = evaluation_pack(tmp_path / "pack.npz", classes=5)
    with pytest.raises(ModelError, match="the model has 3 classes"):
        authoring.add(
            author.directory,
            model,
            task="digits",
            name="new",
            keys_dir=author.keys,
            now=author.tick(),
            evaluation=pack,
        )
    assert check(author.directory, now=author.now).findings == ()


def test_label_offset_moves_the_range(author, tmp_path):
    model = onnx_model(tmp_path / "m.onnx")
    pack = evaluation_pack(tmp_path / "pack.npz", classes=2)
    result = authoring.add(
        author.directory,
        model,
        task="digits",
        name="new",
        keys_dir=author.keys,
        now=author.tick(),
        evaluation=pack,
        extra={"label_offset": 1},
    )
    assert result.evaluation_samples == 16


def test_golden_data_is_made_from_the_evaluation_pack(author):
    path = next((author.directory / "targets" / "digits" / "_data").glob("*.golden-*.npz"))
    with np.load(path, allow_pickle=False) as arrays, np.load(author.folder / "eval.npz") as pack:
        assert str(arrays[golden.SCHEMA_ARRAY]) == golden.SCHEMA
        assert str(arrays[golden.ENGINE_ARRAY]).startswith("onnxruntime ")
        assert arrays[golden.input_array(0)].shape == (golden.DEFAULT_SAMPLES, 1, 4)
        assert arrays[golden.output_array(0)].shape == (golden.DEFAULT_SAMPLES, 1, 3)
        assert np.array_equal(arrays[golden.input_array(0)][:, 0], pack["inputs"][:4])
        assert 0 < arrays[golden.TOLERANCE_ARRAY][0] < 1e-2


def test_golden_data_of_another_model_is_refused(author, tmp_path):
    path = next((author.directory / "targets" / "digits" / "_data").glob("*.golden-*.npz"))
    with np.load(path) as arrays:
        own = dict(arrays)
    own[golden.output_array(0)] = own[golden.output_array(0)] + np.float32(0.5)
    np.savez(tmp_path / "golden.npz", **own)
    with pytest.raises(ModelError, match="differs"):
        authoring.add(
            author.directory,
            author.folder / "float.onnx",
            task="digits",
            name="new",
            keys_dir=author.keys,
            now=author.tick(),
            golden=tmp_path / "golden.npz",
        )


def test_remove_takes_its_data_along_but_not_what_others_use(author):
    result = authoring.remove(author.directory, task="digits", name="float", keys_dir=author.keys, now=author.tick())
    # Both models are the same linear classifier but for the IR version: golden data and evaluation pack are shared.
    assert result.removed == ("digits/float/float.onnx",)
    result = authoring.remove(author.directory, task="digits", name="wide", keys_dir=author.keys, now=author.tick())
    assert len(result.removed) == 3
    assert load_state(author.directory).targets.signed.targets == {}
    report = check(author.directory, now=author.now)
    assert report.sound
    assert {finding.level for finding in report.findings} == {"note"}
    with pytest.raises(ConfigError, match="no candidate"):
        authoring.remove(author.directory, task="digits", name="wide", keys_dir=author.keys, now=author.tick())


def test_refresh_needs_only_the_online_keys(author):
    for role in ("root", "targets"):
        (author.keys / f"{role}.pem").unlink()
    before = load_state(author.directory)
    now = author.now + timedelta(days=20)
    result = authoring.refresh(author.directory, keys_dir=author.keys, now=now)
    assert result.versions == {
        "root": 1,
        "targets": before.targets.signed.version,
        "snapshot": before.snapshot.signed.version + 1,
        "timestamp": before.timestamp.signed.version + 1,
    }
    assert result.expires["timestamp"] == (now + timedelta(days=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
    author.now = now
    with pytest.raises(ConfigError, match="no targets key"):
        author.add_blob("x", b"x")


def test_refresh_of_the_root_makes_a_new_version_and_copies_it(author):
    result = authoring.refresh(author.directory, keys_dir=author.keys, now=author.tick(), roles=("root",))
    assert result.versions["root"] == 2
    assert (author.directory / "root.json").read_bytes() == (author.directory / "metadata/2.root.json").read_bytes()
    assert check(author.directory, now=author.now).sound


def test_another_key_is_not_used(author, tmp_path):
    authoring.init(tmp_path / "other", tmp_path / "other-keys", now=author.now)
    with pytest.raises(ConfigError, match="not the snapshot key"):
        authoring.refresh(author.directory, keys_dir=tmp_path / "other-keys", now=author.tick())


def test_a_clock_that_went_back_signs_nothing(author):
    with pytest.raises(ConfigError, match="clock"):
        authoring.refresh(author.directory, keys_dir=author.keys, now=author.now - timedelta(days=1))


def test_tampered_metadata_is_not_signed_again(author):
    state = load_state(author.directory)
    path = author.directory / f"metadata/{state.targets.signed.version}.targets.json"
    document = json.loads(path.read_bytes())
    document["signed"]["targets"]["digits/float/float.onnx"]["hashes"]["sha256"] = "0" * 64
    path.write_text(json.dumps(document))
    with pytest.raises(TrustError):
        author.add_blob("x", b"x")
    assert _problems(author) == [("error", "metadata")]


def test_what_a_broken_off_publication_left_is_written_over(author):
    state = load_state(author.directory)
    version = state.targets.signed.version
    (author.directory / f"metadata/{version + 1}.targets.json").write_bytes(b"half")
    (author.directory / f"metadata/{state.snapshot.signed.version + 1}.snapshot.json").write_bytes(b"")
    author.add_blob("x", b"x")
    assert load_state(author.directory).targets.signed.version == version + 1
    assert check(author.directory, now=author.now).sound


def test_check_finds_each_kind_of_damage(author):
    targets = author.directory / "targets"
    model = next(targets.glob("digits/float/*.onnx"))
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    wide = next(targets.glob("digits/wide/*.onnx"))
    wide.write_bytes(wide.read_bytes()[:-1])
    next(targets.glob("digits/_data/*evaluation*")).unlink()
    (targets / "stray.bin").write_bytes(b"x")
    (author.directory / "root.json").write_bytes(b"{}")
    report = check(author.directory, now=author.now)
    assert not report.sound
    assert [(finding.level, finding.problem.split(" has ")[0]) for finding in report.findings] == [
        ("error", "its file is missing"),
        ("error", "its file is not the signed one"),
        ("error", "its file"),
        ("warning", "it is not the newest root, version 1"),
        ("note", "no signed target leads to this file"),
    ]


def test_check_warns_before_and_reports_after_the_end(author):
    soon = check(author.directory, now=author.now + timedelta(days=25))
    assert [(f.level, f.where) for f in soon.findings] == [("warning", "timestamp")]
    late = check(author.directory, now=author.now + timedelta(days=31))
    assert ("error", "timestamp") in [(f.level, f.where) for f in late.findings]
    assert not late.sound


def test_two_authors_at_once_are_refused(author):
    descriptor = os.open(author.directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(BusyError):
            author.add_blob("x", b"x")
    finally:
        os.close(descriptor)
    author.add_blob("x", b"x")


def test_no_registry_says_so(tmp_path, author):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ConfigError):
            authoring.refresh(path, keys_dir=author.keys, now=author.now)
    with pytest.raises(ConfigError, match="holds no registry"):
        check(tmp_path, now=author.now)


def test_a_hard_link_to_a_secret_is_copied_not_published_by_link(author, tmp_path):
    model = onnx_model(tmp_path / "m.onnx")
    os.link(model, tmp_path / "linked.onnx")
    result = authoring.add(
        author.directory, tmp_path / "linked.onnx", task="digits", name="new", keys_dir=author.keys, now=author.tick()
    )
    published = author.directory / "targets/digits/new" / f"{result.target.sha256}.linked.onnx"
    assert published.stat().st_nlink == 1


@pytest.mark.real
def test_real_keyword_models_are_published(real_models, author):
    kws = real_models / "kws"
    cases = (("kws_dscnn_int8.tflite", "eval_int8.npz"), ("kws_float.onnx", "eval_float32.npz"),
             ("kws_dscnn_int8.tflite", "eval_float32.npz"))  # fmt: skip
    for number, (model, pack) in enumerate(cases):
        result = authoring.add(
            author.directory,
            kws / model,
            task="kws",
            name=f"m{number}",
            keys_dir=author.keys,
            now=author.tick(),
            evaluation=kws / pack,
        )
        assert (result.evaluation_samples, result.golden_samples) == (1000, 4)
    assert check(author.directory, now=author.now).sound


@pytest.mark.real
def test_images_go_through_the_manifests_preprocessing(real_models, author, tmp_path):
    pytest.importorskip("agent.runtimes.preprocess", reason="the preprocessing module is not in this tree")
    with np.load(real_models / "mnist" / "eval_uint8.npz") as pack:
        np.savez(tmp_path / "pack.npz", inputs=pack["inputs"][:50, :, :, None], labels=pack["labels"][:50])
    for name in ("tflm_lstm_float", "tflm_lstm_int8", "coral_lstm_uint8"):
        result = authoring.add(
            author.directory,
            real_models / "mnist" / f"{name}.tflite",
            task="mnist",
            name=name,
            keys_dir=author.keys,
            now=author.tick(),
            evaluation=tmp_path / "pack.npz",
            extra={
                "preprocessing": [
                    {"op": "scale", "factor": 1 / 255, "offset": 0.0},
                    {"op": "layout", "to": "nhw"},
                ]
            },
        )
        assert result.evaluation_samples == 50
