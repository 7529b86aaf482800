"""Load a voice with the own loading code of RVC WebUI or Applio, and print what came of it as JSON.

    python foreign_loader.py rvc|applio CHECKOUT VOICE.pth

Packages that only other parts of these programs need, and that are missing here, are replaced by empty ones.
"""

import importlib.machinery
import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

STAND_INS = frozenset(
    {
        "librosa", "parselmouth", "torchcrepe", "torchfcpe", "fairseq", "ffmpeg", "noisereduce", "pedalboard",
        "resampy", "gradio", "tensorboard", "matplotlib", "webrtcvad", "sounddevice", "torchaudio",
        "dotenv", "swift_f0", "wget",
    }
)  # fmt: skip


class StandIns:
    """Finder of missing packages: each attribute of an empty one is a mock."""

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in STAND_INS:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        vars(module)["__getattr__"] = lambda name: MagicMock(name=name)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: it is empty."""


def load_with_rvc(checkout: Path, voice: Path) -> tuple[Any, dict[str, Any], str]:
    """Net and contents of a voice as `VC.get_vc` loads them, and the index that it chooses for the voice."""
    os.environ |= {"weight_root": str(voice.parent), "index_root": str(voice.parent), "outside_index_root": ""}
    from infer.vc.modules import VC  # type: ignore[import-not-found]

    config = SimpleNamespace(device="cpu", is_half=False, x_pad=1, x_query=6, x_center=38, x_max=41)
    program = VC(config)
    chosen = program.get_vc(voice.name, 0.5, 0.5)
    return program.net_g, program.cpt, chosen[3]["value"]


def load_with_applio(checkout: Path, voice: Path) -> tuple[Any, dict[str, Any], str]:
    """Net and contents of a voice as `VoiceConverter.get_vc` loads them; its page lists every index."""
    from rvc.infer.infer import VoiceConverter  # type: ignore[import-not-found]

    program = VoiceConverter()
    program.get_vc(str(voice), 0)
    return program.net_g, program.cpt, str(voice.with_suffix(".index"))


def old_name(name: str) -> str:
    """Name of a tensor before PyTorch's parametrizations, which Applio's nets use."""
    for number, part in enumerate("gv"):
        name = name.replace(f"parametrizations.weight.original{number}", f"weight_{part}")
    return name


def main() -> None:
    program, checkout, voice = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]).absolute()
    sys.meta_path.append(StandIns())  # type: ignore[arg-type]
    sys.path.insert(0, str(checkout))
    os.chdir(checkout)
    net, contents, index_path = (load_with_rvc if program == "rvc" else load_with_applio)(checkout, voice)
    import faiss
    import torch

    weights, loaded = contents["weight"], {old_name(name): value for name, value in net.state_dict().items()}
    frames, size = 60, 768 if contents["version"] == "v2" else 256
    torch.manual_seed(0)
    curves = (torch.full((1, frames), 90), torch.full((1, frames), 180.0)) if contents["f0"] else ()
    with torch.no_grad():
        sound = net.infer(torch.randn(1, frames, size), torch.tensor([frames]), *curves, torch.tensor([0]))[0]
    index = faiss.read_index(index_path)  # as both pipelines do
    rows = index.reconstruct_n(0, index.ntotal)
    _, found = index.search(rows[:1], 8)
    print(
        json.dumps(
            {
                "missing": sorted(loaded.keys() - weights.keys()),
                "unknown": sorted(weights.keys() - loaded.keys()),
                "different": [name for name in weights if not torch.equal(loaded[name], weights[name].float())],
                "samples": sound.numel(),
                "is_finite": bool(sound.isfinite().all()),
                "loudest": float(sound.abs().max()),
                "index": Path(index_path).name,
                "rows": len(rows),
                "finds_itself": bool(found[0, 0] == 0),
            }
        )
    )


if __name__ == "__main__":
    main()
