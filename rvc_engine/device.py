"""From the word for a device to the device itself."""

import torch

from rvc_engine.errors import InvalidConfig
from rvc_engine.machine import Machine


def open_device(machine: Machine) -> torch.device:
    """The device of a run, with the thread count set. Raises InvalidConfig for one that is not there."""
    if machine.num_threads is not None:
        torch.set_num_threads(machine.num_threads)
    if machine.device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(machine.device)
    except RuntimeError as error:
        raise InvalidConfig(f"no device is called {machine.device!r}; use auto, cpu or cuda:<number>") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidConfig(
            f"{machine.device} is not there: this machine shows {torch.cuda.device_count()} CUDA devices; "
            "use auto or cpu, or look at the driver with nvidia-smi"
        )
    if device.type not in {"cpu", "cuda"}:
        raise InvalidConfig(f"{machine.device} is no device this engine trains on; use auto, cpu or cuda:<number>")
    return device
