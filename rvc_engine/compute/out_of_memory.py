"""Recognition of out-of-memory errors, whichever library of the device raised them."""

import torch

_ALLOCATION_FAULTS = (
    "out of memory",  # "CUDA error: out of memory", NCCL's "Cuda failure 2 'out of memory'", HIP, XPU and MPS
    "hipErrorOutOfMemory",
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # no memory for the handle
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "DEVICE_ALLOCATION_FAILED",  # CUDNN_STATUS_INTERNAL_ERROR_..., since cuDNN 9
    "HOST_ALLOCATION_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",  # no algorithm for the memory that is left
    "unable to find an engine to execute this computation",
    "CUFFT_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUSPARSE_STATUS_ALLOC_FAILED",
    "miopenStatusAllocFailed",
    "Failed to CUDA malloc",  # NCCL
    "Failed to CUDA host alloc",
)
"""Messages of libraries below PyTorch that could not allocate: they come as a plain RuntimeError."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device, or the machine, ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(fault in str(error) for fault in _ALLOCATION_FAULTS)
