"""Quantization-aware training: fine-tuning under int8's rounding, before ``static_int8`` makes the file."""

from __future__ import annotations

from typing import Any, Literal

from agent.compress.technique import Parameters, Step, Technique
from agent.compress.training import FINE_TUNING, Training


class Qat(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``weight_bits``: as many as the ``static_int8`` that follows uses (ONNX 7, TFLite 8)."""

    weight_bits: Literal[7, 8] = 7
    fine_tune: Training = FINE_TUNING


def apply(step: Step) -> dict[str, Any]:
    """Write the fine-tuned float model; put ``static_int8`` behind it."""
    from agent.compress.nets import fake
    from agent.compress.nets.files import load, save
    from agent.compress.nets.holding import drop_holds
    from agent.compress.nets.train import train

    asked: Qat = step.parameters
    model = load(step.source)
    undone = drop_holds(model)
    hooks = fake.begin(model, asked.weight_bits)
    tuned = train(model, step.samples, asked.fine_tune, step.seed)
    fake.end(model, hooks)
    save(model, step.target)
    return {"weight_bits_used": asked.weight_bits, "rules_undone": undone, **tuned}


TECHNIQUES = (
    Technique(
        name="qat_int8",
        summary="fine-tune under int8's rounding (put static_int8 behind it)",
        source="Jacob et al. 2018, arXiv:1712.05877; Bengio et al. 2013, arXiv:1308.3432",
        kinds=("torch",),
        parameters=Qat,
        apply=apply,
        libraries=("torch",),
    ),
)
