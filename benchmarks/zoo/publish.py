"""Publish the built candidates as a signed registry, through the command line that any publisher uses.

Registry and keys are made anew each time, beside the old ones, and take their place only when the last command has
succeeded: nothing of an earlier publication is left over. That changes the root of trust, which is right for a demo
(its root travels with it) and for nothing else.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.zoo.catalog import PACK_NAME, TASK

EXPIRES_DAYS = 3650  # chosen: a bundled demo must work long after it was made, and protects nothing
_KEYS_README = """\
Demo keys: public on purpose.

These private keys sign the bundled demo registry and nothing else. They are under version control, so anybody can sign
with them: an installed agent never trusts them, and no other registry may use them. `boardfit registry init` makes keys
of your own; keep those out of version control.
"""


def _registry(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "agent", "registry", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[1:])}\nfailed with exit status {done.returncode}:\n{done.stderr}")


def _drop_superseded(metadata: Path) -> None:
    """Remove the metadata of each step on the way: every ``add`` leaves a whole list of targets behind.

    A client asks for the versions that the newest timestamp and snapshot name, so nobody reads the earlier ones.
    """
    for role in ("targets", "snapshot"):
        versions = sorted(metadata.glob(f"*.{role}.json"), key=lambda path: int(path.name.split(".")[0]))
        for path in versions[:-1]:
            path.unlink()


def publish(built: Path, registry: Path, keys: Path) -> int:
    """Publish every model file of ``built``.

    Args:    built: model files ``<name>.onnx`` or ``.tflite``, each with ``<name>.yaml``, and the evaluation pack.
             registry, keys: the directories to write; what they held is replaced.
    Returns: the number of candidates published.
    """
    fresh, fresh_keys = (path.with_name(f"{path.name}.new") for path in (registry, keys))
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(fresh_keys, ignore_errors=True)
    fresh_keys.mkdir(parents=True)
    (fresh_keys / "README").write_text(_KEYS_README, encoding="utf-8")
    _registry("init", fresh, "--keys", fresh_keys, "--expires-days", str(EXPIRES_DAYS))
    models = sorted(path for path in built.iterdir() if path.suffix in (".onnx", ".tflite"))
    for model in models:
        # fmt: off
        _registry(
            "add", fresh, model, "--task", TASK, "--name", model.stem, "--eval", built / PACK_NAME,
            "--manifest", model.with_suffix(".yaml"), "--keys", fresh_keys,
        )
        # fmt: on
        print(f"  published {model.stem}", flush=True)
    _drop_superseded(fresh / "metadata")
    for new, old in ((fresh, registry), (fresh_keys, keys)):
        shutil.rmtree(old, ignore_errors=True)
        new.rename(old)
    return len(models)
