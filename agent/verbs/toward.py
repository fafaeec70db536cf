"""``compress toward``: reads what boards told, prints what would close their misses, and writes it as a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.documents import parse_yaml, written_yaml
from agent.errors import ConfigError
from agent.verbs.invocation import Invocation

if TYPE_CHECKING:
    from agent.compress.made import Made
    from agent.compress.recipe import Recipe
    from agent.compress.told import Miss, Told
    from agent.compress.toward import Proposal

DESCRIPTION = """Read what boards decided, and propose the variants most likely to close what they missed.

The model: what a change (a technique added, put in another's place or made stronger; another width) did to the metric
between two measured candidates that differ in it alone: a line through the logarithms. It says what is expected; the
chance to close the miss is Student's, from how far candidates scatter about it. Degrees of freedom are candidates -
groups - 1, where candidates that pairs link are one group: n pairs that share no candidate leave n - 1, three widths of
one network 1, however many pairs they make. Where none is left there is no chance, only what is expected, and figures
of the machine that made the candidates give none either, since it is not the board. Untried techniques come last,
without a figure. A size is what is transferred: zeroed and shared weights are proposed packed, by packed pairs. For an
accuracy, wider networks and milder chains are proposed."""

EPILOG = """example:
  boardfit once --exhaustive                        # on the board: figures of everything
  boardfit select --json > decision.json
  boardfit compress toward decision.json --recipe recipe.yaml --make --registry models
  mosquitto_sub -t 'boardfit/v1/+/+/decision/#' -W 5 > fleet.jsonl      # what a fleet has published"""


def propose(
    call: Invocation, recipe: Recipe, family: dict[str, Made], target: Path | None, most: int
) -> dict[str, Any]:
    """Print proposals unless a document is wanted, and write the best of each miss to ``target``.

    Returns: the document; its ``recipe`` is None where nothing was written.
    """
    from agent.compress.techniques import NAMES, technique
    from agent.compress.told import misses_of, read_told
    from agent.compress.toward import chosen, extended, proposals
    from agent.durable import write_file

    arguments = call.arguments
    if most < 1:
        raise ConfigError(f"--most is {most}", fix="give 1 or more")
    if target is not None and target.resolve().parent != arguments.recipe.resolve().parent:
        raise ConfigError(f"{target} lies elsewhere than {arguments.recipe}", fix="write beside it: paths start there")
    read = [one for path in arguments.decisions for one in read_told(_bytes(path), str(path))]
    told = [one for one in read if one.task == recipe.task]
    if not told:
        tasks = ", ".join(sorted({one.task for one in read}))
        raise ConfigError(f"the recipe is for task {recipe.task}, the decisions are for {tasks}", fix="give its own")
    known = [technique(name, "toward") for name in NAMES]
    plans, left_out = [], list[str]()
    for miss in misses_of(told):
        try:
            plans.append((miss, proposals(miss, told, family, recipe, known)))
        except ConfigError as error:
            left_out.append(f"{error.problem}.")
            if len(left_out) == len(misses_of(told)):
                raise
    wanted = [(miss, one) for miss, found in plans for one in chosen(found, most)]
    if target is not None and wanted:
        (document,) = parse_yaml([arguments.recipe.read_text(encoding="utf-8")])
        write_file(target, written_yaml(extended(document, family, wanted)).encode())
    notes = [*left_out, *_notes(read, told, recipe.task)]
    if not call.console.as_json:
        _show(call, plans, notes)
        if target is not None and not wanted:
            call.console.line("None of these is worth making: nothing was written.")
    return {
        "schema": "boardfit.compress-toward/1",
        "misses": [{"miss": miss, "proposals": found} for miss, found in plans],
        "notes": notes,
        "recipe": str(target) if target is not None and wanted else None,
    }


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", fix="correct the path") from error


def _notes(read: Sequence[Told], told: Sequence[Told], task: str) -> list[str]:
    notes = []
    if len(read) > len(told):
        notes.append(f"{len(read) - len(told)} decisions of other tasks than {task} are left out.")
    notes += sorted({f"{one.board}: {one.why}." for one in told if one.why is not None})
    early = sum(one.early for one in told)
    if early:
        notes.append(
            f"{early} figures are of measurements that ended early, so rough: `boardfit once --exhaustive` measures "
            "everything in full."
        )
    return notes


def _show(call: Invocation, plans: Sequence[tuple[Miss, Sequence[Proposal]]], notes: list[str]) -> None:
    for miss, found in plans:
        where = f"on {miss.boards[0]}" if len(miss.boards) == 1 else f"on {len(miss.boards)} boards"
        call.console.line(
            f"{miss.candidate} came closest {where}: its {miss.metric} must change by a factor of {miss.factor:.2f}."
        )
        if found:
            headings = ("variant of it", "expected factor", "chance to close it", "accuracy", "from", "")
            call.console.table(headings, [_row(one) for one in found])
        else:
            call.console.line("Nothing is left to try with these models: another model, or a torch one, is needed.")
    for note in notes:
        call.console.line(note)


def _row(one: Proposal) -> tuple[Any, ...]:
    pairs = f"{one.seen} pair" + ("" if one.seen == 1 else "s")
    return (
        f"{one.text}, packed" if one.pack and one.text != "packed" else one.text,
        "–" if one.expected is None else f"{one.expected:.2f}",
        "not known" if one.chance is None else f"{one.chance:.0%}",
        "–" if one.accuracy is None else f"{one.accuracy:+.1%}",
        "never measured" if not one.seen else f"{pairs}, {one.source}",
        one.against or "",
    )
