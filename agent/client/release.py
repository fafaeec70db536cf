"""Which release serves a task, and its files, opened so that a swap half-way changes nothing.

Rules:
- ``current`` is read once, as a link; from then on everything is opened below the release's own folder, held open.
- The document must be the one its folder is named after (``release`` is its own digest), the model the file whose
  digest the document names. It is opened once: the bytes that were hashed are those an engine gets, by descriptor.
- A release that is collected between two of these steps is looked for again, by the link of then.

Leaves loading to ``agent.client.loaded``.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from agent.core.deployment import SCHEMA, Deployment
from agent.core.manifest import is_plain_name
from agent.deploy.document import DOCUMENT_NAME, release_of
from agent.errors import DeploymentError, ModelError

_TARGET = re.compile(r"releases/([0-9a-f]{64})")
_CHUNK_BYTES = 1 << 20
_MOST_DOCUMENT_BYTES = 16 << 20
_TRIES = 5


def find_state(task: str, state_dir: Path | None) -> Path:
    """Return the state directory that has a task's ``current``.

    Args: state_dir: looked at alone; None: ``$BOARDFIT_STATE_DIR`` alone, else /var/lib/boardfit, then the user's own.
    Raises: DeploymentError: the name is not plain, or nothing serves the task.
    """
    if not is_plain_name(task):
        raise DeploymentError(f"task {task!r} is not a plain name", fix="use letters, digits, '.', '_' and '-'")
    told = state_dir or (Path(os.environ["BOARDFIT_STATE_DIR"]) if os.environ.get("BOARDFIT_STATE_DIR") else None)
    own = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "boardfit"
    places = (told,) if told is not None else (Path("/var/lib/boardfit"), own)
    for place in places:
        if (place / "deploy" / task / "current").is_symlink():
            return place
    looked = " or ".join(str(place) for place in places)
    raise DeploymentError(
        f"nothing serves the task {task!r} below {looked}",
        fix="run `boardfit once`, or name the agent's state directory (state_dir or BOARDFIT_STATE_DIR)",
    )


def current_release(folder: Path) -> str | None:
    """Return the release that a task's ``current`` names now, None without one. Args: folder: of the task."""
    try:
        match = _TARGET.fullmatch(os.readlink(folder / "current"))  # noqa: PTH115 - a few times a second, for ever
    except OSError:
        return None
    return match[1] if match else None


class OpenRelease:
    """A release whose document was checked; ``model`` is the open file that was hashed."""

    def __init__(self, document: Deployment, model: int) -> None:
        self.document = document
        self.model = model

    @property
    def model_path(self) -> Path:
        """A path that leads to that very file while it is open."""
        return Path(f"/proc/self/fd/{self.model}")


@contextmanager
def opened(folder: Path, release: str | None = None) -> Iterator[OpenRelease]:
    """Open a task's release, the current one unless named, and close its files at the end.

    Raises: DeploymentError: there is none, or its document is damaged. ModelError: the model is not the file it names.
    """
    place, name = _folder(folder, release)
    try:
        document = _document(place, name)
        model = _model(place, document)
    finally:
        os.close(place)
    try:
        yield OpenRelease(document, model)
    finally:
        os.close(model)


def _folder(folder: Path, release: str | None) -> tuple[int, str]:
    for _ in range(_TRIES):
        name = release or current_release(folder)
        if name is None:
            break
        try:
            return os.open(
                folder / "releases" / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            ), name
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _unreadable(f"the release {name[:12]}", error) from error
    raise DeploymentError(f"nothing is deployed in {folder}", fix="run `boardfit once`, then open the model again")


def _unreadable(what: str, error: OSError) -> DeploymentError:
    fix = "let this program's user read the state directory" if isinstance(error, PermissionError) else "check the disk"
    return DeploymentError(f"{what} cannot be read: {error.strerror}", fix=fix)


def _document(place: int, name: str) -> Deployment:
    damaged = f"the document of release {name[:12]} is damaged"
    fix = "run `boardfit deploy --task T`, which replaces what is damaged"
    try:
        handle = os.open(DOCUMENT_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
        with os.fdopen(handle, "rb") as file:
            data = file.read(_MOST_DOCUMENT_BYTES)
    except FileNotFoundError as error:
        raise DeploymentError(f"{damaged}: it is missing", fix=fix) from error
    except OSError as error:
        raise _unreadable(f"the document of release {name[:12]}", error) from error
    try:
        document = msgspec.json.decode(data, type=Deployment)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise DeploymentError(f"{damaged}: {error}", fix=fix) from error
    if document.schema != SCHEMA:
        problem = f"release {name[:12]} says {document.schema}, and this client reads {SCHEMA}"
        raise DeploymentError(problem, fix="update the application's boardfit to the agent's version")
    if not document.release == name == release_of(document):
        raise DeploymentError(f"{damaged}: its digest is not its name", fix=fix)
    return document


def _model(place: int, document: Deployment) -> int:
    named = document.model
    try:
        model = os.open(named.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
    except OSError as error:
        raise _unreadable(f"the model {named.path} of {document.candidate}", error) from error
    try:
        state = os.fstat(model)
        found = _digest(model) if stat.S_ISREG(state.st_mode) and state.st_size == named.length else None
    except OSError as error:
        os.close(model)
        raise _unreadable(f"the model {named.path} of {document.candidate}", error) from error
    if found != named.sha256:
        os.close(model)
        raise ModelError(
            f"the model file of {document.candidate} is not the one that was proven: its digest differs",
            fix="run `boardfit deploy --task T`, which replaces what is damaged",
        )
    return model


def _digest(model: int) -> str:
    digest = hashlib.sha256()
    offset = 0
    while part := os.pread(model, _CHUNK_BYTES, offset):
        digest.update(part)
        offset += len(part)
    return digest.hexdigest()
