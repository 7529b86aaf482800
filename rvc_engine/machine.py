"""Resources of the machine for a run: device, threads, folders of weights and cached stage results.

Kept apart from `TrainingConfig` because the same job runs on another machine with other values. No torch.
"""

from dataclasses import dataclass, field
from pathlib import Path

import platformdirs


def default_weights_folder() -> Path:
    """Default folder of published weights."""
    return Path(platformdirs.user_data_dir("rvc-train")) / "weights"


@dataclass(frozen=True)
class Machine:
    """Resources of one engine process."""

    device: str = "auto"
    """`auto`, `cpu`, `mps`, `cuda:<n>`, `xpu:<n>`, or several GPUs such as `cuda:0,cuda:1` for data-parallel
    training, with the other stages on the first. auto is the first GPU, or else the CPU."""
    num_threads: int | None = None
    """CPU threads of PyTorch, divided among processes; None: all cores."""
    weights_folder: Path = field(default_factory=default_weights_folder)
    cache_folder: Path | None = None
    """Results of slice, pitch and content, shared between runs on the same recordings. None: no sharing."""
    content_folder: Path | None = None
    """Folder of the user's own HuBERT, for content=local."""
    pretrained_g: Path | None = None
    """Base weights of the generator instead of the published ones."""
    pretrained_d: Path | None = None
    base_origin: str | None = None
    """Origin of these two, such as the save of an earlier job; the voice file names it."""
    provenance: Path | None = None
    """JSON file with the origin of the recordings (`rvc_engine.card.provenance.Provenance`), for the voice's card."""
    jobs_per_device: int = 1
    """Trainings on the device at once, this one among them: each takes an equal share of its memory."""
    num_processes: int = 1
    """Data-parallel processes on the CPU; on GPUs there is one per GPU."""
