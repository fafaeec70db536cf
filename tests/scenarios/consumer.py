"""An application: opens the deployed model from ``deployment.json`` alone and compares with the golden outputs."""

import json
import sys
from pathlib import Path

import numpy as np

folder = Path(sys.argv[1])
deployment = json.loads((folder / "deployment.json").read_text())
point, model = deployment["point"], str(folder / deployment["model"]["path"])
golden = np.load(folder / deployment["golden"]["path"], allow_pickle=False)
inputs, outputs = golden["input_0"], golden["output_0"]
shape = [1 if size < 1 else size for size in deployment["inputs"][0]["shape"]]

if point["engine"] == "onnxruntime":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = point["threads"]
    session = onnxruntime.InferenceSession(model, options, providers=[point["provider"]])

    def infer(x):
        return session.run(None, {deployment["inputs"][0]["name"]: x})[0]

else:
    if point["engine"] == "ai-edge-litert":
        from ai_edge_litert.interpreter import Interpreter
    else:
        from tflite_runtime.interpreter import Interpreter
    interpreter = Interpreter(model, num_threads=point["threads"])
    interpreter.allocate_tensors()

    def infer(x):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


for x, expected in zip(inputs, outputs, strict=True):
    got = infer(x.reshape(shape).astype(deployment["inputs"][0]["dtype"]))
    error = np.abs(got.astype(np.float64).ravel() - expected.astype(np.float64).ravel()).max()
    limit = 1e-3 * max(1.0, np.abs(expected).max()) if expected.dtype.kind == "f" else 2
    if error > limit:
        sys.exit(f"differs by {error}, more than {limit}")
sys.stdout.write(json.dumps({"golden_samples": len(inputs), "candidate": deployment["candidate"]}))
