"""What is recorded: the bundled candidates, large models made here, and some that give no figure. Runs nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agent.core.manifest import Candidate, Manifest, TargetRef, parse_manifest
from benchmarks.replay import large
from benchmarks.zoo.files import bundled


class Files(NamedTuple):
    """A candidate and its files on this machine."""

    candidate: Candidate
    model: Path
    golden: Path | None = None
    evaluation: Path | None = None
    note: str | None = None
    memory_growth_bytes: int | None = None


def from_registry() -> list[Files]:
    """Return the bundled candidates that are not packed, from the registry's own list."""
    found = []
    for one in bundled().values():
        if one.model.suffix != ".xz":  # packed: once unpacked, runs like the parent it was pruned from
            candidate = Candidate(manifest=parse_manifest(one.manifest), target=TargetRef(**one.target))
            found.append(Files(candidate, one.model, one.golden, one.evaluation))
    return found


def around(path: Path, **more: Any) -> Files:
    """Return a candidate around a model file that no registry lists."""
    data = path.read_bytes()
    manifest = Manifest(
        task="digits", name=path.stem, format="onnx" if path.suffix == ".onnx" else "tflite", inputs=(), outputs=()
    )
    target = TargetRef(path=path.name, sha256=hashlib.sha256(data).hexdigest(), length=len(data))
    return Files(Candidate(manifest=manifest, target=target), path, **more)


def made_large(folder: Path) -> list[Files]:
    found = []
    for name, (width, side) in large.SHAPES.items():
        path = folder / f"{name}.onnx"
        large.build(path, width, side)
        found.append(around(path))
    return found


def faulty(folder: Path, good: Sequence[Files]) -> list[Files]:
    """Return candidates that give no figure: each has its note."""
    from tests.measure import models  # the test suite's hostile ones

    by_name = {files.candidate.name: files for files in good}
    onnx, lite = by_name["mobilenet_v2-w025-onnx-f32"], by_name["mobilenet_v1-w025-tflite-float16"]
    found = []
    for files in (onnx, lite):
        data = files.model.read_bytes()
        path = folder / f"cut_off-{files.model.suffix[1:]}{files.model.suffix}"
        path.write_bytes(data[: len(data) // 2])
        found.append(around(path, note=f"the first half of {files.candidate.name}"))
    crash = models.function_chain(folder / "kills_the_engine.onnx")
    found.append(around(crash, note="functions nested so deep that the engine's stack ends"))
    bomb = around(models.memory_bomb(folder / "memory_bomb.onnx"), note="asks for 16 GiB at its first run")
    found.append(bomb._replace(memory_growth_bytes=1 << 30))
    fat = around(onnx.model, note="8 MiB of address space allowed", memory_growth_bytes=8 << 20)
    found.append(fat._replace(candidate=_renamed(fat.candidate, "over_its_memory")))
    for files, other in ((onnx, "mobilenet_v1-w025-onnx-f32"), (lite, "mobilenet_v1-w025-tflite-f32")):
        name = f"wrong_output-{files.candidate.manifest.format}"
        note = f"{files.candidate.name} held against the golden outputs of {other}"
        found.append(files._replace(
            candidate=_renamed(files.candidate, name), golden=by_name[other].golden, note=note,
        ))  # fmt: skip
    return found


def _renamed(candidate: Candidate, name: str) -> Candidate:
    """Return the candidate under a name, and a digest, of its own."""
    manifest = msgspec.structs.replace(candidate.manifest, name=name)
    digest = hashlib.sha256(name.encode()).hexdigest()
    return Candidate(manifest=manifest, target=msgspec.structs.replace(candidate.target, sha256=digest))
