"""The device, and the packages that are missing."""

import json
import platform

import torch

from benchmarks.gpu.plan import Plan, is_missing

OPTIONAL = ("pydantic", "psutil", "faiss", "av", "pyworld", "swift_f0", "safetensors")


def device(plan: Plan) -> None:
    """Print the device; nothing where it is not there."""
    chosen = torch.device(plan.device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        return
    line = {"python": platform.python_version(), "torch": torch.__version__, "device": platform.processor() or "CPU"}
    if chosen.type == "cuda":
        torch.ones(1, device=chosen).sum().item()  # a device that hangs does so here, within the probe's time
        facts = torch.cuda.get_device_properties(chosen)
        memory = round(facts.total_memory / 1e9, 1)
        line |= {"device": facts.name, "capability": f"{facts.major}.{facts.minor}", "memory_gb": memory}
        line |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    missing = [name for name in OPTIONAL if is_missing(name)]
    print(json.dumps(line | {"missing_packages": missing}), flush=True)
