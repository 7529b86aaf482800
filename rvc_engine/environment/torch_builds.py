"""PyTorch's builds, and which of them this machine's GPU needs. Imports no torch: it reads the version of its files.

PyPI's torch for Windows is a build for the CPU alone: who has a GPU there needs a build of PyTorch's own index.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rvc_engine.child_processes import python_command
from rvc_engine.environment.graphics import GraphicsCard, Vendor, graphics_cards

PYTORCH_INDEX = "https://download.pytorch.org/whl"
INDEX_VARIABLE = "PYTORCH_WHEELS_ENDPOINT"
"""Environment variable with the address of a mirror of PyTorch's index."""
INSTALL_COMMAND = "rvc-train setup --torch"


@dataclass(frozen=True)
class TorchBuild:
    """A build of PyTorch for one kind of GPU."""

    tag: str
    """End of the version and of the index's address, such as `cu128`."""
    vendor: Vendor
    driver_cuda: tuple[int, int] = (0, 0)
    """CUDA version that NVIDIA's driver must have at least."""
    capability: tuple[int, int] = (0, 0)
    """Lowest compute capability."""
    below: tuple[int, int] = (99, 0)
    """Compute capability from which on the build has no code."""
    systems: tuple[str, ...] = ("linux", "win32")


_CU126 = TorchBuild("cu126", "NVIDIA", (12, 6), (5, 0), (10, 0))
_CU128 = TorchBuild("cu128", "NVIDIA", (12, 8), (7, 0))
_CU130 = TorchBuild("cu130", "NVIDIA", (13, 0), (7, 5))
_XPU = TorchBuild("xpu", "Intel")
# fmt: off
TORCH_BUILDS: dict[tuple[int, int], tuple[TorchBuild, ...]] = {
    (2, 9): (_CU130, _CU128, _CU126, TorchBuild("rocm6.4", "AMD", systems=("linux",)), _XPU),
    (2, 10): (_CU130, _CU128, _CU126, TorchBuild("rocm7.1", "AMD", systems=("linux",)), _XPU),
}
# fmt: on
"""Builds by PyTorch's version, the best first. A later version than the last has its builds, as far as is known."""


@dataclass(frozen=True)
class InstalledTorch:
    """The installed PyTorch, by its files."""

    version: str
    """Without the build's tag, such as `2.9.1`."""
    supports: frozenset[Vendor]
    """Vendors of the GPUs that it can use."""


def installed_torch() -> InstalledTorch | None:
    """The installed PyTorch; None without one."""
    spec = importlib.util.find_spec("torch")
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent
    try:
        text = "" if folder is None else (folder / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    version = re.search(r"__version__ = '([^'+]+)", text)
    if version is None:
        return None
    built = set(re.findall(r"^(cuda|hip|xpu)\b[^=]*= '[^']+'", text, re.MULTILINE))
    vendors: dict[str, Vendor] = {"cuda": "NVIDIA", "hip": "AMD", "xpu": "Intel"}
    supports = {vendors[name] for name in built}
    if sys.platform == "darwin":
        supports.add("Apple")
    return InstalledTorch(version[1], frozenset(supports))


def fitting_build(version: str, cards: Sequence[GraphicsCard], system: str = sys.platform) -> TorchBuild | None:
    """The build of a version for the first GPU that any build supports; None if none does."""
    major, minor = (int(part) for part in version.split(".")[:2])
    known = max((each for each in TORCH_BUILDS if each <= (major, minor)), default=min(TORCH_BUILDS))
    fitting = (build for card in cards for build in TORCH_BUILDS[known] if _fits(build, card, system))
    return next(fitting, None)


def _fits(build: TorchBuild, card: GraphicsCard, system: str) -> bool:
    if build.vendor != card.vendor or system not in build.systems:
        return False
    if card.vendor == "Intel":
        return re.search(r"\bArc\b|Data Center GPU", card.name) is not None  # not those in most processors
    is_driver_new = card.driver_cuda is None or card.driver_cuda >= build.driver_cuda
    return is_driver_new and (card.capability is None or build.capability <= card.capability < build.below)


def install_command(version: str, build: TorchBuild) -> list[str]:
    """Command that installs a build in this environment, in place of the present one of the same version."""
    index = os.environ.get(INDEX_VARIABLE) or PYTORCH_INDEX
    options = ("--index-url", f"{index.rstrip('/')}/{build.tag}")
    return python_command("pip", "install", *options, f"torch=={version}+{build.tag}")


def shown_command(command: Sequence[str]) -> str:
    """The command for people, who type it in the same environment: without `-P`."""
    return subprocess.list2cmdline(["python", *command[2:]])


@cache
def gpu_advice() -> str | None:
    """Sentence on a GPU that the installed PyTorch cannot use, and what to do; None if all is well.

    Found out once in a process.
    """
    cards, torch = graphics_cards(), installed_torch()
    if torch is None or not cards or any(card.vendor in torch.supports for card in cards):
        return None
    build = fitting_build(torch.version, cards)
    if build is None:
        return _advice_without_build(torch, cards)
    card = next(each for each in cards if each.vendor == build.vendor)
    return (
        f"this machine has the GPU {card.name}, but the installed PyTorch {torch.version} is a build that cannot use "
        f"it, so training runs on the CPU; install the right build with `{INSTALL_COMMAND}`"
    )


def _advice_without_build(torch: InstalledTorch, cards: Sequence[GraphicsCard]) -> str | None:
    card = cards[0]
    if card.vendor == "NVIDIA":
        return (
            f"this machine has the GPU {card.name}, but its driver is too old for PyTorch {torch.version}, so training "
            "runs on the CPU; update NVIDIA's driver"
        )
    if card.vendor == "AMD" and sys.platform == "win32":
        return (
            f"this machine has the GPU {card.name}, for which PyTorch's index has no build on Windows, so training "
            "runs on the CPU; use WSL 2, or AMD's own build of PyTorch"
        )
    return None
