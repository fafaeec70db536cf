"""Publish the built candidates as a signed registry, through the command line that any publisher uses.

The registry is written anew each time: everything goes to a directory beside it, which takes its place only when the
last command has succeeded. Keys that exist are used again, so that the root of trust stays the same.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.zoo.catalog import TASK

PACK_NAME = "digits-test.npz"
EXPIRES_DAYS = 3650  # chosen: a bundled demo must work long after it was made, and protects nothing
_KEYS_README = """\
# Demo keys: public on purpose

These private keys sign the bundled demo registry and nothing else. They are committed, so anybody can sign with them:
**an installed agent never trusts them**, and no registry of yours should use them. `boardfit registry init` makes keys
of your own.
"""


def _registry(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "agent", "registry", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[1:])}\nfailed with exit status {done.returncode}:\n{done.stderr}")


def publish(built: Path, registry: Path, keys: Path) -> int:
    """Publish every model file of ``built`` that has a manifest beside it.

    Args:    built: model files ``<name>.onnx`` or ``.tflite``, each with ``<name>.yaml``, and the evaluation pack.
             registry: the directory to write; what it held is replaced.
             keys: the directory of signing keys; made by ``registry init`` where it holds none.
    Returns: the number of candidates published.
    """
    keys.mkdir(parents=True, exist_ok=True)
    (keys / "README.md").write_text(_KEYS_README, encoding="utf-8")
    fresh = registry.with_name(registry.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    _registry("init", fresh, "--keys", keys, "--expires-days", str(EXPIRES_DAYS))
    models = sorted(path for path in built.iterdir() if path.suffix in (".onnx", ".tflite"))
    for model in models:
        _registry(
            "add", fresh, model,
            "--task", TASK, "--name", model.stem,
            "--eval", built / PACK_NAME, "--manifest", model.with_suffix(".yaml"),
            "--keys", keys,
        )  # fmt: skip
        print(f"  published {model.stem}", flush=True)
    shutil.rmtree(registry, ignore_errors=True)
    fresh.rename(registry)
    return len(models)
