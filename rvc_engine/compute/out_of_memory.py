"""Recognition of out-of-memory errors, whichever library of the device raised them."""

import torch

_ALLOCATION_FAULTS = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator",
    "MPS backend out of memory",
)
"""Messages of libraries below PyTorch that could not allocate: they come as a plain RuntimeError."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device, or the machine, ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(fault in str(error) for fault in _ALLOCATION_FAULTS)
