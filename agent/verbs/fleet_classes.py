"""``fleet classes``: what boards of one class have measured together, and which of them are not like the others."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import msgspec

from agent.clock import SystemClock
from agent.fleet.classes import Classes, ClassLook
from agent.fleet.link import Link
from agent.fleet.plain import LONG, plain
from agent.verbs.fleet import settings_of
from agent.verbs.invocation import Invocation

_SHOWN = 8


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the action of this module."""
    add("classes", "Show what boards of one class measured together, and boards that are odd", run_classes)


def run_classes(call: Invocation) -> int:
    """Print the classes and the boards that are named."""
    settings = settings_of(call)
    classes = Classes(settings.broker, SystemClock())
    with Link(settings.broker, settings.fleet, call.stop) as link:
        link.connect()
        link.replay(("results",), classes.take)
    looks = classes.looks()
    if call.console.as_json:
        call.console.document(
            {"schema": "boardfit.fleet-classes/1", "fleet": settings.fleet, "refused": classes.refused,
             "classes": [msgspec.to_builtins(one) for one in looks]}
        )  # fmt: skip
        return 0
    if looks:
        call.console.table(("class", "boards", "tasks", "options", "odd"), [_row(one) for one in looks])
    for one in looks:
        for outlier in one.look.outliers:
            text = f"{plain(outlier.board)}: {plain(outlier.reason, LONG)} (likely cause: {outlier.cause})"
            call.console.line(text, "yellow")
    call.console.line(_counted(looks))
    if classes.refused:
        call.console.line(f"{classes.refused} documents are not believed; the last: {classes.last_refusal}", "yellow")
    return 0


def _row(one: ClassLook) -> tuple[str, ...]:
    odd = str(len(one.look.outliers)) if one.look.reason is None else "too few boards"
    return (
        plain(one.class_fingerprint)[:_SHOWN], str(one.look.boards), ", ".join(one.tasks), str(one.options), odd,
    )  # fmt: skip


def _counted(looks: list[ClassLook]) -> str:
    if not looks:
        return "No board has told its class what it measured."
    odd, alpha = sum(len(one.look.outliers) for one in looks), looks[0].look.alpha
    return f"{odd} odd; a look at a class names any good board with a chance of at most {alpha:.0%}."
