"""What each technique costs and gains: every candidate of a recipe's last run beside the float model it was made from.

    python benchmarks/compression.py [--recipe FILE] [--rounds 5] [--seeds 5] [--markdown]

The candidates are the bundled ones, as `make zoo` made and judged them; another recipe's are those of its last run.
Size is what a board transfers: of a packed candidate the packed file. The drop is that of the same samples, with the
interval of paired proportions (Bonett & Price 2012). Latency is measured here, on each engine that runs both: parent
and child in turn, in an order drawn anew in each round, in fresh processes; the figure is the median of the rounds'
ratios, and the parent over itself the noise.

With ``--seeds`` a student is trained that often alone and by its teacher, in pairs of one seed; the figure is the mean
gain with Student's interval.
"""

from __future__ import annotations

import argparse
import lzma
import os
import platform
import random
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402

from agent.compress.made import Made  # noqa: E402
from agent.compress.recipe import Recipe, load_recipe  # noqa: E402
from agent.compress.techniques import technique  # noqa: E402
from agent.core.measurement import OperatingPoint  # noqa: E402
from agent.core.statistics import mean_interval, paired_difference_interval  # noqa: E402
from agent.measure.settings import MeasureSettings  # noqa: E402
from agent.runtimes.prove import prove_engines  # noqa: E402
from benchmarks.notices import Product  # noqa: E402
from benchmarks.table import render  # noqa: E402
from benchmarks.zoo.files import artifact  # noqa: E402

RECIPE = ROOT / "benchmarks" / "zoo" / "recipe.yaml"
SETTINGS = MeasureSettings(min_runs=30, min_time_s=0.1, max_time_s=2.0, contended="flag")


class Row(NamedTuple):
    """One candidate beside the float model of its own network and format."""

    made: Made
    base: Made
    size_ratio: float
    drop: float
    low: float | None
    high: float | None
    latency: dict[str, tuple[float, float]]  # by engine: the ratio, and the parent over itself


class Target(NamedTuple):
    """A figure to reach by the rows a technique made."""

    name: str
    technique: tuple[str, ...]
    size_ratio: float | None
    drop: float


TARGETS = (
    Target("static int8 of a weights-dominated model", ("static_int8",), 0.28, 0.005),
    Target("half of the multiply-accumulates", ("channel_pruning",), None, 0.01),
    Target("low rank, 0.6 of the parameters", ("low_rank",), None, 0.01),
    Target("prune, distil, int8", ("channel_pruning", "distillation", "static_int8"), 0.1, 0.015),
)


def results(recipe: Path, folder: Path) -> list[Made]:
    """Return what the last run made and kept; of the bundled candidates, with their files unpacked below ``folder``.

    Raises: SystemExit: there was none.
    """
    own = recipe == RECIPE
    path = recipe.with_name("results.json") if own else recipe.with_suffix(".work") / "results.json"
    if not path.is_file():
        raise SystemExit(f"{path} is not there: run `boardfit compress run {recipe}` first")
    made = msgspec.convert(msgspec.json.decode(path.read_bytes())["candidates"], list[Made])
    if own:
        made = [msgspec.structs.replace(one, path=str(unpacked(one.name, folder))) for one in made]
    return [one for one in made if one.accuracy is not None and one.path is not None]


def unpacked(name: str, folder: Path) -> Path:
    """Return a bundled candidate's model file, unpacked where it is published packed."""
    path = artifact(name)
    if path.suffix != ".xz":
        return path
    target = folder / path.stem
    target.write_bytes(lzma.decompress(path.read_bytes()))
    return target


def pairs(made: Sequence[Made]) -> list[tuple[Made, Made]]:
    """Return each compressed candidate with the float one of its network and format, or of the other format."""
    floats = {(one.model, one.format): one for one in made if not one.chain}
    found = []
    for one in made:
        base = floats.get((one.model, one.format)) or floats.get((one.model, "onnx"))
        if one.chain and base is not None:
            found.append((one, base))
    return found


