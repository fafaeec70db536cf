"""Inference engines behind one set of verbs: a table of names, and one file per engine family.

Rules:
- ``table`` and ``prove`` import no runtime: ``onnx`` and ``tflite`` are imported in a measuring child only.
- A provider is asked for by name and checked after load; nothing falls back in silence.
"""
