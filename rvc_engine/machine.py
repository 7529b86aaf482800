"""What this machine gives a run: a device, threads, and where weights and cached stage results lie.

Apart from `TrainingConfig` because the same job runs on another machine with other answers. No torch.
"""

from dataclasses import dataclass, field
from pathlib import Path

import platformdirs


def default_weights_folder() -> Path:
    """Where published weights are kept when nobody says otherwise."""
    return Path(platformdirs.user_data_dir("rvc-train")) / "weights"


@dataclass(frozen=True)
class Machine:
    """The means of one engine process."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda:<n>`, or several GPUs such as `cuda:0,cuda:1`, which train together while the first one does
    the rest. auto takes the first GPU, or else the CPU."""
    num_threads: int | None = None
    """CPU threads for the nets, divided among processes; None: all cores."""
    weights_folder: Path = field(default_factory=default_weights_folder)
    cache_folder: Path | None = None
    """Results of slice, pitch and content, shared between runs on the same recordings. None: no sharing."""
    content_folder: Path | None = None
    """A HuBERT of one's own, for content=local."""
    pretrained_g: Path | None = None
    """Base weights of the generator in place of the published ones."""
    pretrained_d: Path | None = None
    num_processes: int = 1
    """Processes that train together on the CPU; on GPUs it is one each."""
