"""Results of a calibration, as `rvc-engine machine --calibrate` prints them and the server keeps them. No torch."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

FORMAT = 1
"""To be raised when other things are measured, so that calibrations of before are made again."""


def _from_text(value: object) -> object:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


class StepTime(BaseModel):
    """Duration of a training step of the default kind of voice with this width and batch."""

    model_config = ConfigDict(frozen=True, strict=True)

    width: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    seconds: float = Field(gt=0)


class Calibration(BaseModel):
    """Speed of a device with these versions of PyTorch and of this program."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    format: int = FORMAT
    version: str
    """Version of rvc-train."""
    torch: str
    device: str
    """`cpu`, `cuda`, `xpu` or `mps`."""
    num_threads: int
    jobs_per_device: int = 1
    """Jobs that share the device. It was measured with the share of one, while the others were idle."""
    precision: str
    """Number format of the steps, which precision=auto chose."""
    measured_at: Annotated[datetime, BeforeValidator(_from_text)]
    took_seconds: float
    start_seconds: float = Field(ge=0)
    """From the start of the process until training code is loaded."""
    slice_seconds: float = Field(ge=0)
    """Slicing, for a second of sound; so are the next two."""
    pitch_seconds: float = Field(ge=0)
    """pitch=swift."""
    content_seconds: float = Field(ge=0)
    """content=whisper-tiny."""
    load_seconds: float = Field(ge=0)
    """Loading both of these."""
    steps: list[StepTime] = Field(min_length=1)
    """The smallest width first; fewer on a slow device."""