def latencies(found: Sequence[tuple[Made, Made]], rounds: int) -> dict[str, dict[str, tuple[float, float]]]:
    """Return ratio and noise of each candidate, by engine."""
    engines = [engine for engine in prove_engines() if engine.proven]
    seen: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for number in range(rounds):
        order = [(one, base) for one, base in found if one.format == base.format]
        random.Random(number).shuffle(order)
        for place, (one, base) in enumerate(order):
            print(f"round {number + 1} of {rounds}, {place + 1} of {len(order)}", end="\r", file=sys.stderr, flush=True)
            for engine in engines:
                if one.format not in engine.formats:
                    continue
                point = OperatingPoint(
                    engine=engine.name, engine_version=engine.version or "", provider=engine.providers[0], threads=1
                )
                times = [p50(Path(str(path)), point) for path in (base.path, one.path, base.path)]
                first, own, second = times
                if first and own and second:
                    seen.setdefault((one.name, engine.name), []).append((2 * own / (first + second), first / second))
    print(file=sys.stderr)
    by_name: dict[str, dict[str, tuple[float, float]]] = {}
    for (name, engine_name), values in seen.items():
        ratio, noise = (median(value[place] for value in values) for place in (0, 1))
        by_name.setdefault(name, {})[engine_name] = ratio, noise
    return by_name


@cache
def product(model: Path, point: OperatingPoint) -> Product:
    """Return boardfit's path for a model, once: proving the engines takes longer than a measurement."""
    return Product(model, point)


def p50(model: Path, point: OperatingPoint) -> float | None:
    """Return the median latency, None where the engine does not run it."""
    found = product(model, point).measure(SETTINGS).latency
    return None if found is None else found.p50_s.value


def row(one: Made, base: Made, latency: dict[str, tuple[float, float]]) -> Row:
    own, theirs = one.accuracy, base.accuracy
    assert own is not None
    assert theirs is not None
    first, second = theirs.hits(), own.hits()
    if first is None or second is None or own.n != theirs.n:
        drop, low, high = theirs.top1.value - own.top1.value, None, None
    else:
        drop, (low, high) = paired_difference_interval(
            (first & ~second).bit_count(), (second & ~first).bit_count(), own.n
        )  # fmt: skip
    return Row(one, base, (one.transfer_bytes or 0) / (base.size_bytes or 1), drop, low, high, latency)


