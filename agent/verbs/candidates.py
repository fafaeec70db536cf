"""What ``compress`` leaves to the stages: measuring a candidate's file as a board does, and publishing it signed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from agent.clock import SystemClock
from agent.compress.made import Judged, Made
from agent.compress.plan import Wanted
from agent.compress.recipe import Recipe
from agent.compress.run import Judge
from agent.compress.samples import Samples
from agent.compress.search import plain, with_values
from agent.core.manifest import Candidate, Manifest, TargetRef
from agent.errors import ModelError


def judge_here(recipe: Recipe) -> Judge:
    """Return what measures a candidate's file on every engine of this machine, in the board's own confined worker."""
    from agent.device.board import this_board
    from agent.measure.bench import measure_one
    from agent.measure.plan import operating_points
    from agent.measure.settings import MeasureSettings
    from agent.runtimes.prove import prove_engines

    board, clock = this_board(), SystemClock()
    facts = board.facts(prove_engines())
    settings = MeasureSettings(min_runs=30, contended="flag", accuracy_time_s=600.0, deadline_s=900.0)
    samples = Samples(recipe.training, recipe.preprocessing)

    def judge(one: Wanted, path: Path) -> tuple[Judged, ...]:
        manifest = Manifest(
            task=recipe.task, name=one.name, format="onnx" if one.format == "onnx" else "tflite", inputs=(), outputs=(),
            preprocessing=tuple(samples.steps(one.format)),
        )  # fmt: skip
        candidate = Candidate(
            manifest=manifest, target=TargetRef(path=one.name, sha256="0" * 64, length=path.stat().st_size)
        )
        found = []
        for point in operating_points(candidate, facts, (1,)):
            got = measure_one(
                candidate,
                point,
                path,
                None,
                recipe.evaluation,
                facts=facts,
                board=board,
                clock=clock,
                settings=settings,
            )
            accuracy = got.accuracy if got.verdict == "ok" else None
            reason = None if accuracy is not None else got.reason or got.accuracy_reason or got.verdict
            latency = None if got.latency is None else got.latency.p50_s.value
            found.append(Judged(engine=point.engine, accuracy=accuracy, latency_p50_s=latency, reason=reason))
        return tuple(found)

    return judge


def publish(recipe: Recipe, made: tuple[Made, ...], registry: Path, keys: Path) -> tuple[Made, ...]:
    """Publish what was made; a registry that is not there is made. Candidates of the same name are replaced.

    Returns: all of them; one that no board could take says why.
    """
    from agent.registry import author

    now = SystemClock().utc()
    if not registry.exists():
        author.init(registry, keys, now=now, validity={"timestamp": timedelta(days=30), "snapshot": timedelta(days=90)})
    told = []
    for one in made:
        reason = one.reason
        if reason is None and one.path is not None:
            try:
                author.add(
                    registry, Path(one.path), task=recipe.task, name=one.name, keys_dir=keys, now=now,
                    evaluation=recipe.evaluation, extra=manifest_of(recipe, one), pack=one.packed_bytes is not None,
                    replace=True,
                )  # fmt: skip
            except ModelError as error:
                reason = f"not published: {error}"
        told.append(msgspec.structs.replace(one, reason=reason))
    return tuple(told)


def manifest_of(recipe: Recipe, one: Made) -> dict[str, Any]:
    """Return what a candidate's manifest says beyond its file. ``training`` is of the model its chain begins with:
    every lever, with what a search found in its place, and the search; None where the model came trained."""
    accuracy = one.accuracy
    assert accuracy is not None
    reference = {"value": accuracy.top1.value, "n": accuracy.n, "data": recipe.source or recipe.evaluation.name}
    given = {
        "family": recipe.models[one.model].family,
        "parent": one.parent,
        "licence": recipe.licence,
        "training": _training(recipe, one),
    }
    return {
        "compression": [
            {"technique": step["technique"], "parameters": {**step["parameters"], "seed": recipe.seed}}
            for step in one.chain
        ],
        "reached": [step["reached"] for step in one.chain],
        "preprocessing": Samples(recipe.training, recipe.preprocessing).steps(one.format),
        "labels": list(recipe.labels),
        "reference": reference,
        **{key: value for key, value in given.items() if value is not None},
    }


def _training(recipe: Recipe, one: Made) -> dict[str, Any] | None:
    train = recipe.models[one.model].train
    if train is None:
        return None
    found = one.search or {}
    levers = with_values(plain(train), found.get("values", {}))
    return {"parameters": {**levers, "seed": recipe.seed}, **({"search": found} if found else {})}
