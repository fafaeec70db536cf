"""The model an application calls: a newer one is opened and warmed beside it, and takes its place between two calls.

Rules:
- A call takes the model that is there when it begins and ends on it. A swap never makes a call fail or wait for a load:
  the new model is loaded and warm before it is one reference away, and the old one is freed by the thread that swapped,
  after the call in progress.
- A release that cannot be opened leaves the old one serving; the agent is told with every report until then. It is
  tried again after ever longer pauses, and at once when ``current`` names another.
- One thread does all of it: it looks at one link twice a second, and tells once a second while there is something to
  tell. It never raises.
- While the agent tries a candidate on what the application feeds, a call is copied where it has asked for one more
  (``lending``).
- Not across ``fork``: open the model in the process that uses it.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from agent.client.lending import Lender
from agent.client.loaded import Loaded, Retired
from agent.client.release import current_release, find_state, opened
from agent.client.telling import Tally, Teller, Telling
from agent.core.deployment import Deployment
from agent.errors import InferenceError

log = logging.getLogger("boardfit.client")

CHECK_S = 0.5  # chosen: how long a new release may wait to be noticed
TELL_S = 1.0
_RETRY_S = 5.0  # doubling, up to
_RETRY_MOST_S = 300.0
_SWITCH_S = 1e-4  # the interpreter's own is 5 ms, which a call would wait for a model that loads


class Model:
    """What serves a task, now and after every switch, by ``open_model``. Any thread may call it, one at a time."""

    def __init__(
        self,
        task: str,
        state_dir: Path,
        on_change: Callable[[Deployment], None] | None,
        *,
        check_s: float,
        tell_s: float,
        engines: Path | None = None,
    ) -> None:
        self.task = task
        self.swaps = 0  # since it was opened
        self.refused: str | None = None  # why a newer release does not serve here; None: there is none
        self._folder = state_dir / "deploy" / task
        self._on_change = on_change
        self._check_s, self._tell_s = check_s, tell_s
        self._bad_release: str | None = None
        self._retry_at_s, self._retry_s = 0.0, _RETRY_S
        self._closing = threading.Event()
        self._engines = engines
        self._loaded = _open(self._folder, engines=engines)
        self._lender = Lender(self._folder)
        self._teller = Teller(state_dir)
        self._tally = Tally(self._loaded, time.monotonic())
        self._thread = threading.Thread(target=self._attend, name=f"boardfit-{task}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run one inference.

        Args: inputs: arrays in the order of the model's inputs, or one mapping by name; or by name as keywords. Real
            numbers for an integer input with a scale are quantized, and its outputs come back as real numbers then.
        Returns: the output array, or with several outputs a mapping by name.
        Raises: InputError: dtype, shape, number or names are not the model's. InferenceError: the engine failed, or the
            model was closed.
        """
        while True:
            loaded = self._loaded
            try:
                result = loaded.infer(inputs, named)
            except Retired:
                self._must_have_changed(loaded)
                continue
            if self._lender.armed:
                self._lender.take("tensors", loaded.document.release, inputs, named, result)
            return result

    def from_images(self, images: Any) -> Any:
        """Run one inference on images, by the preprocessing that was published with the model that serves now.

        Args: images: uint8 [N, H, W, C] (RGB) or [N, H, W], N as the model's batch.
        Raises: as a call; ModelError: the published steps do not fit them.
        """
        from agent.runtimes.preprocess import apply_steps  # loads Pillow

        images = images[..., None] if images.ndim == 3 else images
        while True:
            loaded = self._loaded
            try:
                result = loaded.infer((apply_steps(loaded.document.preprocessing, images),), {})
            except Retired:
                self._must_have_changed(loaded)
                continue
            if self._lender.armed:
                self._lender.take("images", loaded.document.release, (images,), {}, result)
            return result

    def _must_have_changed(self, loaded: Loaded) -> None:
        if self._loaded is loaded:
            raise InferenceError(f"the model of {self.task} was closed", fix="open it again") from None

    @property
    def deployment(self) -> Deployment:
        """The document of what serves now: candidate, operating point, inputs, outputs, labels, preprocessing."""
        return self._loaded.document

    @property
    def rung(self) -> int:
        """Which rung of the task's ladder serves: 0 is what was chosen, above it a lighter model serves for now."""
        return self.deployment.rung_index

    @property
    def telling(self) -> Telling:
        """What became of the reports to the agent."""
        return self._teller.state

    @property
    def engine_version(self) -> str | None:
        """The version of the engine that runs, which may be newer than the one that was measured."""
        return self._loaded.engine_version

    def close(self) -> None:
        """Tell what is left, and free the model once the call in progress has ended."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._thread.join()
        self._lender.close()
        self._loaded.retire()
        self._tell()
        self._teller.close()

    def _attend(self) -> None:
        tell_at = time.monotonic() + self._tell_s
        while not self._closing.wait(self._check_s):
            try:
                self._look()
                self._lender.look(self._loaded.document.release)
                if time.monotonic() >= tell_at:
                    tell_at = time.monotonic() + self._tell_s
                    self._tell()
            except Exception:
                log.exception("the model of %s serves on", self.task)

    def _look(self) -> None:
        """Take what ``current`` names, where it is another release than the one that serves."""
        name, now = current_release(self._folder), time.monotonic()
        if name is None or name == self._loaded.document.release:
            self._bad_release = self.refused = None  # what could not be opened was taken back
            return
        if name == self._bad_release and now < self._retry_at_s:
            return
        try:
            with _yielding():
                new = _open(self._folder, name, engines=self._engines)
        except Exception as error:  # noqa: BLE001 - whatever it is, the old one serves on, and the agent hears of it
            self._retry_s = min(self._retry_s * 2, _RETRY_MOST_S) if name == self._bad_release else _RETRY_S
            self._bad_release, self._retry_at_s, self.refused = name, now + self._retry_s, str(error)
            self._tell()
            return
        self._bad_release = self.refused = None
        old, self._loaded = self._loaded, new
        self.swaps += 1
        old.retire()
        self._tell()  # the old one's last
        self._tally = Tally(new, time.monotonic())
        if self._on_change is not None:
            self._on_change(new.document)

    def _tell(self) -> None:
        refused = None if self._bad_release is None else (self._bad_release, self.refused or "")
        report = self._tally.report(time.monotonic(), refused)
        if report is not None:
            self._teller.send(report)


def open_model(
    task: str,
    *,
    state_dir: str | Path | None = None,
    on_change: Callable[[Deployment], None] | None = None,
    check_s: float = CHECK_S,
    tell_s: float = TELL_S,
    engines: str | Path | None = None,
) -> Model:
    """Open the model that serves a task, loaded and warm.

    Args:
        state_dir: the agent's; None: ``$BOARDFIT_STATE_DIR``, else /var/lib/boardfit, else the user's own.
        on_change: called after a swap with the new document, in the thread that swapped.
        check_s: how often a new release is looked for, seconds.   tell_s: how often the agent is told.
        engines: a folder of the application's own in which an accelerator keeps what it builds for a model; None: it is
            built at each load.
    Raises: DeploymentError: nothing is deployed, its engine is not installed, or it would run elsewhere than decided.
        ModelError: the file is not the one that was proven, or the engine refuses it.
    """
    place = find_state(task, None if state_dir is None else Path(state_dir))
    kept = None if engines is None else Path(engines)
    return Model(task, place, on_change, check_s=check_s, tell_s=tell_s, engines=kept)


@contextmanager
def _yielding() -> Iterator[None]:
    """Let the application's threads wait less long for the interpreter while this one loads a model."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _SWITCH_S))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _open(folder: Path, release: str | None = None, *, engines: Path | None = None) -> Loaded:
    with opened(folder, release) as found:
        loaded = Loaded(found.document, found.model_path, engines)
        loaded.warm()
    return loaded
