"""``compress init | run | report | toward | apply | techniques``: one model in, a signed family of candidates out."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from agent.core.units import format_quantity
from agent.documents import YamlProblemError, parse_yaml
from agent.errors import BoardfitError, ConfigError, ModelError
from agent.registry.layout import keys_beside
from agent.verbs import toward
from agent.verbs.invocation import Invocation, Verbs

if TYPE_CHECKING:
    from agent.compress.made import Made

_EXAMPLE = """example:
  boardfit compress init net.onnx --training train.npz --eval test.npz > recipe.yaml
  boardfit compress run recipe.yaml --registry models
  boardfit compress apply static_int8 net.onnx net-int8.onnx --training train.npz

A pack (.npz) holds inputs [N, ...] and labels [N]. Techniques on files need the extra boardfit[compress-onnx], those
on torch models and TFLite boardfit[compress]."""


def register(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    """Add the verbs of this module."""
    raw = argparse.RawDescriptionHelpFormatter
    text = "Make compressed candidates from a trained model, measure their accuracy, sign and publish them."
    top = verbs.add_parser("compress", help="make candidates", description=text, epilog=_EXAMPLE, formatter_class=raw)
    actions = top.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, summary: str, handler: object) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = actions.add_parser(
            name, parents=[common], help=summary, description=summary + "."
        )
        parser.set_defaults(handler=handler)
        return parser

    parser = action("init", "Print a commented recipe for a model", run_init)
    parser.add_argument("model", metavar="MODEL", help="an .onnx or .keras file, or a torch module:factory")
    parser.add_argument("--task", default="my-task", metavar="T")
    parser.add_argument(
        "--training", default="train.npz", metavar="PACK", help="labelled samples to train and calibrate"
    )
    parser.add_argument("--eval", default="test.npz", metavar="PACK", dest="evaluation", help="others, to judge by")
    parser = action("run", "Make, judge and publish what a recipe asks for; goes on where it was stopped", run_recipe)
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    _add_making(parser)
    parser = action("report", "Write what a recipe's last run made as one HTML page", run_report)
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    parser.add_argument("--work", type=Path, metavar="DIR", help="as given to run")
    parser.add_argument("--html", type=Path, metavar="FILE", help="where to (default: RECIPE.html)")
    parser = action("toward", "Propose, and make, variants that would close what boards missed", run_toward)
    parser.description, parser.epilog, parser.formatter_class = toward.DESCRIPTION, toward.EPILOG, raw
    parser.add_argument(
        "decisions", type=Path, nargs="+", metavar="DECISION.json",
        help="what `boardfit select --json` or `once --json` printed, or what boards published",
    )  # fmt: skip
    parser.add_argument("--recipe", type=Path, required=True, metavar="RECIPE.yaml", help="that made the candidates")
    parser.add_argument("--write", type=Path, metavar="NEXT.yaml", help="write a recipe with the best added, beside it")
    parser.add_argument(
        "--make", action="store_true", help="carry that recipe out as `run` does (default name: RECIPE-toward.yaml)"
    )
    parser.add_argument("--most", type=int, default=3, metavar="N", help="how many for each miss (default: 3)")
    _add_making(parser)
    parser = action("apply", "Apply one technique to one file", run_apply)
    parser.add_argument("technique", metavar="TECHNIQUE", help="see `boardfit compress techniques`")
    parser.add_argument("model", type=Path, metavar="MODEL", help=".onnx, .tflite or our own .pt")
    parser.add_argument("result", type=Path, metavar="RESULT")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter (repeatable)")
    parser.add_argument("--training", type=Path, metavar="PACK", help="for techniques that train or calibrate")
    parser.add_argument("--seed", type=int, default=0)
    action("techniques", "List techniques with their parameters", run_techniques)


def _add_making(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--registry", type=Path, metavar="DIR", help="publish there (default: publish nothing)")
    parser.add_argument("--keys", type=Path, metavar="KEYDIR", help="folder of private keys (default: DIR.keys)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="finished steps (default: RECIPE.work)")
    parser.add_argument("--jobs", type=int, metavar="N", help="steps at a time (default: by cores and memory)")
    parser.add_argument(
        "--dask", metavar="ADDRESS", help="run steps on this Dask cluster, which shares the work folder"
    )


def run_init(call: Invocation) -> int:
    """Print a recipe."""
    from agent.compress.starting import recipe_text

    arguments = call.arguments
    text = recipe_text(arguments.model, arguments.task, arguments.training, arguments.evaluation)
    if call.console.as_json:
        call.console.document({"schema": "boardfit.compress-init/1", "recipe": text})
    else:
        call.console.line(text.rstrip())
    return 0


def run_recipe(call: Invocation) -> int:
    """Make, judge, publish, print."""
    path: Path = call.arguments.recipe
    document, code = _carry_out(call, path, _work(call, path))
    if call.console.as_json:
        call.console.document(document)
    return code


def _carry_out(call: Invocation, path: Path, folder: Path) -> tuple[dict[str, Any], int]:
    """Make, judge and publish a recipe, and print it unless a document is wanted. Returns: document, exit code."""
    from agent.compress.recipe import load_recipe
    from agent.compress.run import Making, jobs_here, make, prepare
    from agent.compress.work import Work
    from agent.verbs.candidates import judge_here, publish

    arguments = call.arguments
    recipe = load_recipe(path)
    wanted = prepare(recipe)
    work = Work(folder)
    if arguments.jobs is not None and arguments.jobs < 1:
        raise ConfigError(f"--jobs is {arguments.jobs}", fix="give 1 or more")
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(call.console.progress())
        making = Making(arguments.jobs or jobs_here(), None, progress, call.stop)
        if arguments.dask:
            from agent.compress.cluster import open_cluster

            cluster = stack.enter_context(open_cluster(arguments.dask, work.folder))
            making = Making(arguments.jobs or cluster.width, cluster, progress, call.stop, cluster.end)
        judge = judge_here(recipe)
        made = make(recipe, wanted, work, judge, making)
        document = _kept(work.folder, made, ())
        if arguments.registry:
            made = publish(recipe, made, arguments.registry, _keys(call))
            document = _kept(work.folder, made, tuple(one.name for one in made if one.reason is None))
    if not call.console.as_json:
        _show(call, made)
        if arguments.registry:
            call.console.line(f"Published {len(document['published'])} candidates to {arguments.registry}.")
    return document, 0 if any(one.reason is None for one in made) else 1


def _work(call: Invocation, recipe: Path) -> Path:
    chosen: Path | None = call.arguments.work
    return chosen or recipe.with_suffix(".work")


def _kept(folder: Path, made: tuple[Made, ...], published: tuple[str, ...]) -> dict[str, Any]:
    """Return what a run tells, after it is kept for ``report`` and ``toward``."""
    document = {"schema": "boardfit.compress-run/1", "candidates": made, "published": published}
    (folder / "results.json").write_bytes(msgspec.json.encode(document))
    return document


def _results(folder: Path) -> tuple[Made, ...]:
    """Return what the last run made. Raises: ConfigError: nothing was run there."""
    from agent.compress.made import Made

    try:
        document = msgspec.json.decode((folder / "results.json").read_bytes())
        return msgspec.convert(document["candidates"], tuple[Made, ...])
    except (OSError, msgspec.DecodeError, msgspec.ValidationError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder} holds no results of a run", fix="run `boardfit compress run` first") from error


def run_report(call: Invocation) -> int:
    """Write the page."""
    from agent import __version__
    from agent.compress.page import render
    from agent.compress.recipe import load_recipe
    from agent.durable import write_file

    path: Path = call.arguments.recipe
    target: Path = call.arguments.html or path.with_suffix(".html")
    page = render(load_recipe(path).task, _results(_work(call, path)), __version__)
    write_file(target, page.encode())
    if call.console.as_json:
        call.console.document({"schema": "boardfit.compress-report/1", "html": str(target)})
    else:
        call.console.line(f"Wrote {target}.")
    return 0


def run_toward(call: Invocation) -> int:
    """Propose; write the recipe; make what it adds."""
    from agent.compress.recipe import load_recipe
    from agent.verbs.toward import propose

    arguments = call.arguments
    folder, target = _work(call, arguments.recipe), arguments.write
    if target is None and arguments.make:
        target = arguments.recipe.with_name(f"{arguments.recipe.stem}-toward.yaml")
    family = {one.name: one for one in _results(folder)}
    document = propose(call, load_recipe(arguments.recipe), family, target, arguments.most)
    code = 0
    if document["recipe"] is not None:
        if arguments.make:
            document["made"], code = _carry_out(call, target, folder)
        elif not call.console.as_json:
            call.console.line(f"Wrote {target}: `boardfit compress run {target} --work {folder}` makes what it adds.")
    if call.console.as_json:
        call.console.document(document)
    return code


def _keys(call: Invocation) -> Path:
    registry: Path | None = call.arguments.registry
    chosen: Path | None = call.arguments.keys
    return chosen or (keys_beside(registry) if registry else Path())


def _show(call: Invocation, made: tuple[Made, ...]) -> None:
    any_packed = any(one.packed_bytes is not None for one in made)
    columns = ("candidate", "techniques", "size", *(("unpacked",) if any_packed else ()), "top-1", "p50 here", "")
    rows = []
    for one in made:
        accuracy = one.accuracy
        sizes = (one.transfer_bytes, one.size_bytes) if any_packed else (one.transfer_bytes,)
        rows.append(
            (
                one.name,
                " + ".join(step["technique"] for step in one.chain) or "none",
                *("–" if size is None else format_quantity(size, "bytes") for size in sizes),
                f"{accuracy.top1.value:.1%} of {accuracy.n}" if accuracy else "–",
                ", ".join(
                    f"{found.engine} {format_quantity(found.latency_p50_s, 'time')}"
                    for found in one.judged
                    if found.latency_p50_s is not None
                ),
                one.reason or "made",
            )
        )
    call.console.table(columns, rows, right=("size", "unpacked"))


def run_apply(call: Invocation) -> int:
    """Apply one technique."""
    from agent.compress.samples import Samples
    from agent.compress.step import StepJob, run_step
    from agent.compress.technique import Kind
    from agent.compress.techniques import technique

    arguments = call.arguments
    found = technique(arguments.technique, "compress apply")
    kinds: dict[str, Kind] = {".onnx": "onnx", ".tflite": "tflite", ".pt": "torch"}
    kind = kinds.get(arguments.model.suffix)
    if kind is None or kind not in found.kinds:
        raise ConfigError(
            f"{found.name} works on {' or '.join(found.kinds)}, not on {arguments.model.name}", fix="name such a file"
        )
    if not arguments.model.is_file():
        raise ConfigError(f"there is no file {arguments.model}", fix="correct the path")
    given = _settings(arguments.set)
    others = {name: str(Path(str(given[name])).resolve()) for name in found.models if name in given}
    parameters = msgspec.to_builtins(found.read(given, "--set"))
    samples = Samples(arguments.training or Path())
    result: Path = arguments.result.resolve()
    if not result.parent.is_dir():
        raise ConfigError(f"there is no folder {result.parent}", fix="make it, or correct the path")
    with tempfile.TemporaryDirectory(prefix=".boardfit-", dir=result.parent) as scratch:  # a step leaves its log beside
        job = StepJob(
            action=found.name, kind=kind, source=str(arguments.model.resolve()),
            target=str(Path(scratch, result.name)), parameters=parameters, others=others,
            training=str(samples.training.resolve()), preprocessing=(), calibration=samples.calibration,
            input_shape=None, seed=arguments.seed, threads=1, folder=str(Path.cwd()), model={},
        )  # fmt: skip
        outcome = run_step(job, 24 * 3600.0)
        if outcome.reached is None:
            raise ModelError(f"{found.name}: {outcome.reason}", fix="correct the model or the parameters")
        Path(job.target).replace(result)
    size = arguments.result.stat().st_size
    if call.console.as_json:
        call.console.document({"schema": "boardfit.compress-apply/1", "reached": outcome.reached, "size_bytes": size})
    else:
        call.console.line(
            f"Wrote {arguments.result}: {format_quantity(size, 'bytes')}, from "
            f"{format_quantity(arguments.model.stat().st_size, 'bytes')}."
        )
        call.console.line(", ".join(f"{key} {value}" for key, value in outcome.reached.items()))
    return 0


def _settings(texts: list[str]) -> dict[str, Any]:
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: not NAME=VALUE", fix="write for instance --set calibration=entropy")
        try:
            (settings[name],) = parse_yaml([value])
        except YamlProblemError as error:
            raise ConfigError(f"--set {text}: not a value", fix="quote it") from error
    return settings


def run_techniques(call: Invocation) -> int:
    """List them."""
    from agent.compress.techniques import NAMES, technique

    rows: list[tuple[str, str, str, str]] = []
    for name in NAMES:
        try:
            found = technique(name, "compress techniques")
        except (ImportError, BoardfitError) as error:
            rows.append((name, "–", "–", f"not usable here: {error}"))
            continue
        fields = msgspec.structs.fields(found.parameters)
        parameters = ", ".join(
            field.name if field.default is msgspec.NODEFAULT else f"{field.name}={field.default}" for field in fields
        )
        rows.append((name, " or ".join(found.kinds), parameters or "none", found.summary))
    if call.console.as_json:
        keys = ("name", "works_on", "parameters", "summary")
        listed = [dict(zip(keys, row, strict=True)) for row in rows]
        call.console.document({"schema": "boardfit.compress-techniques/1", "techniques": listed})
    else:
        call.console.table(("technique", "works on", "parameters", ""), rows)
    return 0
