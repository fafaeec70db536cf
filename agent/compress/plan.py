"""From a recipe to the steps that make its candidates: a tree in which common beginnings are made once. Pure.

Rules:
- A step is known by what decides its result: action, parameters, seed, parent, data, library versions. Equal steps are
  one; a step that was made before is found again by its key.
- A search for parameters is a step of its own before the step that uses what it chose.
- Torch techniques come first; a torch model is exported where the next technique works on the file, or at the end.
- Every candidate ends with ``finish``, which shortens names inside the file.
- A candidate's parent is the candidate with the longest common beginning of its chain, of the same format if possible.

Leaves what a step does to techniques, and running to ``run``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from agent.compress.recipe import Model, Recipe, Wish
from agent.compress.search import check, plain
from agent.compress.technique import Kind, Technique
from agent.compress.techniques import reading, technique
from agent.compress.training import REVISION
from agent.core.manifest import CompressionStep
from agent.errors import ConfigError
from agent.registry.layout import is_name

FORMATS: tuple[Kind, ...] = ("onnx", "tflite")
Versions = Callable[[str], str]  # of a distribution


class Node(NamedTuple):
    """One step. ``action`` is ``take`` (a file or trained weights), ``train``, ``export``, ``finish`` or a technique.

    ``others``: further models a technique needs, by parameter: keys of torch nodes. ``chain``: the techniques up to
    and with this one, for the manifest. ``search``: key of the step that searches for some of the parameters; its
    action is ``search``, its parameters those of the step it searches for, and ``searched`` that step's action.
    """

    key: str
    action: str
    kind: Kind
    model: str
    parameters: dict[str, Any]
    parent: str | None
    others: dict[str, str]
    chain: tuple[CompressionStep, ...]
    search: str | None = None
    searched: str | None = None

    @property
    def needed(self) -> tuple[str, ...]:
        """Keys of the steps that come before this one."""
        return tuple(key for key in (self.parent, *self.others.values(), self.search) if key is not None)


class Wanted(NamedTuple):
    """One candidate: the node that is its file, the candidate it was made from, and whether it travels packed."""

    name: str
    key: str
    format: Kind
    model: str
    parent: str | None
    pack: bool = False


class Plan(NamedTuple):
    """``nodes`` in an order in which each comes after what it needs."""

    nodes: dict[str, Node]
    candidates: tuple[Wanted, ...]

    def below(self, key: str) -> tuple[str, ...]:
        """Return the names of the candidates that need a node."""
        return tuple(one.name for one in self.candidates if key in self.needs(one.key))

    def first(self, key: str) -> str:
        """Return the key of the model that a node's chain begins with."""
        parent = self.nodes[key].parent
        return key if parent is None else self.first(parent)

    def needs(self, key: str) -> set[str]:
        """Return the keys of a node and of all it is made of."""
        return {key}.union(*(self.needs(one) for one in self.nodes[key].needed))


def plan(recipe: Recipe, digests: Mapping[str, str], versions: Versions) -> Plan:
    """Return the plan.

    Args:
        digests: SHA-256 of what the recipe refers to: each model's file or source by its name, and the training pack
            as ``data:training``.
        versions: the installed version of a distribution, empty for one that is not there.
    Raises: ConfigError: a technique or parameter is not known, cannot follow, or two candidates would have one name.
    """
    builder = _Builder(recipe, digests, versions)
    for number, wish in enumerate(recipe.candidates):
        for name in wish.of:
            for format_ in _formats(recipe.models[name], wish):
                builder.candidate(name, wish, format_, f"candidates[{number}]")
    return builder.plan()


def _formats(model: Model, wish: Wish) -> tuple[Kind, ...]:
    possible: tuple[Kind, ...] = ("onnx",) if model.onnx is not None else FORMATS
    if wish.formats is None:
        return possible
    for format_ in wish.formats:
        if format_ not in possible:
            raise ConfigError(f"an ONNX model cannot become {format_}", fix="leave that format out")
    return tuple(wish.formats)


