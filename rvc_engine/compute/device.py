"""From the word for a device to the device itself."""

import torch

from rvc_engine.errors import InvalidConfig
from rvc_engine.machine import Machine


def open_device(machine: Machine) -> torch.device:
    """The one device of a run, with the thread count set. Raises InvalidConfig for one that is not there."""
    devices = open_devices(machine)
    if len(devices) > 1:
        raise InvalidConfig(f"this takes one device and {machine.device} names {len(devices)}; choose one of them")
    return devices[0]


def open_devices(machine: Machine) -> list[torch.device]:
    """The devices that train together, one for each process, with the thread count set. Raises InvalidConfig."""
    if machine.num_threads is not None:
        torch.set_num_threads(machine.num_threads)
    devices = [_open(word.strip()) for word in machine.device.split(",")]
    if len(set(devices)) < len(devices):
        raise InvalidConfig(f"{machine.device} names a device twice; name each GPU once")
    if len(devices) > 1 and any(device.type == "cpu" for device in devices):
        raise InvalidConfig(f"{machine.device} mixes the CPU with others; name GPUs only, or the CPU with --processes")
    if machine.num_processes > 1 and devices[0].type != "cpu":
        raise InvalidConfig(
            f"--processes {machine.num_processes} is for the CPU, and this run is on {devices[0]}; name several GPUs "
            "instead, such as cuda:0,cuda:1"
        )
    return devices * machine.num_processes


def _open(word: str) -> torch.device:
    if word == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(word)
    except RuntimeError as error:
        raise InvalidConfig(f"no device is called {word!r}; use auto, cpu or cuda:<number>") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidConfig(
            f"{word} is not there: this machine shows {torch.cuda.device_count()} CUDA devices; "
            "use auto or cpu, or look at the driver with nvidia-smi"
        )
    if device.type not in {"cpu", "cuda"}:
        raise InvalidConfig(f"{word} is no device this engine trains on; use auto, cpu or cuda:<number>")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device
