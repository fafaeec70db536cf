"""What the zoo holds: the networks, and which artifacts are made of each. Pure, standard library only.

The points are chosen, not the full cross product: each family has two engines' formats and at least one int8 and one
float candidate, so that on any board some fit and some do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TASK = "digits"
PACK_NAME = "digits-test.npz"
LABELS = tuple(str(digit) for digit in range(10))
IMAGE_SIDE = 32  # pixels; chosen: the least at which the nets below can halve the image three times and keep 4x4
CALIBRATION_SAMPLES = 200
SEED = 2024

FLOAT32, FLOAT16, INT8 = "f32", "f16", "int8"
INT8_FULL_RANGE = "int8-full-range"  # ONNX only: all 8 bits of the weights are used; see quantize.onnx_int8
ONNX, TFLITE = "onnx", "tflite"


@dataclass(frozen=True)
class Network:
    """One trained network.

    ``settings`` are the keyword arguments of the factory in ``agent.compress.nets.families``; ``artifacts`` are the
    (format, precision) pairs made of its weights. ``epochs`` and ``learning_rate`` are chosen, never tuned on the
    test split.
    """

    name: str
    family: str
    settings: dict[str, Any]
    artifacts: tuple[tuple[str, str], ...]
    remark: str
    epochs: int = 25
    learning_rate: float = 4e-3


_ALL = tuple((format_, precision) for format_ in (ONNX, TFLITE) for precision in (FLOAT32, FLOAT16, INT8))

NETWORKS = (
    Network("mobilenet_v1-w025", "mobilenet_v1", {"width": 0.25}, _ALL, "MobileNetV1, width 0.25"),
    Network(
        "mobilenet_v1-w050",
        "mobilenet_v1",
        {"width": 0.5},
        ((ONNX, FLOAT32), (ONNX, INT8), (ONNX, INT8_FULL_RANGE), (TFLITE, INT8)),
        "MobileNetV1, width 0.5",
    ),
    Network(
        "mobilenet_v2-w025",
        "mobilenet_v2",
        {"width": 0.25},
        ((ONNX, FLOAT32), (ONNX, INT8), (TFLITE, FLOAT32), (TFLITE, INT8)),
        "MobileNetV2, width 0.25",
    ),
    Network(
        "mobilenet_v2-w050",
        "mobilenet_v2",
        {"width": 0.5},
        ((ONNX, FLOAT32), (ONNX, INT8), (TFLITE, FLOAT16)),
        "MobileNetV2, width 0.5",
    ),
    Network(
        "mobilenet_v3_small-w025",
        "mobilenet_v3_small",
        {"width": 0.25},
        ((ONNX, FLOAT32), (ONNX, INT8), (TFLITE, INT8)),
        "MobileNetV3-Small, width 0.25",
    ),
    Network(
        "mobilenet_v3_small-w050",
        "mobilenet_v3_small",
        {"width": 0.5},
        ((ONNX, FLOAT32), (ONNX, INT8), (TFLITE, INT8)),
        "MobileNetV3-Small, width 0.5",
    ),
    Network(
        "densenet_bc-k8",
        "densenet_bc",
        {"growth": 8, "blocks": (4, 4, 4), "compression": 0.5, "stem_stride": 2},
        ((ONNX, FLOAT32), (ONNX, INT8), (TFLITE, FLOAT16), (TFLITE, INT8)),
        "DenseNet-BC, growth 8, blocks of 4, 4 and 4 layers",
    ),
    Network(
        "densenet_bc-k16",
        "densenet_bc",
        {"growth": 16, "blocks": (6, 6, 6), "compression": 0.5, "stem_stride": 1},
        ((ONNX, FLOAT32),),
        "DenseNet-BC, growth 16, blocks of 6, 6 and 6 layers at full resolution: deliberately wrong for small boards",
        epochs=8,
        learning_rate=2e-3,
    ),
)


@dataclass(frozen=True)
class Entry:
    """One candidate of the zoo: an artifact of a network."""

    network: Network
    format: str
    precision: str

    @property
    def name(self) -> str:
        """The candidate's name, also the stem of its files."""
        return f"{self.network.name}-{self.format}-{self.precision}"

    @property
    def file_name(self) -> str:
        """The model file's name."""
        return f"{self.name}.{self.format}"

    @property
    def parent(self) -> str | None:
        """The candidate this one was compressed from: the network's float32 ONNX; None for a float32 one."""
        return None if self.precision == FLOAT32 else f"{self.network.name}-{ONNX}-{FLOAT32}"


def entries(network: Network) -> tuple[Entry, ...]:
    """Return the candidates made of one network, in the order they are listed."""
    return tuple(Entry(network, format_, precision) for format_, precision in network.artifacts)
