"""Makes a board's memory card fit to be copied: takes away who this board is, and leaves what serves.

Rules:
- Not while a daemon or a pass is at work, and not where the configuration gives every copy one name.
- What goes: all that the state says of this board (``agent.ownership``), its keys, requests and certificates, and what
  the configuration says of them. What stays: the registry and its verified metadata, downloads, the deployed model.
- The configuration goes first and the state last: a power cut in between leaves a card that is prepared again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.config import parse_config
from agent.config_files import FOLDER, read_files
from agent.database import FILE_NAME, Database
from agent.durable import fsync_directory, storage_error, write_file
from agent.errors import ConfigError
from agent.locks import exclusive
from agent.ownership import forget
from agent.setup.writing import MQTT_PART, _text

_SECRETS = ("*.key", "*.csr", "*.crt")
_OF_ONE_BOARD = ("cert", "key")


def prepare_image(config_file: Path, state_dir: Path) -> list[str]:
    """Take this board's identity away. Returns: what was done, a sentence each.

    Raises: ConfigError: the name stands elsewhere than enroll and setup write it. BusyError. StorageError.
    """
    part = config_file.parent / FOLDER / MQTT_PART
    found = read_files(part, wanted=False)
    document: dict[str, Any] = found if isinstance(found, dict) else {}
    config = parse_config(read_files(config_file, wanted=False) or {}, path=config_file)
    if config.device_id is not None and "device" not in document:
        raise ConfigError(
            f"device.id is {config.device_id!r} in {config_file}, which every copy of this card would share",
            fix="write `device: auto` there",
        )
    if config.mqtt is not None and config.mqtt.key is not None and "mqtt" not in document:
        raise ConfigError(
            f"mqtt.key stands in {config_file}", fix="take cert and key out there: no two boards share a key"
        )
    done = []
    with exclusive(state_dir / "daemon.lock", "a daemon"), exclusive(state_dir / "pass.lock", "a pass"):
        if document:
            mqtt = {key: value for key, value in document.get("mqtt", {}).items() if key not in _OF_ONE_BOARD}
            write_file(part, _text({**document, "mqtt": mqtt, "device": "auto"}).encode())
            done.append(f"{part} names neither this board nor a key")
        secrets = [path for kind in _SECRETS for path in (config_file.parent / "mqtt").glob(kind)]
        for path in secrets:
            try:
                path.unlink()
            except OSError as error:
                raise storage_error(error, path) from error
        if secrets:
            fsync_directory(secrets[0].parent)
            done.append(f"{len(secrets)} keys, requests and certificates are deleted")
        if (state_dir / FILE_NAME).exists():
            with Database(state_dir / FILE_NAME) as database, database.transaction() as connection:
                forget(connection)
            done.append(f"{state_dir} says nothing of this board any more; what is deployed stays")
    return done
