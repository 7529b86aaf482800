"""Accelerators of every kind through one layer: memory, number formats, graphs, and what each kind cannot do.

    cuda    NVIDIA, and AMD with PyTorch's ROCm build (which has the same names, and no NVML)
    xpu     Intel
    mps     Apple; operators that it lacks run on the CPU

Only NVIDIA's were seen on hardware. The others train in the plainest way: one kernel after another, without CUDA graphs
and without copies beside the computation; `mps` in float32.
"""

import re
from typing import Literal

import torch

NATIVE_TF32 = (8, 0)
"""Lowest compute capability (Ampere) of NVIDIA's GPUs that round to TF32."""
NATIVE_FP16 = (7, 0)
"""Lowest compute capability (Volta) of NVIDIA's GPUs that multiply float16 in hardware, faster than float32."""
BROKEN_FP16 = re.compile(r"\bGTX 16\d\d\b|\bT(?:400|500|550|600|1000|1200)\b|\bMX4\d\d\b")
"""NVIDIA's models of the Turing generation without tensor cores: their float16 convolutions give NaN."""
KINDS = ("cuda", "xpu", "mps")


def count(kind: str) -> int:
    """Number of devices of a kind that PyTorch can use."""
    match kind:
        case "cuda":
            return torch.cuda.device_count()
        case "xpu":
            return torch.xpu.device_count()
        case "mps":
            return int(torch.backends.mps.is_available())
    return 0


def found() -> list[torch.device]:
    """All accelerators that PyTorch can use, the best first."""
    return [torch.device(kind, index) for kind in KINDS for index in range(count(kind))]


def is_nvidia(device: torch.device) -> bool:
    """Whether a device is a GPU of NVIDIA, rather than one of AMD under the same name."""
    return device.type == "cuda" and torch.version.hip is None


def has_graphs(device: torch.device) -> bool:
    """Whether steps are captured as graphs."""
    return is_nvidia(device)


def native_format(device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """The fastest format that a device multiplies in hardware and trains in.

    On NVIDIA's that is float16, with loss scaling, as in RVC: its gradients are nearer to float32's than those of
    bfloat16, at the same speed (`benchmarks/RESULTS.md`). Others were not measured, and need no scaling in bfloat16.
    """
    if is_nvidia(device):
        is_native = torch.cuda.get_device_capability(device) >= NATIVE_FP16
        return "fp16" if is_native and not BROKEN_FP16.search(torch.cuda.get_device_name(device)) else "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "xpu":
        return "bf16" if torch.xpu.is_bf16_supported(including_emulation=False) else "fp32"
    return "fp32"


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64 at all."""
    return device.type != "mps"


def name_of(device: torch.device) -> str:
    """Name of the device's model."""
    match device.type:
        case "cuda":
            return torch.cuda.get_device_name(device)
        case "xpu":
            return str(torch.xpu.get_device_name(device))
        case "mps":
            return "Apple GPU"
    return "CPU"


def memory_of(device: torch.device) -> tuple[int, int]:
    """Memory that this process may still take, and all of the device's, in bytes; of the machine for a CPU.

    Apple's GPUs share the machine's.
    """
    match device.type:
        case "cuda":
            free, total = torch.cuda.mem_get_info(device)
            if _Share.num_jobs > 1:
                allowed = int(torch.cuda.get_per_process_memory_fraction(device) * total)
                free = min(free, max(0, allowed - torch.cuda.memory_reserved(device)))
        case "xpu":
            free, total = torch.xpu.mem_get_info(device)
        case "mps":
            total = torch.mps.recommended_max_memory()
            free = max(0, total - torch.mps.driver_allocated_memory())
        case _:
            import psutil  # which the models and their steps do without

            memory = psutil.virtual_memory()
            free, total = memory.available, memory.total
    return min(int(free), int(total) // _Share.num_jobs), int(total)


def set_current(device: torch.device) -> None:
    """Make a CUDA GPU the current one: libraries, and graphs at their capture, would otherwise use the first."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def synchronize(device: torch.device) -> None:
    """Wait for a device to finish its work; returns at once for a CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def empty_cache() -> None:
    """Return PyTorch's cached memory to the accelerator."""
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


CONTEXT_BYTES = 600 * 2**20
"""Memory of CUDA itself and of its libraries in a process, which PyTorch does not count."""


def limit_memory(device: torch.device, num_bytes: int) -> None:
    """Let this process take at most so much of a CUDA GPU's memory: more is an out-of-memory error."""
    if device.type == "cuda":
        total = memory_of(device)[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(0, num_bytes - CONTEXT_BYTES) / total), device)


class _Share:
    """The share of this process in its devices: an equal one of `num_jobs`, set by `share_memory`."""

    num_jobs = 1


def num_sharing() -> int:
    """Number of processes that share the devices of this one, itself included."""
    return _Share.num_jobs


def share_memory(device: torch.device, num_jobs: int) -> None:
    """Let this process take an equal share of a device's memory, beside others that do the same.

    A training that needs more is out of memory, and goes on with smaller micro-batches, as on a smaller device. The
    memory of a CPU, and of Intel's GPUs before PyTorch 2.9, is only counted so, and not limited.
    """
    _Share.num_jobs = num_jobs
    fraction = 1 / num_jobs
    match device.type:
        case "cuda":
            limit_memory(device, memory_of(device)[1] // num_jobs)
        case "xpu" if hasattr(torch.xpu, "set_per_process_memory_fraction"):
            torch.xpu.set_per_process_memory_fraction(fraction, device)
        case "mps":
            torch.mps.set_per_process_memory_fraction(fraction)


def reserved_bytes(device: torch.device) -> int:
    """Memory of a CUDA GPU that this process holds; 0 on other devices."""
    return torch.cuda.memory_reserved(device) + CONTEXT_BYTES if device.type == "cuda" else 0
