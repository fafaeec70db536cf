"""Trials of a search: each is the searched step with values drawn by Optuna, judged on the part of the training pack
that it was not trained on.

Rules:
- Values are drawn by a tree-structured Parzen estimator (Bergstra et al. 2011, NIPS 24), seeded by the recipe's seed
  and the number of trials that ended: a search that was killed goes on with the trials it would have had.
- A trial is given up after an epoch if its best accuracy so far is below the median of whole trials' accuracies at that
  epoch (after Golovin et al. 2017, section 3.2.2), never before ``_STARTUP`` trials were whole nor in the first epochs.
- Trials are kept as they end. One at hand when the search was killed, or when its time was over, is not counted.
- Where the model to be fine-tuned saw the held-out part when it was trained, its accuracy there is too good: it serves
  to choose, and is never said to be a candidate's accuracy.

What is searched, and where it stands, is ``agent.compress.search``'s; how a trial trains, the step's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from torch import nn

from agent.compress.nets.files import load
from agent.compress.samples import Samples, Validation
from agent.compress.search import Search, place_of, whole_only, with_values
from agent.compress.step import PROGRESS, Searching, StepJob
from agent.compress.techniques import reading
from agent.durable import write_file
from agent.errors import BoardfitError, ModelError

Apply = Callable[[StepJob, Samples], dict[str, Any]]
_STARTUP = 5  # chosen: trials drawn at random, and whole trials before one is given up
_WARM_UP = 2  # chosen: epochs in which no trial is given up
_BATCH = 256


class _TimeOverError(Exception):
    """The trial at hand must end."""


class _Clock:
    """When the search must end, by ``time.monotonic``; ``recipes`` once it is the recipe's time that is over."""

    def __init__(self, own_s: float, recipe_s: float | None) -> None:
        begin = time.monotonic()
        self._own_s, self._recipe_s = begin + own_s, None if recipe_s is None else begin + recipe_s
        self.recipes = False

    def check(self) -> None:
        """Raises: _TimeOverError."""
        now = time.monotonic()
        self.recipes = self._recipe_s is not None and now > self._recipe_s
        if self.recipes or now > self._own_s:
            raise _TimeOverError


def search(job: StepJob, samples: Samples, apply: Apply) -> dict[str, Any]:
    """Run the trials that are left, and write them all to ``job.target``.

    Returns: the chosen ``values``, their accuracy on ``validation_samples``, how many trials ended how, seconds.
    Raises: ModelError: no trial was whole, or the recipe's time was over; what was done is kept.
    """
    place = place_of(job.parameters)
    assert job.searching is not None
    assert place is not None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    own = _Search(job, job.searching, place.search, samples, apply)
    spent_s = sum(one.user_attrs["seconds"] for one in own.ended())
    clock, ended_by = _Clock(job.searching.time_s - spent_s, job.searching.left_s), "trials"
    while (done := len(own.ended())) < place.search.trials:
        own.say()
        try:
            clock.check()
            own.trial(clock)
        except _TimeOverError:
            own.set_aside()
            if clock.recipes:
                text = f"the recipe's time was over after {done} of {place.search.trials} trials"
                raise ModelError(text, fix="run again to go on") from None
            ended_by = "time"
            break
    return own.result(ended_by)


class _NoLock:
    """One search has one process; Optuna's own lock outlives a killed one, and the next waits for it."""

    def acquire(self) -> bool:
        """Nobody else is there."""
        return True

    def release(self) -> None:
        """Nothing is held."""


def _storage(path: Path) -> JournalStorage:
    """Return the trials of a file, of which a line that a kill cut short is not one."""
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=_NoLock()))


