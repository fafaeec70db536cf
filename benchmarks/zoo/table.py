"""The README's table of candidates, written from ``results.json`` and never by hand. Standard library only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BEGIN = "<!-- candidates: written by `python -m benchmarks.zoo`; do not edit -->"
END = "<!-- end of candidates -->"
_ENGINES = ("onnxruntime", "ai-edge-litert", "tflite-runtime")


def _accuracy(engines: dict[str, Any], engine: str) -> str:
    if engine not in engines:
        return "–"
    result = engines[engine]
    return result["error"] if "error" in result else f"{100 * result['top1']:.1f} %"


def render_table(results: dict[str, Any]) -> str:
    """Return the table in Markdown: bytes and top-1 accuracy per engine, with n and the tools' versions below."""
    tools, candidates = results["tools"], results["candidates"]
    lines = [
        "| candidate | network | parameters | bytes | "
        + " | ".join(f"{name} {tools[name]}" for name in _ENGINES)
        + " |",
        "|---|---|---:|---:|" + "---:|" * len(_ENGINES),
    ]
    for name, entry in candidates.items():
        cells = [f"`{name}`", entry["network"], f"{entry['parameters']:,}", f"{entry['size_bytes']:,}"]
        cells += [_accuracy(entry["engines"], engine) for engine in _ENGINES]
        lines.append("| " + " | ".join(cells) + " |")
    total = sum(entry["size_bytes"] for entry in candidates.values())
    counts = {result["n"] for entry in candidates.values() for result in entry["engines"].values() if "n" in result}
    others = ", ".join(f"{name} {version}" for name, version in tools.items() if name not in _ENGINES)
    sizes = "/".join(str(count) for count in sorted(counts))
    footer = (
        f"{len(candidates)} candidates, {total:,} bytes together. Top-1 accuracy, n = {sizes}; one image is "
        f"{100 / min(counts):.2f} points. Made with {others}."
    )
    return "\n".join([*lines, "", footer])


def write_table(readme: Path, results_path: Path) -> None:
    """Replace what stands between the two markers of the README."""
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    table = render_table(json.loads(results_path.read_text(encoding="utf-8")))
    readme.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
