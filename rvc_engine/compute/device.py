"""Devices by the names that the command line takes: auto, cpu, cuda:0, xpu:0, mps or several GPUs."""

import torch

from rvc_engine.compute import accelerators
from rvc_engine.errors import InvalidConfig
from rvc_engine.machine import Machine


def open_device(machine: Machine) -> torch.device:
    """Open the only device of a run and set PyTorch's thread count.

    Raises InvalidConfig when `machine` names several devices or one that is not available.
    """
    devices = open_devices(machine)
    if len(devices) > 1:
        raise InvalidConfig(
            f"{machine.device} names {len(devices)} devices, but only one can be used here; name one of them"
        )
    return devices[0]


def first_device(machine: Machine) -> torch.device:
    """Open the device of the stages that use only one, the first of those that train together. Raises InvalidConfig."""
    return open_devices(machine)[0]


def open_devices(machine: Machine) -> list[torch.device]:
    """Open the devices that train together, one for each process, and set PyTorch's thread count.

    Raises InvalidConfig when they do not fit together or one is not available.
    """
    if machine.num_threads is not None:
        torch.set_num_threads(machine.num_threads)
    devices = [_open(name.strip()) for name in machine.device.split(",")]
    if len(set(devices)) < len(devices):
        raise InvalidConfig(f"{machine.device} names the same device twice; name each GPU once")
    if len(devices) > 1 and any(device.type == "cpu" for device in devices):
        raise InvalidConfig(f"{machine.device} combines the CPU with GPUs; name only GPUs, or cpu with --processes")
    if len(devices) > 1 and any(device.type != "cuda" for device in devices):
        raise InvalidConfig(f"{machine.device} names several devices, which only CUDA can train on together; name one")
    if machine.num_processes > 1 and devices[0].type != "cpu":
        raise InvalidConfig(
            f"--processes {machine.num_processes} is for training on the CPU, and this run uses {devices[0]}; to use "
            "several GPUs, name them, for example cuda:0,cuda:1"
        )
    accelerators.set_current(devices[0])
    if machine.jobs_per_device > 1:
        for device in devices:
            accelerators.share_memory(device, machine.jobs_per_device)
    return devices * machine.num_processes


def _open(name: str) -> torch.device:
    if name == "auto":
        return next(iter(accelerators.found()), torch.device("cpu"))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidConfig(
            f"{name!r} is not the name of a device; use auto, cpu, cuda:<number>, xpu:<number> or mps"
        ) from error
    if device.type not in {"cpu", *accelerators.KINDS}:
        raise InvalidConfig(f"{name} is not supported; use auto, cpu, cuda:<number>, xpu:<number> or mps")
    if device.type == "cpu":
        return device
    available = accelerators.count(device.type)
    if (device.index or 0) >= available:
        raise InvalidConfig(
            f"{name} is not available: PyTorch finds {available} {device.type.upper()} devices here; use auto or cpu, "
            "or check the driver and `rvc-engine machine`"
        )
    return torch.device(device.type, device.index or 0)
