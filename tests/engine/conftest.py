"""Synthetic recordings in any container, a dataset, a workspace, and a recorder of a stage's events."""

from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from rvc_engine.events import Event, Log, Progress, Stage, Warned
from rvc_engine.reporting import StageReport
from rvc_engine.weights.assets import FOREIGN_SPEAKERS
from rvc_engine.workspace.layout import Workspace

Sound = NDArray[np.float32]


def _voice(seconds: float, rate: int = 44_100, hz: float = 220.0, peak: float = 0.5) -> Sound:
    times = np.arange(round(seconds * rate)) / rate
    harmonics = sum(np.sin(2 * np.pi * n * hz * times) / n for n in (1, 2, 3))
    return (peak / 1.6 * np.asarray(harmonics)).astype(np.float32)


@pytest.fixture(scope="session")
def short_foreign_speakers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Finished voices are scored by the first seconds of either speaker and one recording of their own."""
    from rvc_engine.quality import scoring  # imports torch

    folder, paths = tmp_path_factory.mktemp("sources"), []
    for path, samples in zip(FOREIGN_SPEAKERS, (32_000, 24_000), strict=True):
        wave, rate = soundfile.read(path, frames=samples)
        paths.append(folder / path.name)
        soundfile.write(paths[-1], wave, rate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "FOREIGN_SPEAKERS", tuple(paths))
        patch.setattr(scoring, "NUM_OWN_CLIPS", 1)
        yield


@pytest.fixture(scope="session")
def voice() -> Callable[..., Sound]:
    """voice(seconds, rate=44100, hz=220, peak=0.5): a steady tone with three harmonics, (num_samples,)."""
    return _voice


def _encode(path: Path, sound: Sound, rate: int, container: str, codec: str, layout: str = "mono") -> Path:
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        if codec != "libopencore_amrnb":
            stream.bit_rate = 128_000
        rows = np.ascontiguousarray(np.atleast_2d(sound))
        frame = av.AudioFrame.from_ndarray(rows, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        context = stream.codec_context
        if codec in {"wavpack", "tta"}:  # they would take 8 bits
            context.format = "s16p" if codec == "wavpack" else "s16"
        fitter = av.AudioResampler(
            format=context.format, layout=layout, rate=rate, frame_size=context.frame_size or 1024
        )
        for fitted in [*fitter.resample(frame), *fitter.resample(None), None]:
            file.mux(stream.encode(fitted))
    return path


@pytest.fixture(scope="session")
def encode() -> Callable[..., Path]:
    """encode(path, sound, rate, container, codec, layout="mono"): a file written by FFmpeg; sound (channels, n)."""
    return _encode


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """An empty folder for recordings."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    return folder


@pytest.fixture
def save(dataset: Path) -> Callable[..., Path]:
    """save(name, sound, rate=44100): a recording in the dataset, in the container of the name's suffix."""

    def write(name: str, sound: Sound, rate: int = 44_100, **options: str) -> Path:
        path = dataset / name
        soundfile.write(path, sound, rate, **options)
        return path

    return write


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A fresh workspace."""
    workspace = Workspace(tmp_path / "run", "anna")
    workspace.root.mkdir()
    return workspace


class Listener:
    """Recorder of a stage's events; `is_stopping` requests a stop."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.is_stopping = False

    def report(self, stage: Stage) -> StageReport:
        return StageReport(stage, self.events.append, lambda: self.is_stopping)

    @property
    def warnings(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Warned)]

    @property
    def log(self) -> str:
        return "\n".join(event.message for event in self.events if isinstance(event, Log))

    @property
    def progress(self) -> list[float]:
        return [event.stage_progress for event in self.events if isinstance(event, Progress)]


@pytest.fixture
def listener() -> Listener:
    """A recorder of a stage's events."""
    return Listener()
