"""TensorBoard's event files of a run: losses, scores, mel pictures and sound, written where the package is installed.

`tensorboard --logdir logs/NAME` shows them. Losses and gradient norms have the tags of RVC's trainer, so that runs of
both compare in one board. Format: https://github.com/tensorflow/tensorboard, "summary" and "event" protocol buffers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from PIL import Image

from rvc_engine.events import Evaluated, Event, Log, Metric, PreviewReady
from rvc_engine.reporting import Report

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

TAGS = {
    "loss/gen": "loss/g/total",
    "loss/disc": "loss/d/total",
    "loss/mel": "loss/g/mel",
    "loss/kl": "loss/g/kl",
    "loss/fm": "loss/g/fm",
    "grad_norm/g": "grad_norm_g",
    "grad_norm/d": "grad_norm_d",
}
"""RVC's tags by the names of our metrics; other metrics keep their names."""
FLUSH_SECONDS = 10
EVENT_FILES = "events.out.tfevents.*"


@contextmanager
def tensorboard_log(folder: Path, report: Report) -> Iterator[Report]:
    """A report that also writes a run's metrics, scores and previews into event files in `folder`.

    Without the package `tensorboard` it is `report` itself.
    """
    if find_spec("tensorboard") is None:
        yield report
        return
    log = _EventFiles(folder, report)
    try:
        yield log
    finally:
        log.close()


class _EventFiles:
    """Writer of one run. A write error (a full disk) ends the event files with a warning, and not the run."""

    def __init__(self, folder: Path, report: Report) -> None:
        self._folder, self._report = folder, report
        self._writer: SummaryWriter | None = None
        self._last_step = -1
        """Step of the newest metrics. Steps that are trained again, after a resume or a rollback, replace their
        values: `purge_step` of a new event file hides those of the files before it."""
        self._is_lost = False

    def __call__(self, event: Event) -> None:
        self._report(event)
        if self._is_lost or not isinstance(event, Metric | Evaluated | PreviewReady):
            return
        try:
            self._write(event)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            self._is_lost = True
            self._report(Log(level="warning", message=f"TensorBoard's event files are no longer written: {error}"))

    def _write(self, event: Metric | Evaluated | PreviewReady) -> None:
        writer = self._writer_at(event.step, is_metric=isinstance(event, Metric))
        if isinstance(event, PreviewReady):
            _add_preview(writer, event)
            return
        for name, value in event.values.items():
            writer.add_scalar(TAGS.get(name, name), value, event.step, event.time)
        if isinstance(event, Metric):
            writer.add_scalar("epoch", event.epoch, event.step, event.time)

    def _writer_at(self, step: int, *, is_metric: bool) -> "SummaryWriter":
        if self._writer is not None and is_metric and step <= self._last_step:
            self._writer.close()
            self._writer = None
        if self._writer is None:
            self._writer = self._new_writer(step)
        if is_metric:
            self._last_step = step
        return self._writer

    def _new_writer(self, step: int) -> "SummaryWriter":
        """A writer of a new event file whose first step is `step`."""
        from torch.utils.tensorboard import SummaryWriter  # takes a second or two

        purge_step = step if any(self._folder.glob(EVENT_FILES)) else None
        return SummaryWriter(str(self._folder), purge_step=purge_step, flush_secs=FLUSH_SECONDS)

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._writer is None:
            return
        try:
            self._writer.close()
        except (OSError, RuntimeError, ValueError) as error:
            if not self._is_lost:
                self._report(Log(level="warning", message=f"the end of TensorBoard's event files is missing: {error}"))


def _add_preview(writer: "SummaryWriter", preview: PreviewReady) -> None:
    """Add a clip's sound and picture, and at its first save the recording as well."""
    with Image.open(preview.picture) as picture:
        writer.add_image(f"mel/{preview.clip}", np.asarray(picture.convert("RGB")), preview.step, dataformats="HWC")
    _add_sound(writer, f"sound/{preview.clip}", Path(preview.audio), preview.step)
    _add_sound(writer, f"recording/{preview.clip}", Path(preview.recording), preview.step)


def _add_sound(writer: "SummaryWriter", tag: str, path: Path, step: int) -> None:
    wave, sample_rate = soundfile.read(path, dtype="float32")
    writer.add_audio(tag, wave[None], step, sample_rate)
