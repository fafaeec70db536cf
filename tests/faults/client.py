"""An application that uses a deployed model without pause: ``python client.py .../current`` follows the link.

Each request resolves ``current``, opens a release that it has not open yet from its ``deployment.json`` alone, and runs
one golden sample through it. A line on standard input is answered, after at least one more request, with one of JSON:
requests, those that failed, the last failure, and how many releases were used.
"""

from __future__ import annotations

import json
import os
import select
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

PAUSE_S = 0.003


def opened(release: Path) -> tuple[Any, str, np.ndarray, np.ndarray, float]:
    """Open a release as its document says; return the session, its input's name, samples, outputs and tolerance."""
    document = json.loads((release / "deployment.json").read_text())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = document["point"]["threads"]
    model = str(release / document["model"]["path"])
    session = onnxruntime.InferenceSession(model, options, providers=[document["point"]["provider"]])
    golden = np.load(release / document["golden"]["path"], allow_pickle=False)
    tolerance = float(golden["tolerance"][0])
    return session, document["inputs"][0]["name"], golden["input_0"], golden["output_0"], tolerance


def main(current: Path) -> None:
    used: dict[str, tuple[Any, str, np.ndarray, np.ndarray, float]] = {}
    requests = failed = 0
    last: str | None = None
    while True:
        requests += 1
        try:
            release = current.resolve(strict=True)
            if release.name not in used:
                used[release.name] = opened(release)
            session, name, inputs, outputs, tolerance = used[release.name]
            number = requests % len(inputs)
            got = session.run(None, {name: inputs[number]})[0]
            if not np.abs(got - outputs[number]).max() <= tolerance:
                raise ValueError("wrong output")
        except Exception as error:  # noqa: BLE001 - whatever it is, the request has failed
            failed += 1
            last = f"{type(error).__name__}: {error}"[:200]
        if select.select([0], [], [], PAUSE_S)[0]:
            if not os.read(0, 4096):
                return
            answer = {"requests": requests, "failed": failed, "last": last, "releases": len(used)}
            os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
