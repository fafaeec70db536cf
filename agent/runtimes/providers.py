"""What is known of execution providers and delegates beyond the engines' own: one row each. Imports no runtime.

A row says nothing about this board: which of them are here, and which run, is ``prove``'s to find out.

Rules:
- One that computes on the processor's cores is measured at every thread count and confined as the processor's own.
- One that takes only models made for it (compiled, or quantized) cannot show itself with the tiny model: it is proven
  to open its device, and each model it is offered decides for itself, at load and by its golden outputs.
- Drivers are the libraries, mapped by a process that ran on it, with whose versions its speed changes.

Sources: onnxruntime.ai/docs/execution-providers (names, options); LiteRT's external delegate interface
(tensorflow/lite/delegates/external); armnn delegate/src/armnn_external_delegate.cpp (options); google-coral/libedgetpu;
Mesa docs/teflon.rst.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_THREADS = "{threads}"
_BUILT_IN = (
    "it is in no wheel for Linux: build onnxruntime with {flag} and install that wheel in this environment, or leave it"
)


class ProviderRow(NamedTuple):
    """One provider. ``options`` of its own, ``{threads}`` filled in. ``library``: an external delegate's, by soname."""

    name: str
    library: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    on_processor: bool = False
    operator: str | None = None  # takes only models that hold this operator, which nothing else runs
    quantized_only: bool = False
    cache_options: tuple[tuple[str, str], ...] = ()  # that let it keep what it built in the folder ``{folder}``
    drivers: tuple[str, ...] = ()
    fix: str = ""

    @property
    def is_choosy(self) -> bool:
        """Whether the tiny model is not for it."""
        return self.operator is not None or self.quantized_only

    def options_for(self, threads: int, folder: Path | None = None) -> dict[str, str]:
        """Return its options at a thread count; ``folder``: where it keeps what it built."""
        given = self.options if folder is None else (*self.options, *self.cache_options)
        return {name: text.format(threads=threads, folder=folder) for name, text in given}


_CUDA = ("libcuda.so", "libcudart.so", "libcublas.so", "libcublasLt.so", "libcudnn.so", "libcudnn_graph.so")
PROVIDERS: tuple[ProviderRow, ...] = (
    ProviderRow(
        "XnnpackExecutionProvider",
        options=(("intra_op_num_threads", _THREADS),),
        on_processor=True,
        fix=_BUILT_IN.format(flag="--use_xnnpack"),
    ),
    ProviderRow(
        "ACLExecutionProvider",
        on_processor=True,
        drivers=("libarm_compute.so",),
        fix=_BUILT_IN.format(flag="--use_acl"),
    ),
    ProviderRow("DnnlExecutionProvider", on_processor=True, fix=_BUILT_IN.format(flag="--use_dnnl")),
    ProviderRow(
        "OpenVINOExecutionProvider",
        cache_options=(("cache_dir", "{folder}"),),
        drivers=("libopenvino.so", "libze_intel_gpu.so", "libze_intel_npu.so"),
        fix="install onnxruntime-openvino in the place of onnxruntime",
    ),
    ProviderRow(
        "CUDAExecutionProvider",
        drivers=_CUDA,
        fix="on a PC install onnxruntime-gpu[cuda,cudnn] in the place of onnxruntime, on a Jetson NVIDIA's build of it "
        "for this JetPack",
    ),
    ProviderRow(
        "TensorrtExecutionProvider",
        cache_options=(
            ("trt_engine_cache_enable", "1"),
            ("trt_engine_cache_path", "{folder}"),
            ("trt_timing_cache_enable", "1"),
            ("trt_timing_cache_path", "{folder}"),
        ),
        drivers=(*_CUDA, "libnvinfer.so", "libnvinfer_builder_resource.so"),
        fix="install TensorRT as this onnxruntime wants it (a Jetson has it with its JetPack: package nvidia-tensorrt)",
    ),
    ProviderRow(
        "edgetpu",
        library=("libedgetpu.so.1",),
        operator="edgetpu-custom-op",
        drivers=("libedgetpu.so",),
        fix="install libedgetpu1-std, and let the agent's user open the device (group apex for /dev/apex_0, "
        "plugdev for a USB stick)",
    ),
    ProviderRow(
        "armnn-CpuAcc",
        library=("libarmnnDelegate.so",),
        options=(("backends", "CpuAcc"), ("number-of-threads", _THREADS)),
        on_processor=True,
        drivers=("libarmnn.so", "libarmnnDelegate.so"),
        fix="install Arm NN with its TFLite delegate for this system's release",
    ),
    ProviderRow(
        "armnn-GpuAcc",
        library=("libarmnnDelegate.so",),
        options=(("backends", "GpuAcc"),),
        drivers=("libarmnn.so", "libarmnnDelegate.so", "libmali.so", "libOpenCL.so"),
        fix="install Arm NN with its TFLite delegate and the Mali GPU's OpenCL driver",
    ),
    ProviderRow(
        "teflon",
        library=("libteflon.so",),
        quantized_only=True,
        drivers=("libteflon.so",),
        fix="install mesa-teflon-delegate, and a kernel that drives the NPU (/dev/accel/accel0)",
    ),
)
_ROWS = {row.name: row for row in PROVIDERS}


def provider_row(name: str) -> ProviderRow:
    """Return what is known of a provider; an empty row where nothing is."""
    return _ROWS.get(name) or ProviderRow(name)


def delegates() -> tuple[tuple[ProviderRow, Path], ...]:
    """Return the external delegates whose library is here, with the file; found is not proven."""
    found = ((row, find_library(row.library)) for row in PROVIDERS if row.library)
    return tuple((row, path) for row, path in found if path is not None)


def find_library(names: Iterable[str]) -> Path | None:
    """Return the first library of these sonames where the loader looks: LD_LIBRARY_PATH, then the system's folders."""
    import sysconfig  # a quarter of a megabyte, which no worker on the processor needs

    triplet = sysconfig.get_config_var("MULTIARCH") or ""
    given = [Path(part) for part in os.environ.get("LD_LIBRARY_PATH", "").split(":") if part.startswith("/")]
    system = [Path(base) / triplet for base in ("/usr/local/lib", "/usr/lib", "/lib")]
    folders = [*given, *system, *(Path(base) for base in ("/usr/local/lib", "/usr/lib", "/lib", "/usr/lib64"))]
    for name in names:
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
    return None


def drivers_mapped(row: ProviderRow, maps: str) -> tuple[str, ...]:
    """Return the driver libraries of a provider among those a process has mapped, each with its version and size.

    The file's own name carries the version where its maker gave it one (libcuda.so.550.54.15); the size tells builds of
    one name apart. Args: maps: the text of /proc/self/maps. Source: proc(5).
    """
    found: set[str] = set()
    for path in sorted(set(re.findall(r"(/\S+\.so[\w.]*)", maps))):
        name = path.rpartition("/")[2]
        if any(name == wanted or name.startswith(f"{wanted}.") for wanted in row.drivers):
            try:
                found.add(f"{name} ({Path(path).stat().st_size} bytes)")
            except OSError:
                found.add(name)
    return tuple(sorted(found))
