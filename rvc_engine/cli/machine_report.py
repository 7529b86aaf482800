"""Report of this machine's devices, precision and libraries, for `rvc-engine machine` and the server's `doctor`."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rvc_engine.environment.graphics import graphics_cards
from rvc_engine.environment.torch_builds import gpu_advice

LIBRARIES = ("torch", "transformers", "faiss-cpu", "av", "soundfile", "soxr", "swift-f0", "pyworld-prebuilt")


def machine_report() -> dict[str, Any]:
    """The report as plain values, ready for JSON. Imports torch."""
    import av
    import torch

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
        "devices": [_device(index) for index in range(torch.cuda.device_count())],
        "cpu_threads": torch.get_num_threads(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device(index: int) -> dict[str, Any]:
    import torch

    found = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    has_bf16 = found.major >= 8
    return {
        "name": f"cuda:{index}",
        "model": found.name,
        "capability": f"{found.major}.{found.minor}",
        "memory_bytes": total,
        "memory_free_bytes": free,
        "precision": "bf16" if has_bf16 else "fp16",
        "tf32": has_bf16,
    }
