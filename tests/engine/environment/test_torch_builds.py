"""The GPUs of a machine, and the build of PyTorch that they need."""

import json
import os
import re
import subprocess
import tomllib
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

from rvc_engine.environment import graphics, torch_builds
from rvc_engine.environment.graphics import GraphicsCard, graphics_cards, vendor_in
from rvc_engine.environment.torch_builds import (
    INDEX_VARIABLE,
    TORCH_BUILDS,
    InstalledTorch,
    fitting_build,
    gpu_advice,
    install_command,
    installed_torch,
)
from rvc_train.cli.main import app

ROOT = Path(__file__).parents[3]
RTX = GraphicsCard("NVIDIA", "NVIDIA GeForce RTX 4070", (12, 9), (8, 9))


@pytest.fixture(autouse=True)
def fresh_caches() -> None:
    graphics_cards.cache_clear()
    gpu_advice.cache_clear()


def with_machine(
    monkeypatch: pytest.MonkeyPatch, torch: InstalledTorch | None, *cards: GraphicsCard, system: str = "win32"
) -> None:
    for module in ("rvc_engine.environment.torch_builds", "rvc_train.cli.commands.setup"):
        monkeypatch.setattr(f"{module}.graphics_cards", lambda: cards)
        monkeypatch.setattr(f"{module}.installed_torch", lambda: torch)
    monkeypatch.setattr(torch_builds, "fitting_build", partial(fitting_build, system=system))
    monkeypatch.setattr("rvc_train.cli.commands.setup.fitting_build", partial(fitting_build, system=system))


CPU_BUILD = InstalledTorch("2.9.1", frozenset())


@pytest.mark.parametrize(
    ("card", "system", "tag"),
    [
        (GraphicsCard("NVIDIA", "RTX 5090", (13, 0), (12, 0)), "win32", "cu130"),
        (RTX, "win32", "cu128"),
        (GraphicsCard("NVIDIA", "GTX 1080", (13, 0), (6, 1)), "linux", "cu126"),
        (GraphicsCard("NVIDIA", "RTX 3060", (12, 2), (8, 6)), "linux", None),
        (GraphicsCard("NVIDIA", "RTX 5090", (12, 6), (12, 0)), "linux", None),
        (GraphicsCard("NVIDIA", "GeForce without nvidia-smi"), "win32", "cu130"),
        (GraphicsCard("AMD", "Radeon RX 7900 XTX"), "linux", "rocm6.4"),
        (GraphicsCard("AMD", "Radeon RX 7900 XTX"), "win32", None),
        (GraphicsCard("Intel", "Intel(R) Arc(TM) A770 Graphics"), "win32", "xpu"),
        (GraphicsCard("Intel", "Intel(R) UHD Graphics 770"), "win32", None),
    ],
)
def test_each_gpu_has_its_build(card: GraphicsCard, system: str, tag: str | None) -> None:
    build = fitting_build("2.9.1", [GraphicsCard("Intel", "Intel(R) UHD Graphics"), card], system)
    assert (build and build.tag) == tag


