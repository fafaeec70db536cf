"""A configuration with desired settings laid over it. Pure.

Rules:
- Only budgets, objective, pin, schedule and caps can be asked for; everything else is for agent.yaml alone.
- The widest scope is laid first. A fleet or group may name tasks that this board does not have: they are left out here.
  The board's own scope may not, since that is a slip of the pen. A board that lists no tasks takes any.
- What agent.yaml would refuse is refused here, with the same words.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agent.config import Config, TaskConfig, parse_caps, parse_schedule
from agent.config_values import usable_name
from agent.core.budget import parse_budgets, parse_objective
from agent.core.desired import DesiredSettings, DesiredTask
from agent.errors import ConfigError


def with_desired(written: Config, wanted: Sequence[tuple[str, DesiredSettings]]) -> Config:
    """Return the settings in force.

    Args:
        written: agent.yaml.
        wanted: scope and settings, the widest scope first (``agent.core.desired.scope_order``).
    Raises: ConfigError: a value is not valid, or the board's own scope names a task that is not here.
    """
    tasks, schedule, caps = dict(written.tasks), written.schedule, written.caps
    for scope, settings in wanted:
        for name, task in settings.tasks.items():
            usable_name(name, "tasks")
            if written.tasks and name not in written.tasks:
                if scope == "device":
                    raise ConfigError(f"there is no task {name} here", fix=f"tasks here: {', '.join(written.tasks)}")
                continue
            tasks[name] = _overlaid(tasks.get(name) or written.task(name), task)
        if settings.schedule is not None:
            schedule = parse_schedule(list(settings.schedule))
        if settings.caps is not None:
            caps = parse_caps(dict(settings.caps))
    return msgspec.structs.replace(written, tasks=tasks, schedule=schedule, caps=caps)


def _overlaid(task: TaskConfig, wanted: DesiredTask) -> TaskConfig:
    where = f"tasks.{task.name}"
    if wanted.budgets is not None:
        task = msgspec.structs.replace(task, budgets=parse_budgets(wanted.budgets, where=f"{where}.budgets"))
    if wanted.objective is not None:
        if not wanted.objective:
            raise ConfigError(f"{where}.objective is empty", fix='name at least one, like "minimize latency_p95"')
        objectives = tuple(parse_objective(text, where=f"{where}.objective") for text in wanted.objective)
        task = msgspec.structs.replace(task, objectives=objectives)
    if wanted.pin is not None:
        task = msgspec.structs.replace(task, pin=wanted.pin or None)
    return task
