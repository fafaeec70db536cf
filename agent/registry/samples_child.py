"""In the confined child: makes or checks golden data by running the model (see ``agent.core.golden``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from agent.core import golden
from agent.errors import ModelError
from agent.registry.inspect_child import first_sentence, open_tflite
from agent.registry.pack_child import check_labels, check_steps, fits, integer_limits, load_arrays, read_pack

_RANDOM_SEED = 20260101  # fixed: the same model gives the same golden inputs everywhere
_Run = Callable[[list[Any]], list[Any]]


def prepare(request: dict[str, Any]) -> dict[str, Any]:
    """Check the evaluation pack and the golden file of a request; make a golden file where none is given.

    Args: request: ``model`` (None: it cannot be run, and golden data is given),
        ``facts`` (as inspection gave them), ``evaluation`` and ``golden`` (file names or None),
        ``preprocessing``, ``label_offset``, ``label_count`` (or None), ``samples``, ``out`` (the golden file to make).
    Returns: ``engine`` (None where nothing was run), ``golden_samples``, ``evaluation_samples`` (or None).
    Raises: ModelError.
    """
    facts = request["facts"]
    steps = request["preprocessing"]
    if steps:
        check_steps(steps)
    pack = None
    if request["evaluation"] is not None:
        pack = read_pack(Path(request["evaluation"]), facts, steps)
        classes = facts["outputs"][0]["shape"][-1] if facts["outputs"][0]["shape"] else -1
        check_labels(pack[1], classes, request["label_offset"], request["label_count"])
    engine: str | None = None
    runs: list[_Run] = []
    if request["model"] is not None:
        engine, runs = open_engines(Path(request["model"]), facts["format"])
    if request["golden"] is not None or engine is None:
        count = check_golden(Path(request["golden"]), facts, runs[0] if runs else None)
    else:
        samples = request["samples"]
        inputs = [pack[0][:samples]] if pack is not None else random_inputs(facts["inputs"], samples)
        count = make_golden(Path(request["out"]), inputs, facts, runs, engine)
    return {
        "engine": engine,
        "golden_samples": count,
        "evaluation_samples": None if pack is None else len(pack[1]),
    }


def random_inputs(specs: list[dict[str, Any]], samples: int) -> list[Any]:
    """Make seeded inputs, [samples, *shape] each.

    Floats lie in 0..1, integers of 8 and 16 bits cover their range, others are 0 or 1. Raises: ModelError.
    """
    generator = np.random.default_rng(_RANDOM_SEED)
    made = []
    for spec in specs:
        if -1 in spec["shape"][1:]:
            raise ModelError(
                f"input {spec['name']!r} has a dynamic shape {spec['shape']}",
                fix="give an evaluation pack or golden data, or fix the shape at export",
            )
        size = (samples, *(1 if want == -1 else want for want in spec["shape"]))
        dtype = np.dtype(spec["dtype"])
        if dtype.kind == "f":
            made.append(generator.random(size, dtype=np.float32).astype(dtype))
        elif dtype.kind in "iu" and dtype.itemsize <= 2:
            limits = integer_limits(dtype)
            made.append(generator.integers(limits.min, limits.max, size, dtype=dtype, endpoint=True))
        elif dtype.kind in "iub":
            made.append(generator.integers(0, 2, size).astype(dtype))
        else:
            raise ModelError(f"input {spec['name']!r} is {dtype}", fix="give golden data made by hand")
    return made


def open_engines(path: Path, model_format: str) -> tuple[str, list[_Run]]:
    """Open the model with every set of kernels of the reference engine, the usual one first. Raises: ModelError."""
    if model_format == "onnx":
        return _open_onnx(path)
    interpreters = [
        open_tflite(path, resolver) for resolver in ("AUTO", "BUILTIN_REF", "BUILTIN_WITHOUT_DEFAULT_DELEGATES")
    ]
    return interpreters[0][1], [_tflite_run(interpreter) for interpreter, _ in interpreters]


def _open_onnx(path: Path) -> tuple[str, list[_Run]]:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    # Its exceptions share no base class of their own.
    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    faults: tuple[type[Exception], ...] = (RuntimeError, ValueError, *own)
    onnxruntime.set_default_logger_severity(3)
    runs = []
    for level in ("ORT_ENABLE_ALL", "ORT_DISABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except faults as error:
            raise ModelError(
                f"ONNX Runtime refuses the file: {first_sentence(error)}", fix="export it again"
            ) from error
        runs.append(_onnx_run(session, faults))
    return f"onnxruntime {onnxruntime.__version__}", runs


def _onnx_run(session: Any, faults: tuple[type[Exception], ...]) -> _Run:
    names = [value.name for value in session.get_inputs()]

    def run(inputs: list[Any]) -> list[Any]:
        try:
            return [np.asarray(output) for output in session.run(None, dict(zip(names, inputs, strict=True)))]
        except faults as error:
            raise ModelError(
                f"ONNX Runtime cannot run the model: {first_sentence(error)}", fix="export it again"
            ) from error

    return run


def _tflite_run(interpreter: Any) -> _Run:
    def run(inputs: list[Any]) -> list[Any]:
        try:
            details = interpreter.get_input_details()
            for detail, value in zip(details, inputs, strict=True):
                if tuple(detail["shape"]) != value.shape:
                    interpreter.resize_tensor_input(detail["index"], value.shape, strict=False)
            interpreter.allocate_tensors()
            interpreter.reset_all_variables()  # samples are independent: an LSTM's state must not carry over
            for detail, value in zip(details, inputs, strict=True):
                interpreter.set_tensor(detail["index"], value)
            interpreter.invoke()
            return [interpreter.get_tensor(detail["index"]).copy() for detail in interpreter.get_output_details()]
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                f"the TFLite runtime cannot run the model: {first_sentence(error)}", fix="convert it again"
            ) from error

    return run


def run_all(run: _Run, inputs: list[Any]) -> list[Any]:
    """Run every sample on its own. Returns: each output stacked, [K, *shape]. Raises: ModelError."""
    rows = [run([array[index] for array in inputs]) for index in range(len(inputs[0]))]
    try:
        return [np.stack(column) for column in zip(*rows, strict=True)]
    except ValueError as error:
        raise ModelError(
            "the model's outputs change their shape from sample to sample", fix="give golden data"
        ) from error


def make_golden(path: Path, inputs: list[Any], facts: dict[str, Any], runs: list[_Run], engine: str) -> int:
    """Run the model and write its golden file. Returns: the number of samples in it. Raises: ModelError."""
    outputs = run_all(runs[0], inputs)
    others = [run_all(run, inputs) for run in runs[1:]]
    tolerances = []
    for index, output in enumerate(outputs):
        if output.dtype.kind not in "fiub":
            raise ModelError(f"output {index} is {output.dtype}, not a number", fix="give golden data made by hand")
        values = output.astype(np.float64)
        if not np.isfinite(values).all():
            raise ModelError(f"output {index} is NaN or infinite for ordinary inputs", fix="check the export")
        spread = max(
            (float(np.abs(other[index].astype(np.float64) - values).max(initial=0.0)) for other in others), default=0.0
        )
        tolerances.append(
            golden.default_tolerance(
                output.dtype.name,
                float(values.min()) if values.size else 0.0,
                float(values.max()) if values.size else 0.0,
                quantized=facts["quantized"],
                spread=spread,
            )
        )
    count = len(inputs[0])
    per_sample = sum(array[:1].nbytes for array in (*inputs, *outputs))
    count = min(count, max(1, golden.MAX_BYTES // max(per_sample, 1)))
    arrays: dict[str, Any] = {
        golden.SCHEMA_ARRAY: np.array(golden.SCHEMA),
        golden.ENGINE_ARRAY: np.array(engine),
        golden.TOLERANCE_ARRAY: np.array(tolerances, dtype=np.float64),
    }
    arrays.update({golden.input_array(index): array[:count] for index, array in enumerate(inputs)})
    arrays.update({golden.output_array(index): array[:count] for index, array in enumerate(outputs)})
    np.savez_compressed(path, **arrays)
    if path.stat().st_size > golden.MAX_BYTES:
        raise ModelError(
            f"golden data would be larger than {golden.MAX_BYTES} bytes", fix="give golden data of one sample"
        )
    return int(count)


def check_golden(path: Path, facts: dict[str, Any], run: _Run | None) -> int:
    """Check a golden file given by the publisher, by running the model; without, by what its file says of its tensors.

    Returns: its number of samples. Raises: ModelError.
    """
    arrays = load_arrays(path, "golden file")
    fix = "see agent/core/golden.py for the arrays, or let `boardfit registry add` make the file"
    n_inputs, n_outputs = len(facts["inputs"]), len(facts["outputs"])
    names = [golden.input_array(index) for index in range(n_inputs)]
    out_names = [golden.output_array(index) for index in range(n_outputs)]
    missing = [
        name
        for name in (*names, *out_names, golden.ENGINE_ARRAY, golden.TOLERANCE_ARRAY, golden.SCHEMA_ARRAY)
        if name not in arrays
    ]
    if missing:
        raise ModelError(f"the golden file has no array {', '.join(missing)}", fix=fix)
    if str(arrays[golden.SCHEMA_ARRAY]) != golden.SCHEMA:
        raise ModelError(
            f"the golden file's schema is {arrays[golden.SCHEMA_ARRAY]!s:.60}, not {golden.SCHEMA}", fix=fix
        )
    if arrays[golden.ENGINE_ARRAY].dtype.kind != "U":
        raise ModelError("the golden file's engine is not text", fix=fix)
    tolerance = arrays[golden.TOLERANCE_ARRAY]
    if (
        tolerance.dtype != np.float64
        or tolerance.shape != (n_outputs,)
        or not (np.isfinite(tolerance) & (tolerance >= 0)).all()
    ):
        raise ModelError(f"the golden file's tolerance is not float64 [{n_outputs}], each 0 or more", fix=fix)
    count = len(arrays[names[0]]) if names and arrays[names[0]].ndim else 0
    for name, spec in zip(names, facts["inputs"], strict=True):
        array = arrays[name]
        if (
            array.dtype != np.dtype(spec["dtype"])
            or not fits(array.shape[1:], spec["shape"])
            or len(array) != count
            or count == 0
        ):
            raise ModelError(
                f"{name} is {array.dtype} {list(array.shape)}, not {spec['dtype']} [K, *{spec['shape']}]", fix=fix
            )
    if run is None:
        for name, spec in zip(out_names, facts["outputs"], strict=True):
            array = arrays[name]
            if (
                array.dtype != np.dtype(spec["dtype"])
                or array.shape[:1] != (count,)
                or not fits(array.shape[1:], spec["shape"])
            ):
                text = f"{name} is {array.dtype} {list(array.shape)}, not {spec['dtype']} [{count}, *{spec['shape']}]"
                raise ModelError(text, fix=fix)
        return count
    outputs = run_all(run, [arrays[name] for name in names])
    for index, (name, output) in enumerate(zip(out_names, outputs, strict=True)):
        given = arrays[name]
        if given.dtype != output.dtype or given.shape != output.shape:
            raise ModelError(
                f"{name} is {given.dtype} {list(given.shape)}, the model gives {output.dtype} {list(output.shape)}",
                fix=fix,
            )
        error = float(np.abs(given.astype(np.float64) - output.astype(np.float64)).max(initial=0.0))
        if not error <= tolerance[index]:
            raise ModelError(
                f"the model's {name} differs from the golden file by {error:g}, more than {tolerance[index]:g}",
                fix="check that the golden data belongs to this very model",
            )
    return count
