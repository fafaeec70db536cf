"""The README's table of candidates, written from ``results.json`` and never by hand. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BEGIN = "<!-- candidates: written by `python -m benchmarks.zoo`; do not edit -->"
END = "<!-- end of candidates -->"
_ENGINES = ("onnxruntime", "ai-edge-litert", "tflite-runtime")


def sent_bytes(candidate: Mapping[str, Any]) -> int:
    """Return the size of what a board fetches: the packed file where there is one."""
    return candidate.get("packed_bytes") or candidate["size_bytes"]


def _accuracy(judged: Mapping[str, Any] | None) -> str:
    if judged is None:
        return "–"
    found = judged["accuracy"]
    return f"{100 * found['top1']['value']:.1f} %" if found else judged["reason"]


def _step(step: Mapping[str, Any]) -> str:
    """Return a technique and those of its parameters that are a word or a number."""
    plain = (str, int, float)
    given = [f"{key} {value}" for key, value in step["parameters"].items()
             if isinstance(value, plain) and not isinstance(value, bool)]  # fmt: skip
    return step["technique"].replace("_", " ") + (f" ({', '.join(given)})" if given else "")


def render_table(results: Mapping[str, Any]) -> str:
    """Return the table in Markdown: bytes and top-1 accuracy per engine, with n and the tools' versions below."""
    tools, candidates = results["tools"], results["candidates"]
    lines = [
        "| candidate | made by | parameters | bytes | unpacked | "
        + " | ".join(f"{name} {tools[name]}" for name in _ENGINES)
        + " |",
        "|---|---|---:|---:|---:|" + "---:|" * len(_ENGINES),
    ]
    for one in candidates:
        judged = {found["engine"]: found for found in one["judged"]}
        cells = [
            f"`{one['name']}`",
            ", ".join(map(_step, one["chain"])) or "training",
            "–" if one["parameters"] is None else f"{one['parameters']:,}",
            f"{sent_bytes(one):,}",
            f"{one['size_bytes']:,}" if one.get("packed_bytes") else "",
            *(_accuracy(judged.get(engine)) for engine in _ENGINES),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    total = sum(map(sent_bytes, candidates))
    (count,) = {found["accuracy"]["n"] for one in candidates for found in one["judged"] if found["accuracy"]}
    others = ", ".join(f"{name} {version}" for name, version in tools.items() if name not in _ENGINES)
    footer = (
        f"{len(candidates)} candidates, {total:,} bytes together. Top-1 accuracy, n = {count}; one image is "
        f"{100 / count:.2f} points. Made with {others}."
    )
    return "\n".join([*lines, "", footer])


def write_table(readme: Path, results: Mapping[str, Any]) -> None:
    """Replace what stands between the two markers of the README."""
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(f"{before}{BEGIN}\n{render_table(results)}\n{END}{after}", encoding="utf-8")


def read_results(path: Path) -> dict[str, Any]:
    """Return the committed results."""
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results
