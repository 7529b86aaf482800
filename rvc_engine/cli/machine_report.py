"""Report of this machine's devices, precision and libraries, for `rvc-engine machine` and the server's `doctor`."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from rvc_engine.environment.graphics import graphics_cards
from rvc_engine.environment.torch_builds import gpu_advice

if TYPE_CHECKING:
    import torch

LIBRARIES = ("torch", "transformers", "faiss-cpu", "av", "soundfile", "soxr", "swift-f0", "pyworld-prebuilt")


def machine_report() -> dict[str, Any]:
    """The report as plain values, ready for JSON. Imports torch."""
    import av
    import torch

    from rvc_engine.compute.accelerators import found

    codecs = {name: ".".join(map(str, parts)) for name, parts in av.library_versions.items()}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "ffmpeg": codecs,
        "cuda_build": torch.version.cuda,
        "gpus": [f"{card.vendor}: {card.name}" for card in graphics_cards()],
        "advice": gpu_advice(),
        "devices": [_device(device) for device in found()],
        "cpu_threads": torch.get_num_threads(),
    }


def calibration_report(device: str, num_threads: int | None, jobs_per_device: int) -> dict[str, Any]:
    """Speed of a device as plain values, measured for some 20 s. Raises InvalidConfig when it is not available."""
    from rvc_engine.calibration.measurement import calibrate
    from rvc_engine.machine import Machine

    machine = Machine(device=device, num_threads=num_threads, jobs_per_device=jobs_per_device)
    return calibrate(machine).model_dump(mode="json")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device(device: "torch.device") -> dict[str, Any]:
    from rvc_engine.compute import accelerators

    free, total = accelerators.memory_of(device)
    capability = _capability(device)
    return {
        "name": str(device),
        "model": accelerators.name_of(device),
        "capability": capability and f"{capability[0]}.{capability[1]}",
        "memory_bytes": total,
        "memory_free_bytes": free,
        "precision": accelerators.native_format(device),
        "graphs": accelerators.has_graphs(device),
        "tf32": capability is not None and capability >= accelerators.NATIVE_TF32,
    }


def _capability(device: "torch.device") -> tuple[int, int] | None:
    """CUDA's compute capability of a GPU of NVIDIA; None for others."""
    import torch

    from rvc_engine.compute.accelerators import is_nvidia

    return torch.cuda.get_device_capability(device) if is_nvidia(device) else None
