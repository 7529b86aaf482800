"""Out of memory, whichever library of the device reports it."""

import torch

_ALLOCATION_FAULTS = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "DefaultCPUAllocator")
"""How libraries below PyTorch say that they got no memory: as a RuntimeError among others."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that the device, or the machine, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(fault in str(error) for fault in _ALLOCATION_FAULTS)
