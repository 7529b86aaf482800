"""GPUs of this machine by what the system has of them: NVIDIA's program, Linux' sysfs, Windows' registry. No torch."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

Vendor = Literal["NVIDIA", "AMD", "Intel", "Apple"]
_VENDORS: dict[str, Vendor] = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
_DISPLAYS = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
_SECONDS = 10
_PCI = Path("/sys/bus/pci/devices")
_NVIDIA = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class GraphicsCard:
    """A GPU, whether or not PyTorch can use it."""

    vendor: Vendor
    name: str
    driver_cuda: tuple[int, int] | None = None
    """Newest CUDA version of NVIDIA's driver; None where it is not known, and for other GPUs."""
    capability: tuple[int, int] | None = None
    """CUDA's compute capability, as `driver_cuda`."""


@cache
def graphics_cards() -> tuple[GraphicsCard, ...]:
    """The GPUs of this machine, those of NVIDIA first; asked for once in a process."""
    found = list(_by_nvidia_smi())
    others = _registered() if sys.platform == "win32" else _of_pci()
    found += [each for each in others if each.vendor != "NVIDIA" or not found]
    if sys.platform == "darwin" and platform.machine() == "arm64":
        found.append(GraphicsCard("Apple", "Apple GPU"))
    return tuple(found)


def _by_nvidia_smi() -> Iterator[GraphicsCard]:
    """NVIDIA's GPUs with their driver; none without the driver's program."""
    shown = _output(["nvidia-smi"])
    version = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", shown)
    driver_cuda = None if version is None else (int(version[1]), int(version[2]))
    for line in _output(["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]).splitlines():
        name, _, capability = line.rpartition(",")
        parts = re.fullmatch(r"\s*(\d+)\.(\d+)\s*", capability)
        if name:
            yield GraphicsCard(
                "NVIDIA", name.strip(), driver_cuda, None if parts is None else (int(parts[1]), int(parts[2]))
            )


def _output(command: list[str]) -> str:
    """Output of a program; empty where there is none, or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def _of_pci() -> Iterator[GraphicsCard]:
    """Graphics controllers on Linux' PCI bus; no names, but those that drivers give them."""
    nvidia_names = iter(_nvidia_driver_names())
    for device in sorted(_PCI.glob("*")) if _PCI.is_dir() else ():
        with suppress(OSError):
            vendor = _VENDORS.get((device / "vendor").read_text(encoding="utf-8").strip())
            if vendor is None or not (device / "class").read_text(encoding="utf-8").startswith("0x03"):
                continue
            number = f"{vendor} GPU ({(device / 'device').read_text('utf-8').strip()})"
            given = next(nvidia_names, "") if vendor == "NVIDIA" else _text(device / "product_name")
            yield GraphicsCard(vendor, given or number)


def _nvidia_driver_names() -> Iterator[str]:
    for path in sorted(_NVIDIA.glob("*/information")):
        found = re.search(r"Model:\s*(.+)", _text(path))
        if found:
            yield found[1].strip()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _registered() -> Iterator[GraphicsCard]:
    """Display adapters in Windows' registry, of drivers that may have been removed since."""
    if sys.platform == "win32":
        import winreg

        with suppress(OSError), winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _DISPLAYS) as displays:
            for index in range(winreg.QueryInfoKey(displays)[0]):
                with suppress(OSError), winreg.OpenKey(displays, winreg.EnumKey(displays, index)) as display:
                    name = str(winreg.QueryValueEx(display, "DriverDesc")[0])
                    if (vendor := vendor_in(name)) is not None:
                        yield GraphicsCard(vendor, name)
    yield from ()  # a generator on other systems too


def vendor_in(name: str) -> Vendor | None:
    """Vendor of an adapter by its name; None for one that does not compute."""
    patterns: dict[Vendor, str] = {
        "NVIDIA": r"NVIDIA|GeForce|Quadro|Tesla",
        "AMD": r"AMD|Radeon|ATI ",
        "Intel": r"Intel",
    }
    return next((vendor for vendor, pattern in patterns.items() if re.search(pattern, name, re.IGNORECASE)), None)


def let_mps_fall_back() -> None:
    """Let operators that Apple's GPUs lack run on the CPU. Before torch is imported."""
    if sys.platform == "darwin":
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