def verdicts(rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """Return for each target: its name, the row nearest to it, what that reached, and the verdict."""
    found = []
    for target in TARGETS:
        own = [one for one in rows if tuple(step["technique"] for step in one.made.chain) == target.technique]
        if not own:
            found.append((target.name, "–", "not made", "missed"))
            continue

        def over(one: Row, target: Target = target) -> float:
            size = 0.0 if target.size_ratio is None else max(0.0, one.size_ratio - target.size_ratio)
            return size + max(0.0, one.drop - target.drop)

        best = min(own, key=over)
        wanted = f"{target.drop:.1%}" + (f" at {target.size_ratio:g}" if target.size_ratio else "")
        reached = f"{best.drop:+.1%} at {best.size_ratio:.3f} (wanted {wanted})"
        found.append((target.name, best.made.name, reached, "met" if over(best) == 0.0 else "missed"))
    return found


def table(rows: Sequence[Row], *, markdown: bool) -> str:
    engines = sorted({engine for one in rows for engine in one.latency})
    heads = ("candidate", "parameters", "size", "of its float", "top-1 lost (95 %)", *(f"p50 on {e}" for e in engines))
    body = []
    for one in sorted(rows, key=lambda one: (one.base.name, one.size_ratio)):
        interval = "" if one.low is None or one.high is None else f" ({one.low:+.1%} to {one.high:+.1%})"
        given = "; ".join(
            f"{key} {value}" for step in one.made.chain for key, value in step["parameters"].items()
            if isinstance(value, str | int | float) and not isinstance(value, bool)
        )  # fmt: skip
        figures = [
            f"{one.latency[e][0]:.2f} (noise {one.latency[e][1]:.2f})" if e in one.latency else "–" for e in engines
        ]
        body.append(
            [
                one.made.name,
                given or "–",
                str(one.made.size_bytes) if one.made.packed_bytes is None else f"{one.made.packed_bytes} packed",
                f"{one.size_ratio:.3f}",
                f"{one.drop:+.1%}{interval}",
                *figures,
            ]
        )
    return render(heads, body, markdown=markdown, left=2)


def lesson(recipe: Recipe, student: str) -> tuple[str, Any]:
    """Return a student's teacher, and the parameters of the recipe's first candidate that it alone is taught for.

    Raises: SystemExit: there is none.
    """
    for wish in recipe.candidates:
        if student in wish.of and [list(step) for step in wish.chain] == [["distillation"]]:
            parameters = technique("distillation", "recipe").read(wish.chain[0]["distillation"], "recipe")
            return wish.chain[0]["distillation"]["teacher"], parameters
    raise SystemExit(f"the recipe teaches {student} nothing: name another with --student")


def taught(recipe: Recipe, folder: Path, seeds: int, student: str) -> dict[str, Any]:
    """Return the accuracies of a student alone and taught, pairs of one seed, and the mean gain with its interval."""
    import torch

    from agent.compress.nets.distil import distil
    from agent.compress.nets.files import load, settle
    from agent.compress.nets.train import train
    from agent.compress.samples import Samples, read_pack
    from agent.compress.taking import _built
    from agent.compress.training import Training

    samples = Samples(recipe.training, recipe.preprocessing, recipe.calibration)
    pack = read_pack(recipe.evaluation)
    inputs, labels = torch.from_numpy(samples.inputs(pack, "torch")), torch.from_numpy(pack.labels)
    teacher, asked = lesson(recipe, student)
    settle(recipe.seed, 1)
    made = _built(recipe.models[teacher])
    train(made, samples, recipe.models[teacher].train or Training(), recipe.seed)
    torch.save(made, folder / "teacher.pt")
    alone, by_teacher = [], []
    for seed in range(seeds):
        for kept, is_taught in ((alone, False), (by_teacher, True)):
            settle(1000 + seed, 1)
            network = _built(recipe.models[student])
            if is_taught:
                distil(
                    network, load(folder / "teacher.pt"), samples, asked.training, seed,
                    temperature=asked.temperature, logits=asked.logits, features=asked.features,
                )  # fmt: skip
            else:
                train(network, samples, recipe.models[student].train or Training(), seed)
            with torch.no_grad():
                kept.append(float((network(inputs).argmax(dim=1) == labels).double().mean()))
        print(f"seed {seed}: alone {alone[-1]:.4f}, taught {by_teacher[-1]:.4f}", file=sys.stderr, flush=True)
    gains = [b - a for a, b in zip(alone, by_teacher, strict=True)]
    interval = mean_interval(gains)
    return {
        "alone": alone,
        "taught": by_teacher,
        "gain": sum(gains) / len(gains),
        "low": interval.low,
        "high": interval.high,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--rounds", type=int, default=5, help="of latency; 0 leaves it out")
    parser.add_argument("--seeds", type=int, default=0, help="train a student so often, alone and taught")
    parser.add_argument("--student", default="mobilenet_v1-w012", help="of the recipe's models")
    parser.add_argument("--markdown", action="store_true", help="the table for the README")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe)
    with tempfile.TemporaryDirectory() as folder:
        found = pairs(results(options.recipe.resolve(), Path(folder)))
        seen = latencies(found, options.rounds) if options.rounds else {}
    rows = [row(one, base, seen.get(one.name, {})) for one, base in found]
    print(table(rows, markdown=options.markdown))
    said = [list(one) for one in verdicts(rows)]
    if options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            gain = taught(recipe, Path(folder), options.seeds, options.student)
        reached = (
            f"{gain['gain']:+.2%} ({gain['low']:+.2%} to {gain['high']:+.2%}) over {options.seeds} seeds (wanted +1.0%)"
        )
        said.append(
            ["a student taught, over alone", options.student, reached, "met" if gain["gain"] >= 0.01 else "missed"]
        )
    print("\n" + render(("target", "candidate", "reached", "verdict"), said, markdown=options.markdown, left=3))
    judged = rows[0].made.accuracy if rows else None
    print(
        f"\nTop-1 on {judged.n if judged else 0} samples; latency ratios over the float model, medians of "
        f"{options.rounds} interleaved rounds, one thread. {platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}."
    )
    return int(any(one[3] != "met" for one in said))


if __name__ == "__main__":
    raise SystemExit(main())