class _Search:
    """One search: its trials so far, and what a further one needs."""

    def __init__(self, job: StepJob, told: Searching, asked: Search, samples: Samples, apply: Apply) -> None:
        self._job, self._told, self._asked, self._apply = job, told, asked, apply
        self._samples = samples._replace(validation=Validation(asked.validation, job.seed, lambda _: None))
        pack = self._samples.validation_pack()
        self._labels = pack.labels
        self._inputs = torch.from_numpy(np.ascontiguousarray(samples.inputs(pack, "torch")))
        self._study = optuna.create_study(
            storage=_storage(Path(told.keep) / "trials.log"), study_name="search", load_if_exists=True,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=_WARM_UP),
        )  # fmt: skip
        self.set_aside()

    def ended(self) -> list[FrozenTrial]:
        """Return the trials that count, in order: whole, given up, or failed by their own values."""
        return [
            one
            for one in self._study.get_trials(deepcopy=False)
            if one.state in (TrialState.COMPLETE, TrialState.PRUNED) or one.user_attrs.get("reason") is not None
        ]

    def set_aside(self) -> None:
        """End trials that a kill, or the end of the time, left at hand: they do not count."""
        for one in self._study.get_trials(deepcopy=False):
            if not one.state.is_finished():
                self._study.tell(one.number, state=TrialState.FAIL)

    def say(self) -> None:
        """Say which trial is at hand, for the run's line of progress."""
        best = self._best()
        known = "" if best is None else f", best {best.value:.1%} in validation"
        text = f"trial {len(self.ended()) + 1} of {self._asked.trials}{known}"
        write_file(Path(self._job.target).with_name(PROGRESS), text.encode())

    def trial(self, clock: _Clock) -> None:
        """Do one trial. Raises: _TimeOverError; whatever no other values would mend."""
        seed = self._job.seed + 1_000_003 * len(self.ended())  # a prime: seeds of near recipes do not meet
        self._study.sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=_STARTUP)
        begin, trial, epochs = time.monotonic(), self._study.ask(), 0

        def after_epoch(network: Any) -> None:
            nonlocal epochs
            clock.check()
            epochs += 1
            trial.report(self._accuracy(network), epochs)
            if trial.should_prune():
                raise optuna.TrialPruned

        values = self._drawn(trial)
        target = Path(self._job.target).with_name("trial.pt")
        accuracy, state, reason = None, TrialState.COMPLETE, None
        try:
            watched = self._samples._replace(validation=Validation(self._asked.validation, self._job.seed, after_epoch))
            self._apply(self._step(values, target), watched)
            accuracy = self._accuracy(load(target))
        except optuna.TrialPruned:
            state = TrialState.PRUNED
        except (BoardfitError, ImportError, MemoryError, _TimeOverError):
            raise
        except Exception as error:  # noqa: BLE001 - values that a library cannot work with are a trial's result
            state, reason = TrialState.FAIL, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        target.unlink(missing_ok=True)
        seconds = time.monotonic() - begin
        for key, value in (("epochs", epochs), ("values", values), ("seconds", seconds), ("reason", reason)):
            trial.set_user_attr(key, value)
        self._study.tell(trial, accuracy, state=state)

    def _step(self, values: dict[str, Any], target: Path) -> StepJob:
        """Return the searched step with these values."""
        parameters = with_values(self._job.parameters, values)
        model = {**self._job.model, "train": parameters["train"]} if "train" in parameters else self._job.model
        return msgspec.structs.replace(
            self._job, action=self._told.action, parameters=parameters, model=model, target=str(target), searching=None
        )

    def _drawn(self, trial: optuna.Trial) -> dict[str, Any]:
        read, values = reading(self._told.action, "search"), dict[str, Any]()
        for name, one in self._asked.over.items():
            if one.among is not None:
                values[name] = trial.suggest_categorical(name, one.among)
                continue
            low, high = one.bounds(name)
            if whole_only(self._job.parameters, name, one, read):
                values[name] = trial.suggest_int(name, int(low), int(high), log=one.log)
            else:
                values[name] = trial.suggest_float(name, low, high, log=one.log)
        return values

    def _accuracy(self, network: nn.Module) -> float:
        """Return top-1 on the part held out, and leave the network in eval mode."""
        network.eval()
        with torch.no_grad():
            said = torch.cat([network(batch).argmax(dim=1) for batch in self._inputs.split(_BATCH)])
        return float((said.numpy() == self._labels).mean())

    def _best(self) -> FrozenTrial | None:
        """Return the whole trial of the highest accuracy; of equal ones the first."""
        whole = [one for one in self.ended() if one.state == TrialState.COMPLETE]
        return max(whole, key=lambda one: (one.value, -one.number), default=None)

    def result(self, ended_by: str) -> dict[str, Any]:
        """Write the trials, and return what the search came to. Raises: ModelError: no trial was whole."""
        trials = [
            {
                "values": one.user_attrs["values"],
                "state": one.state.name.lower(),
                "validation_accuracy": one.value if one.state == TrialState.COMPLETE else None,
                **{name: one.user_attrs[name] for name in ("epochs", "seconds", "reason")},
            }
            for one in self.ended()
        ]
        best = self._best()
        if best is None:
            why = next((one["reason"] for one in trials if one["reason"]), "its time was over")
            raise ModelError(f"no trial of the search was whole: {why}", fix="give it more time, or other ranges")
        write_file(Path(self._job.target), msgspec.json.encode(trials))
        return {
            "values": best.user_attrs["values"],
            "validation_accuracy": best.value,
            "validation_samples": len(self._labels),
            "trials": len(trials),
            "given_up": sum(one["state"] == "pruned" for one in trials),
            "failed": sum(one["state"] == "fail" for one in trials),
            "ended_by": ended_by,
            "search_s": sum(one["seconds"] for one in trials),
        }
