"""The request that an engine passes to its training processes: a small JSON file."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from rvc_engine.config import TrainingConfig, Version

EXIT_PEER_FAILED = 75
"""Exit code of a rank that ended because another one was gone: not the cause of the failure."""
EXIT_ORPHANED = 76
"""Exit code of a rank that ended because the engine that started it was gone."""
STOP = b"stop\n"
"""Request on a rank's standard input to stop after a checkpoint. All ranks share one input, so one of them reads it."""


class RankRequest(BaseModel):
    """The arguments of `trainer.run`, and the device and threads of each rank."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path
    voice: str
    version: Version
    config: TrainingConfig
    devices: list[str]
    """One for each rank."""
    num_threads: int
    """CPU threads of each rank."""
    jobs_per_device: int
    """As in `Machine`."""
    base_generator: Path | None
    base_discriminators: Path | None
    base_identity: str
    features_identity: str
