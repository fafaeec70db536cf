"""Make the recipe's candidates and publish them as a signed registry, by the command line that any publisher uses.

Registry and keys are made anew each time, beside the old ones, and take their place only when the last command has
succeeded: nothing of an earlier publication is left over. That changes the root of trust, which is right for a demo
(its root travels with it) and for nothing else.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

EXPIRES_DAYS = 3650  # chosen: a bundled demo must work long after it was made, and protects nothing
_TOOLS = (
    "torch", "torch-pruning", "numpy", "scikit-learn", "pillow", "onnx", "onnxslim", "onnxconverter-common",
    "onnxruntime", "litert-torch", "ai-edge-quantizer", "ai-edge-litert", "tflite-runtime",
)  # fmt: skip
_KEYS_README = """\
Demo keys: public on purpose.

These private keys sign the bundled demo registry and nothing else. They are under version control, so anybody can sign
with them: an installed agent never trusts them, and no other registry may use them. `boardfit registry init` makes keys
of your own; keep those out of version control.
"""


def _boardfit(*arguments: str | Path, output: int | None = None) -> None:
    """Run the command line; its progress goes where ours does."""
    command = [sys.executable, "-m", "agent", *map(str, arguments)]
    if subprocess.run(command, check=False, stdout=output).returncode != 0:
        raise SystemExit(f"{' '.join(command[1:])}\nfailed: see above")


def _drop_superseded(metadata: Path) -> None:
    """Remove the metadata of each step on the way: every candidate leaves a whole list of targets behind.

    A client asks for the versions that the newest timestamp and snapshot name, so nobody reads the earlier ones.
    """
    for role in ("targets", "snapshot"):
        versions = sorted(metadata.glob(f"*.{role}.json"), key=lambda path: int(path.name.split(".")[0]))
        for path in versions[:-1]:
            path.unlink()


def publish(recipe: Path, registry: Path, keys: Path, *, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Make and publish; the folders of an earlier registry and its keys are replaced.

    Args: more: further options of `boardfit compress run`.
    Returns: what was made, without paths, and the versions of what made it.
    """
    fresh, fresh_keys = (path.with_name(f"{path.name}.new") for path in (registry, keys))
    for path in (fresh, fresh_keys):
        shutil.rmtree(path, ignore_errors=True)
    fresh_keys.mkdir(parents=True)
    (fresh_keys / "README").write_text(_KEYS_README, encoding="utf-8")
    _boardfit("registry", "init", fresh, "--keys", fresh_keys, "--expires-days", str(EXPIRES_DAYS))
    _boardfit("compress", "run", recipe, "--registry", fresh, "--keys", fresh_keys, *more)
    document = json.loads((recipe.with_suffix(".work") / "results.json").read_bytes())
    if lost := [f"{one['name']}: {one['reason']}" for one in document["candidates"] if one.get("reason")]:
        raise SystemExit("not made, so nothing is published:\n" + "\n".join(lost))
    _drop_superseded(fresh / "metadata")
    for new, old in ((fresh, registry), (fresh_keys, keys)):
        shutil.rmtree(old, ignore_errors=True)
        new.rename(old)
    for one in document["candidates"]:
        del one["path"]  # of this machine
    tools = {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _TOOLS}}
    return {"tools": tools, "candidates": document["candidates"]}