def test_the_table_of_versions_begins_with_the_lowest_pytorch_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    engine = project["optional-dependencies"]["engine"]
    (lowest,) = [each.removeprefix("torch>=") for each in engine if each.startswith("torch>=")]
    pinned = re.search(r"^torch==(\d+)\.(\d+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert ".".join(map(str, min(TORCH_BUILDS))) == lowest
    assert pinned is not None
    assert (int(pinned[1]), int(pinned[2])) >= max(TORCH_BUILDS)
    for version, builds in TORCH_BUILDS.items():
        assert {build.vendor for build in builds} == {"NVIDIA", "AMD", "Intel"}
        of_nvidia = [build for build in builds if build.vendor == "NVIDIA"]
        assert of_nvidia == sorted(of_nvidia, key=lambda build: build.driver_cuda, reverse=True), version


def test_the_installed_build_is_read_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    found = installed_torch()
    assert found is not None
    assert found.version == torch.__version__.partition("+")[0]
    assert ("NVIDIA" in found.supports) == (torch.version.cuda is not None)
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise ImportError")
    (tmp_path / "torch/version.py").write_text(
        "__version__ = '2.9.1+rocm6.4'\ncuda: Optional[str] = None\nhip: Optional[str] = '6.4.43484'\nxpu = None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "torch")
    assert installed_torch() == InstalledTorch("2.9.1", frozenset({"AMD"}))


def test_a_gpu_that_the_installed_pytorch_cannot_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_machine(monkeypatch, CPU_BUILD, RTX)
    assert gpu_advice() == (
        "this machine has the GPU NVIDIA GeForce RTX 4070, but the installed PyTorch 2.9.1 is a build that cannot use "
        "it, so training runs on the CPU; install the right build with `rvc-train setup --torch`"
    )


@pytest.mark.parametrize(
    ("torch", "cards", "words"),
    [
        (InstalledTorch("2.9.1", frozenset({"NVIDIA"})), [RTX], None),
        (None, [RTX], None),
        (CPU_BUILD, [], None),
        (CPU_BUILD, [GraphicsCard("Intel", "Intel(R) UHD Graphics")], None),
        (CPU_BUILD, [GraphicsCard("NVIDIA", "RTX 3060", (11, 4), (8, 6))], "update NVIDIA's driver"),
    ],
)
def test_advice_is_given_only_where_it_helps(
    torch: InstalledTorch | None, cards: list[GraphicsCard], words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_machine(monkeypatch, torch, *cards)
    advice = gpu_advice()
    assert (advice is None) if words is None else (advice is not None and words in advice)


@pytest.mark.skipif(os.name == "nt", reason="its program is a shell script")
def test_gpus_are_found_by_nvidias_program_and_on_the_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/nvidia-smi"
    program.write_text(
        '#!/bin/sh\nif [ $# = 0 ]; then echo "| NVIDIA-SMI 576.02  Driver Version: 576.02  CUDA Version: 12.9 |"; '
        'else echo "NVIDIA GeForce RTX 4070, 8.9"; fi\n'
    )
    program.chmod(0o755)
    for number, (vendor, kind) in enumerate([("0x10de", "0x030000"), ("0x8086", "0x020000"), ("0x1002", "0x038000")]):
        device = tmp_path / "pci" / f"0000:0{number}:00.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
        (device / "device").write_text("0x744c\n")
    monkeypatch.setattr(graphics, "_PCI", tmp_path / "pci")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    amd = GraphicsCard("AMD", "AMD GPU (0x744c)")
    assert graphics_cards() == (RTX, amd)
    program.write_text("#!/bin/sh\nexit 9\n")
    graphics_cards.cache_clear()
    monkeypatch.setattr(graphics, "_NVIDIA", tmp_path / "none")
    assert graphics_cards() == (GraphicsCard("NVIDIA", "NVIDIA GPU (0x744c)"), amd)


@pytest.mark.parametrize(
    ("name", "vendor"),
    [
        ("NVIDIA GeForce RTX 4070", "NVIDIA"),
        ("AMD Radeon(TM) Graphics", "AMD"),
        ("Intel(R) UHD Graphics 770", "Intel"),
        ("Microsoft Basic Display Adapter", None),
    ],
)
def test_adapters_of_windows_have_a_vendor_by_their_name(name: str, vendor: str | None) -> None:
    assert vendor_in(name) == vendor


def test_setup_prints_the_command_and_installs_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with_machine(monkeypatch, CPU_BUILD, RTX)
    run = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: run.append(command))
    shown = CliRunner().invoke(app, ["setup", "--torch", "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["command"] == (
        "python -m pip install --index-url https://download.pytorch.org/whl/cu128 torch==2.9.1+cu128"
    )
    assert run == []


def test_the_command_installs_from_the_index_of_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a local index, without installing: pip takes the build in place of the present one of that version."""
    folder = tmp_path / "cu128/torch"
    folder.mkdir(parents=True)
    wheel = folder / "torch-2.9.1+cu128-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        info = "torch-2.9.1+cu128.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 2.9.1+cu128\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(INDEX_VARIABLE, f"http://127.0.0.1:{server.server_port}")
    build = fitting_build("2.9.1", [RTX], "win32")
    assert build is not None
    command = [*install_command("2.9.1", build), "--dry-run", "--isolated", "--no-deps", "--disable-pip-version-check"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    assert "Would install torch-2.9.1+cu128" in done.stdout
