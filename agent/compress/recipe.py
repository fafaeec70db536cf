"""The recipe: models, data, and the candidates to make of them, from YAML. Checked whole before anything is made.

Rules:
- An unknown key, technique or parameter is an error that names its place. Paths start at the recipe's folder.
- ``{each: [a, b]}`` in the place of a parameter's value makes one candidate for each value.
- What a technique's parameters may be is the technique's; the order of steps and their names are ``plan``'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from agent.compress.technique import Kind
from agent.compress.training import Training
from agent.config_values import check_keys, positive
from agent.core.manifest import is_plain_name
from agent.core.units import parse_quantity
from agent.documents import YamlProblemError, parse_yaml
from agent.errors import ConfigError

SCHEMA = "boardfit.recipe/1"
Format = Literal["onnx", "tflite"]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model the candidates are made of: one of ``torch``, ``onnx`` and ``keras``.

    ``torch``: ``module:factory``, called with ``settings``; with ``train`` it is trained here, with ``weights`` (a
    state dict) it comes trained. ``onnx``, ``keras``: a file.
    """

    torch: str | None = None
    onnx: str | None = None
    keras: str | None = None
    settings: dict[str, Any] = {}
    train: Training | None = None
    weights: str | None = None
    family: str | None = None

    @property
    def kind(self) -> Kind:
        """What its first artifact is."""
        return "onnx" if self.onnx is not None else "torch"


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """Candidates wanted: a chain of techniques applied to each of some models, in each of some formats.

    ``pack``: published packed, so that what pruning and sharing of weights save is saved in what boards transfer.
    """

    of: list[str]
    chain: list[dict[str, Any]] = []
    formats: list[Format] | None = None  # None: every one the model can become
    name: str | None = None
    pack: bool = False


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What candidates must keep to, and how long making them may take; None: no limit. Bytes, ratio, seconds."""

    size_bytes: int | None = None
    accuracy_drop: float | None = None
    time_s: float | None = None
    step_s: float = 1800.0


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A whole recipe; ``folder`` is where its paths start."""

    task: str
    models: dict[str, Model]
    candidates: tuple[Wish, ...]
    training: Path
    evaluation: Path
    calibration: int
    source: str | None  # where the evaluation pack comes from, for the manifest; None: its file's name
    input_shape: tuple[int, ...] | None
    preprocessing: tuple[dict[str, Any], ...]
    labels: tuple[str, ...]
    licence: str | None
    seed: int
    limits: Limits
    keep: Literal["all", "not_dominated"]
    folder: Path


class _Data(msgspec.Struct, kw_only=True):
    training: str
    evaluation: str
    calibration: Annotated[int, msgspec.Meta(ge=1)] = 200
    source: str | None = None


class _Limits(msgspec.Struct, kw_only=True):
    size: Any = None
    accuracy_drop: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    time: Any = None
    step_time: Any = "30 min"


class _Candidate(msgspec.Struct, kw_only=True):
    of: str | list[str]
    chain: list[Any] = []
    formats: list[Format] | None = None
    name: str | None = None
    pack: bool = False


class _Raw(msgspec.Struct, kw_only=True):
    task: str
    data: _Data
    models: dict[str, Model]
    candidates: list[_Candidate]
    schema: Literal["boardfit.recipe/1"] = "boardfit.recipe/1"
    input_shape: list[int] | None = None
    preprocessing: list[dict[str, Any]] = []
    labels: list[Any] = []
    licence: str | None = None
    seed: int = 0
    limits: _Limits = msgspec.field(default_factory=_Limits)
    keep: Literal["all", "not_dominated"] = "all"


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises: ConfigError: it is absent, no YAML, or says something that is not known or possible."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the recipe {path} cannot be read: {error}", fix="see `boardfit compress init`") from error
    try:
        (document,) = parse_yaml([text])
    except YamlProblemError as error:
        raise ConfigError(f"{path} is not valid YAML: {error.problem}", fix="correct that place") from error
    return read_recipe(document, path.resolve().parent)


