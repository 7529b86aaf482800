"""The request that an engine passes to its training processes: a small JSON file."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from rvc_engine.config import TrainingConfig, Version

EXIT_PEER_FAILED = 75
"""A rank ended because another one was gone: it is not the one to name."""
EXIT_ORPHANED = 76
"""A rank ended because the engine that started it was gone."""
STOP = b"stop\n"
"""On a rank's standard input: stop after a checkpoint. All ranks share one input, so one of them reads it."""


class RankRequest(BaseModel):
    """The arguments of `training.run`, and the means of each rank."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path
    voice: str
    version: Version
    config: TrainingConfig
    devices: list[str]
    """One for each rank."""
    num_threads: int
    """CPU threads of each rank."""
    base_generator: Path | None
    base_discriminators: Path | None
    base_identity: str
    features_identity: str
