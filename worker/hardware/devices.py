"""Binding of a worker's engines to a device, and the device's name."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

from rvc_engine.child_processes import python_command
from rvc_engine.environment.graphics import graphics_cards
from rvc_engine.environment.torch_builds import installed_torch
from worker.gateway.errors import SettingsRefused

CUDA = "cuda"
AUTO = "auto"
OTHER_GPUS = ("xpu", "mps")
"""GPUs of Intel and Apple, which the engine counts as the worker does."""
_SMI_SECONDS = 10


def engine_device(device: str) -> str:
    """Device option of the engine, which sees only the worker's GPUs and counts them from 0."""
    if not device.startswith(CUDA):
        return device
    return ",".join(f"cuda:{index}" for index in range(len(_numbers(device))))


def device_environment(device: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that hide all GPUs but the worker's from the engine; none for `auto`.

    Respects CUDA_VISIBLE_DEVICES of the worker itself: `cuda:1` is the second of its GPUs.
    """
    if device == AUTO or device.startswith(OTHER_GPUS):
        return {}
    if device == "cpu":
        return {"CUDA_VISIBLE_DEVICES": ""}
    visible = [gpu.strip() for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu.strip()]
    gpus = [visible[n] if n < len(visible) else str(n) for n in _numbers(device)]
    # In the order of the bus, as in nvidia-smi: CUDA's own order is by speed, so the tools would disagree.
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def check_gpus(device: str, environment: Mapping[str, str]) -> None:
    """Raise SettingsRefused when torch, in an engine's `environment`, does not find the GPUs of `device`."""
    if not device.startswith((CUDA, *OTHER_GPUS)):
        return
    command = python_command("rvc_engine", "machine")
    seen = dict(environment) | device_environment(device, environment)
    done = subprocess.run(command, env=seen, capture_output=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise SettingsRefused(f"the engine does not start here: {reason[-1] if reason else 'it printed nothing'}")
    kind = device[:4] if device.startswith(CUDA) else device[:3]
    found = sum(each["name"].startswith(kind) for each in json.loads(done.stdout)["devices"])
    needed = len(_numbers(device)) if kind == CUDA else _numbers(device)[0] + 1
    if found < needed:
        raise SettingsRefused(
            f"RVC_TRAIN_DEVICE={device} asks for {needed} GPU(s), and PyTorch finds {found} of them; "
            "check the driver with nvidia-smi (in a container: the NVIDIA Container Toolkit), or set "
            "RVC_TRAIN_DEVICE=cpu"
        )


def visible_gpus(device: str, environment: Mapping[str, str]) -> list[str]:
    """The worker's GPUs by index or UUID; for `auto`, the first GPU."""
    shown = device_environment("cuda:0" if device == AUTO else device, environment).get("CUDA_VISIBLE_DEVICES", "")
    return shown.split(",") if shown or device == "cpu" else []


def device_name(device: str, environment: Mapping[str, str]) -> str:
    """Name of the device for display and estimates, such as `NVIDIA H100 80GB HBM3`."""
    if device != "cpu":
        name = next(map(_gpu_name, visible_gpus(device, environment)), None) or _other_gpu_name(device)
        if name is not None:
            count = len(_numbers(device)) if device.startswith(CUDA) else 1
            return name if count == 1 else f"{count} x {name}"
        if device != AUTO:
            return device
    return f"{_cpu_name()} ({os.cpu_count()} cores)"


def gpu_resources(device: str, environment: Mapping[str, str]) -> tuple[int, int | None]:
    """Number of GPUs that engines train on, and the memory of the smallest; None where that is unknown."""
    if device == "cpu":
        return 0, None
    torch = installed_torch()
    if device.startswith(CUDA) or (device == AUTO and torch is not None and "NVIDIA" in torch.supports):
        queried = [_query_gpu(gpu, "memory.total,nounits") for gpu in visible_gpus(device, environment)]
        mebibytes = [int(each) for each in queried if each is not None and each.isdecimal()]
        if device != AUTO or mebibytes:
            return len(queried), min(mebibytes) * 2**20 if mebibytes else None
    is_there = device != AUTO or _other_gpu_name(device) is not None
    return int(is_there), None


def _numbers(device: str) -> list[int]:
    """Numbers of the GPUs in `cuda`, `cuda:1`, or `cuda:0+cuda:1`."""
    return [int(gpu.partition(":")[2] or 0) for gpu in device.split("+")]


def _other_gpu_name(device: str) -> str | None:
    """Name of a GPU that is not NVIDIA's and that the installed PyTorch can use; None without one."""
    torch = installed_torch()
    usable = frozenset[str]() if torch is None else torch.supports - {"NVIDIA"}
    wanted = {"xpu": {"Intel"}, "mps": {"Apple"}, CUDA: {"AMD"}}.get(device.partition(":")[0], usable)
    return next((card.name for card in graphics_cards() if card.vendor in wanted & usable), None)


def _gpu_name(which: str) -> str | None:
    """Name of a GPU from its driver; None without a driver."""
    return _query_gpu(which, "name")


def _query_gpu(which: str, field: str) -> str | None:
    """A property of a GPU from its driver, such as `name` or `memory.total,nounits`; None without a driver."""
    name, _, options = field.partition(",")
    form = ",".join(filter(None, ("csv", "noheader", options)))
    command = ["nvidia-smi", f"--query-gpu={name}", f"--format={form}", f"--id={which}"]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=_SMI_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: fall back to Python's description
    return platform.processor() or platform.machine()
