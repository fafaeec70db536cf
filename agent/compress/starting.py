"""The recipe that ``compress init`` prints: commented, valid as it is, and short enough to be read whole."""

from __future__ import annotations

from pathlib import PurePath

_FILE_CHAINS = """\
  # One candidate for each chain, model and format. {each: [...]} makes one for each value. pack: true publishes it
  # packed: pruned and clustered weights are smaller to transfer, and on the board as large as ever.
  - {of: NAME}
  - {of: NAME, chain: [float16]}
  - {of: NAME, chain: [{static_int8: {calibration: {each: [min_max, percentile]}}}]}
  - {of: NAME, chain: [dynamic_int8]}
  - {of: NAME, chain: [{magnitude_pruning: {share: 0.5}}, {weight_clustering: {clusters: 32}}], pack: true}
"""
_TORCH_CHAINS = """\
  # Techniques on the torch model, then on the exported file; each is fine-tuned on the training pack.
  - {of: NAME, chain: [{channel_pruning: {macs: 0.5}}, static_int8]}
  - {of: NAME, chain: [{low_rank: {ratio: 0.6}}, static_int8]}
"""


def recipe_text(model: str, task: str, training: str, evaluation: str) -> str:
    """Return a recipe for a model: an .onnx or .keras file, or a torch ``module:factory``."""
    suffix = PurePath(model).suffix
    is_file = suffix in (".onnx", ".keras", ".h5")
    name = PurePath(model).stem if is_file else model.rpartition(":")[2] or "net"
    name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name).lstrip(".-") or "net"
    if suffix == ".onnx":
        source = f"{{onnx: {model}}}"
    elif is_file:
        source = f"{{keras: {model}}}"
    else:
        source = f"{{torch: '{model}', settings: {{}}, train: {{epochs: 25}}}}   # or weights: net.pt instead of train"
    chains = _FILE_CHAINS + ("" if suffix == ".onnx" else _TORCH_CHAINS)
    return f"""\
schema: boardfit.recipe/1
task: {task}
seed: 0
# Packs (.npz) with inputs [N, ...] and labels [N]. No sample of one may be in the other.
data: {{training: {training}, evaluation: {evaluation}, calibration: 200}}
# Steps from a pack's inputs to the model's; leave it out where the pack holds float32 inputs as the model takes them.
#preprocessing: [{{op: resize, height: 32, width: 32, method: bilinear}}, {{op: scale, factor: 0.00784, offset: -1}}]
#labels: [cat, dog]
#licence: Apache-2.0
models:
  {name}: {source}
candidates:
{chains.replace("NAME", name)}\
# What a candidate must keep to, and how long making them may take. No default: no limit.
#limits: {{size: 1 MiB, accuracy_drop: 0.02, time: 1 h}}
# not_dominated leaves out what another candidate beats in size and accuracy without being slower
#keep: all
"""
