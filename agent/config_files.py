"""Which files make up the configuration: agent.yaml, and conf.d/*.yaml beside it. What keys mean is for others.

Rules:
- A file of conf.d brings whole sections (`mqtt:`, `power:`). A section that two files have is an error naming both.
- They are read in the order of their names; relative paths in them start at agent.yaml's folder, as in agent.yaml.
- conf.d counts only beside an agent.yaml, or in the default folder.
"""

from __future__ import annotations

from pathlib import Path

from agent.documents import YamlProblemError, parse_yaml
from agent.errors import ConfigError

FOLDER = "conf.d"


def read_files(path: Path, *, wanted: bool) -> object | None:
    """Return the sections of agent.yaml at ``path`` and of conf.d beside it; None when there is no file at all.

    Args: wanted: agent.yaml itself must be there.
    Raises: ConfigError: missing, unreadable, not YAML, or a section given twice.
    """
    texts = {path: text} if (text := _read(path)) is not None else {}
    if wanted and not texts:
        raise ConfigError(f"no configuration at {path}", fix="write one, or leave --config out")
    for part in _parts(path.parent / FOLDER):
        if (text := _read(part)) is not None:
            texts[part] = text
    if not texts:
        return None
    try:
        documents = parse_yaml(list(texts.values()))
    except YamlProblemError as error:
        where = list(texts)[error.number]
        raise ConfigError(f"{where} is not valid YAML: {error.problem}", fix="correct that line") from error
    return _together(dict(zip(texts, documents, strict=True)))


def _together(documents: dict[Path, object]) -> object:
    merged: dict[object, object] = {}
    origin: dict[object, Path] = {}
    for path, document in documents.items():
        if document is None:
            continue
        if not isinstance(document, dict):
            raise ConfigError(f"{path} must be a mapping of keys", fix="start it with `registry:` or `tasks:`")
        for key, value in document.items():
            if key in merged:
                raise ConfigError(
                    f"`{key}:` is given in {origin[key]} and in {path}", fix="take it out of one of the two"
                )
            merged[key], origin[key] = value, path
    return merged


def _parts(folder: Path) -> list[Path]:
    try:
        return sorted(one for one in folder.iterdir() if one.suffix == ".yaml" and not one.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be read: {error.strerror}", fix="check its rights") from error


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the configuration {path} cannot be read: {error}", fix="check the file and its rights"
        ) from error