def read_recipe(document: object, folder: Path) -> Recipe:
    """Return the recipe of a YAML document. Raises: ConfigError."""
    if not isinstance(document, Mapping):
        raise ConfigError("a recipe must be a mapping", fix="see `boardfit compress init`")
    check_keys(document, msgspec.inspect.type_info(_Raw), "")
    try:
        raw = msgspec.convert(document, _Raw)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the recipe is not valid: {error}", fix="correct that key") from error
    if not is_plain_name(raw.task):
        raise ConfigError(f"task: {raw.task!r} is not a usable name", fix="use letters, digits, dot, dash, underscore")
    for name, model in raw.models.items():
        _check_model(name, model)
    if not raw.models:
        raise ConfigError("the recipe has no models", fix="add one under models")
    return Recipe(
        task=raw.task,
        models=dict(raw.models),
        candidates=tuple(
            wish for number, item in enumerate(raw.candidates) for wish in _wishes(item, f"candidates[{number}]", raw)
        ),
        training=folder / raw.data.training,
        evaluation=folder / raw.data.evaluation,
        calibration=raw.data.calibration,
        source=raw.data.source,
        input_shape=None if raw.input_shape is None else tuple(raw.input_shape),
        preprocessing=tuple(_without_layout(raw.preprocessing)),
        labels=tuple(map(str, raw.labels)),
        licence=raw.licence,
        seed=raw.seed,
        limits=_limits(raw.limits),
        keep=raw.keep,
        folder=folder,
    )


def width_of(recipe: Recipe, model: str) -> float:
    """Return the width among a model's settings."""
    return float(recipe.models[model].settings["width"])


def same_but_width(recipe: Recipe, one: str, other: str) -> bool:
    """Tell whether two models are one network of two widths."""

    def rest(model: str) -> tuple[object, ...]:
        found = recipe.models[model]
        width = found.settings.get("width")
        usable = isinstance(width, int | float) and not isinstance(width, bool) and width > 0
        settings = {key: value for key, value in found.settings.items() if key != "width"}
        return (found.torch, settings, usable)

    return rest(one) == rest(other) and bool(rest(one)[2]) and recipe.models[one].torch is not None


def _check_model(name: str, model: Model) -> None:
    where = f"models.{name}"
    if not is_plain_name(name):
        raise ConfigError(f"{where}: not a usable name", fix="use letters, digits, dot, dash and underscore")
    given = [key for key in ("torch", "onnx", "keras") if getattr(model, key) is not None]
    if len(given) != 1:
        raise ConfigError(
            f"{where}: give one of torch, onnx and keras, not {len(given)}", fix="say where it comes from"
        )
    if model.torch is not None and (":" not in model.torch or (model.train is None) == (model.weights is None)):
        raise ConfigError(
            f"{where}: torch is module:factory with either train or weights",
            fix="add train: {epochs: 25}, or weights: FILE.pt",
        )
    if model.torch is None and (model.train is not None or model.weights is not None or model.settings):
        raise ConfigError(f"{where}: settings, train and weights are for torch models", fix="leave them out")


def _wishes(item: _Candidate, where: str, raw: _Raw) -> list[Wish]:
    """Return the wish, or one for each combination of its ``each`` values."""
    names = [item.of] if isinstance(item.of, str) else item.of
    for name in names:
        if name not in raw.models:
            raise ConfigError(f"{where}.of: there is no model {name!r}", fix=f"models are {', '.join(raw.models)}")
    steps = [_step(step, f"{where}.chain[{number}]") for number, step in enumerate(item.chain)]
    swept = [
        (number, key, value["each"])
        for number, (_, parameters) in enumerate(steps)
        for key, value in parameters.items()
        if isinstance(value, Mapping) and set(value) == {"each"}
    ]
    if item.name is not None and (swept or len(names) > 1 or len(item.formats or ()) != 1):
        raise ConfigError(f"{where}: name is for a single candidate", fix="say one format, or leave the name out")
    wishes = []
    for values in product(*(choices for _, _, choices in swept)):
        chain = [{name: dict(parameters)} for name, parameters in steps]
        for (number, key, _), value in zip(swept, values, strict=True):
            next(iter(chain[number].values()))[key] = value
        wishes.append(Wish(of=list(names), chain=chain, formats=item.formats, name=item.name, pack=item.pack))
    return wishes


def _step(step: object, where: str) -> tuple[str, dict[str, Any]]:
    if isinstance(step, str):
        return step, {}
    if isinstance(step, Mapping) and len(step) == 1:
        ((name, parameters),) = step.items()
        if parameters is None or isinstance(parameters, Mapping):
            return str(name), dict(parameters or {})
    raise ConfigError(f"{where}: not a technique", fix="write a name, or {name: {parameter: value}}")


def _without_layout(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if any(step.get("op") == "layout" for step in steps):
        raise ConfigError("preprocessing: leave the layout out", fix="each format's own layout is added to it")
    return steps


def _limits(raw: _Limits) -> Limits:
    return Limits(
        size_bytes=None if raw.size is None else int(positive(raw.size, "bytes", "limits.size")),
        accuracy_drop=raw.accuracy_drop,
        time_s=None if raw.time is None else parse_quantity(raw.time, "time", where="limits.time"),
        step_s=positive(raw.step_time, "time", "limits.step_time"),
    )
