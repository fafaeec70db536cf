"""Accelerators: what is soldered or plugged in, and, apart from that, what a proven engine can use.

Rules:
- Present is a node or a bus device of this board. Usable is an engine that was proven here with a provider or delegate
  for that kind; having a GPU says nothing about it.
- Parts of the SoC come from the profile; cards and sticks are looked for on any board.

Sources: PCI ids 10de NVIDIA and 1e60 Hailo, USB ids 1a6e:089a and 18d1:9302 (Edge TPU before and after its firmware is
loaded): pci.ids, usb.ids; Tegra GPU nodes: rbonghi/jetson_stats jtop/core/gpu.py.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agent.core.facts import Accelerator, EngineFacts
from agent.device.edge_tpu import find_edge_tpus
from agent.device.profiles import AcceleratorSpec
from agent.device.root import SysRoot

_TEGRA_GPUS = (
    "sys/devices/57000000.gpu",
    "sys/devices/17000000.gp10b",
    "sys/devices/17000000.gv11b",
    "sys/devices/17000000.ga10b",
    "sys/devices/platform/17000000.ga10b",
    "sys/devices/platform/bus@0/17000000.gpu",
    "sys/class/devfreq/gpu-gpc-0",
)
_EDGE_TPU_USB = frozenset({("1a6e", "089a"), ("18d1", "9302")})
_ARM_NN = ("armnn-GpuAcc",)
_PROVIDERS = (  # words in an accelerator's name, the providers and delegates that run on it, and how to get one
    (
        ("nvidia", "tegra", "geforce"),
        ("CUDAExecutionProvider", "TensorrtExecutionProvider"),
        "install NVIDIA's build of onnxruntime-gpu for this JetPack (PC: onnxruntime-gpu[cuda,cudnn]) for onnxruntime",
    ),
    (("edge tpu",), ("edgetpu",), "install Coral's libedgetpu1-std, and publish models compiled with edgetpu_compiler"),
    (("hailo",), ("HailoExecutionProvider",), "install Hailo's build of onnxruntime with its execution provider"),
    (
        ("rknpu", "rk3588 npu"),
        ("RknpuExecutionProvider", "teflon"),
        "on a mainline kernel install mesa-teflon-delegate; with Rockchip's own a build of onnxruntime for its NPU",
    ),
    (("mali",), _ARM_NN, "install Arm NN with its TFLite delegate and the GPU's OpenCL driver"),
)


def _from_profile(root: SysRoot, specs: Iterable[AcceleratorSpec]) -> list[Accelerator]:
    found: list[Accelerator] = []
    for spec in specs:
        nodes = [node for pattern in spec.nodes for node in root.glob(pattern)]
        if nodes or not spec.nodes:
            found.append(
                Accelerator(kind=spec.kind, name=spec.name, node=f"/{nodes[0]}" if nodes else None, note=spec.note)
            )
    return found


def _pci(root: SysRoot) -> list[Accelerator]:
    found: list[Accelerator] = []
    for path in root.glob("sys/bus/pci/devices/*"):
        vendor, kind = root.try_text(f"{path}/vendor"), root.try_text(f"{path}/class") or ""
        place = path.rsplit("/", 1)[-1]
        if vendor == "0x10de" and kind.startswith("0x03"):
            note = None if root.exists("proc/driver/nvidia/version") else "no NVIDIA driver is loaded"
            found.append(Accelerator(kind="gpu", name="NVIDIA GPU", node=place, note=note))
        elif vendor == "0x1e60":
            nodes = root.glob("dev/hailo*")
            note = None if nodes else "no Hailo driver is loaded"
            found.append(Accelerator(kind="npu", name="Hailo NPU", node=f"/{nodes[0]}" if nodes else place, note=note))
    return found


def _edge_tpus(root: SysRoot) -> list[Accelerator]:
    found = [Accelerator(kind="tpu", name="Edge TPU (PCIe)", node=f"/dev/{tpu.name}") for tpu in find_edge_tpus(root)]
    for path in root.glob("sys/bus/usb/devices/*"):
        if (root.try_text(f"{path}/idVendor"), root.try_text(f"{path}/idProduct")) in _EDGE_TPU_USB:
            found.append(Accelerator(kind="tpu", name="Edge TPU (USB)", node=f"usb {path.rsplit('/', 1)[-1]}"))
    return found


def _usable_by(accelerator: Accelerator, engines: Iterable[EngineFacts]) -> tuple[str, ...]:
    name = accelerator.name.lower()
    wanted = {
        provider for words, providers, _ in _PROVIDERS if any(word in name for word in words) for provider in providers
    }
    return tuple(
        f"{engine.name}/{provider}"
        for engine in engines
        if engine.proven
        for provider in engine.providers
        if provider in wanted
    )


def how_to_use(accelerator: Accelerator) -> str | None:
    """Say what to install for an accelerator that nothing here uses; None where no engine of boardfit's can use it."""
    name = accelerator.name.lower()
    return next((fix for words, _, fix in _PROVIDERS if any(word in name for word in words)), None)


def read_accelerators(
    root: SysRoot, specs: Iterable[AcceleratorSpec], engines: Iterable[EngineFacts] = ()
) -> tuple[Accelerator, ...]:
    """List what is present, each with the proven engines that can use it."""
    engines = tuple(engines)
    found = _from_profile(root, specs)
    if not any(accelerator.kind == "gpu" for accelerator in found):
        found += [
            Accelerator(kind="gpu", name="NVIDIA Tegra GPU", node=f"/{path}")
            for path in _TEGRA_GPUS
            if root.exists(path)
        ][:1]
    found += _pci(root) + _edge_tpus(root)
    return tuple(
        msgspec.structs.replace(accelerator, usable_by=_usable_by(accelerator, engines)) for accelerator in found
    )