class _Builder:
    def __init__(self, recipe: Recipe, digests: Mapping[str, str], versions: Versions) -> None:
        self._recipe, self._digests, self._versions = recipe, digests, versions
        self._nodes: dict[str, Node] = {}
        self._wanted: dict[str, tuple[Wanted, tuple[CompressionStep, ...]]] = {}

    def candidate(self, model: str, wish: Wish, format_: Kind, where: str) -> None:
        node = self._first(model)
        for number, step in enumerate(wish.chain):
            ((name, given),) = step.items()
            place = f"{where}.chain[{number}]"
            found = technique(name, place)
            if node.kind not in found.kinds and node.kind == "torch" and format_ in found.kinds:
                node = self._export(node, format_)
            if node.kind not in found.kinds:
                takes = " or ".join(found.kinds)
                raise ConfigError(
                    f"{place}: {name} works on {takes} and the model is {node.kind} by then",
                    fix="put techniques on torch models before those on files",
                )
            node = self._apply(node, found, given, place)
        if node.kind == "torch":
            node = self._export(node, format_)
        node = self._add("finish", node.kind, node, {}, chain=node.chain, libraries=("onnx",))
        name = wish.name or "-".join([model, format_, *(map(_slug, wish.chain) if wish.chain else ["f32"])])
        if not is_name(name):
            raise ConfigError(
                f"{where}: {name!r} cannot name a candidate",
                fix="give it a name: a-z, 0-9, dot, dash and underscore, at most 64, and one format",
            )
        if name in self._wanted:
            raise ConfigError(f"{where}: two candidates would be called {name}", fix="give one of them a name")
        self._wanted[name] = Wanted(name, node.key, format_, model, None, wish.pack), node.chain

    def plan(self) -> Plan:
        wanted = tuple(one._replace(parent=self._parent(one, chain)) for one, chain in self._wanted.values())
        return Plan(dict(self._nodes), wanted)

    def _parent(self, child: Wanted, chain: tuple[CompressionStep, ...]) -> str | None:
        shared = [
            (len(other), one.format == child.format, one.name)
            for one, other in self._wanted.values()
            if one.model == child.model and len(other) < len(chain) and chain[: len(other)] == other
        ]
        return max(shared)[2] if shared else None

    def _first(self, name: str) -> Node:
        model = self._recipe.models[name]
        parameters: dict[str, Any] = {"from": self._digests[name], "settings": model.settings}
        if model.train is None:
            libraries = () if model.keras is None else ("torch", "keras")
            return self._add("take", model.kind, None, parameters, libraries=libraries, model=name)
        parameters["train"] = plain(model.train)
        return self._add("train", "torch", None, parameters, libraries=("torch",), model=name, where=f"models.{name}")

    def _export(self, node: Node, format_: Kind) -> Node:
        libraries = ("torch", "onnxslim") if format_ == "onnx" else ("torch", "litert-torch")
        return self._add("export", format_, node, {}, chain=node.chain, libraries=libraries)

    def _apply(self, node: Node, found: Technique, given: Mapping[str, Any], where: str) -> Node:
        parameters = plain(found.read(given, where))
        others = {}
        for parameter in found.models:
            name = parameters[parameter]
            if name not in self._recipe.models or self._recipe.models[name].kind != "torch":
                raise ConfigError(f"{where}.{parameter}: there is no torch model {name!r}", fix="name one under models")
            others[parameter] = self._first(name).key
        chain = (*node.chain, CompressionStep(technique=found.name, parameters=dict(parameters)))
        libraries = (*found.libraries, f"revision {found.revision}")
        return self._add(
            found.name, node.kind, node, parameters, others=others, chain=chain, libraries=libraries, where=where
        )

    def _add(
        self,
        action: str,
        kind: Kind,
        parent: Node | None,
        parameters: dict[str, Any],
        *,
        others: dict[str, str] | None = None,
        libraries: tuple[str, ...],
        model: str | None = None,
        chain: tuple[CompressionStep, ...] = (),
        where: str = "",
        searched: str | None = None,
    ) -> Node:
        if "torch" in libraries:
            libraries = (*libraries, f"training {REVISION}")
        search = None
        if searched is None and where and check(parameters, reading(action, where), where) is not None:
            if kind != "torch":
                raise ConfigError(f"{where}: {action} does not train a {kind} file", fix="leave search out")
            search = self._add(
                "search", kind, parent, parameters, others=others, libraries=(*libraries, "optuna"), model=model,
                searched=action,
            ).key  # fmt: skip
        decides = [
            action, kind, parameters, None if parent is None else parent.key, others or {}, self._recipe.seed,
            self._digests["data:training"], self._recipe.calibration, self._recipe.preprocessing,
            self._recipe.input_shape, [(name, self._versions(name)) for name in libraries], search, searched,
        ]  # fmt: skip
        text = json.dumps(decides, sort_keys=True, default=list)
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        own = model if parent is None else parent.model
        assert own is not None
        node = Node(
            key, action, kind, own, parameters, None if parent is None else parent.key, others or {}, chain, search,
            searched,
        )  # fmt: skip
        return self._nodes.setdefault(key, node)


def _slug(step: Mapping[str, Any]) -> str:
    """Return a step's part of a candidate's name: the technique and the parameters that were given."""
    ((name, given),) = step.items()
    values = [_value_slug(key, value) for key, value in given.items() if not isinstance(value, dict | list)]
    return "-".join([name.replace("_", "-"), *values])


def _value_slug(key: str, value: object) -> str:
    if isinstance(value, bool):
        return key.replace("_", "-") if value else f"no-{key.replace('_', '-')}"
    return str(value).replace("_", "-").replace("/", "-").replace(" ", "-")
