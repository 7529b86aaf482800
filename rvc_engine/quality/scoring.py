"""Scores of the last and the best save of a finished run.

Two speakers that no voice was trained on, a woman and a man, are converted with each save as a user would: the exported
file, the index, the pitch moved to the voice's. A failure here is a warning, since the voice is complete without it.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from rvc_engine.audio.reading import read_mono
from rvc_engine.config import TrainingConfig
from rvc_engine.conversion.converter import Analysis, ConversionOptions, Converter
from rvc_engine.data.clips import ClipFiles, list_clips
from rvc_engine.data.speakers import Speakers
from rvc_engine.data.split import split
from rvc_engine.errors import StopRequested
from rvc_engine.evaluation.history import add_quality, kept_evaluations
from rvc_engine.events import QUALITY_PREFIX, QualityScored
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE
from rvc_engine.machine import Machine
from rvc_engine.quality.scorers import Scorers, Scores, Speech, kept_scores, mean_scores, own_scores
from rvc_engine.reporting import StageReport
from rvc_engine.voices.export import VoiceDetails
from rvc_engine.weights.assets import FOREIGN_SPEAKERS
from rvc_engine.workspace.layout import Workspace
from rvc_engine.workspace.rvc_files import config_file
from rvc_engine.workspace.rvc_files.filelist import SILENCE

SHORTEST_TRAINING = 60.0
"""Seconds of training below which evaluate=auto does without: scoring would be a large share of the whole."""
MAX_TIME_FRACTION = 0.03
"""Share of the training time after which evaluate=auto converts nothing further; MIN_SECONDS where that is more."""
MIN_SECONDS = 20.0
NUM_OWN_CLIPS = 2
"""Recordings of the speaker that are converted, for the ceilings."""
NUM_REFERENCE_CLIPS = 6
"""Recordings of the speaker that conversions are compared with."""


@dataclass(frozen=True)
class _Save:
    step: int
    epoch: int
    voice: Path


def run(
    workspace: Workspace,
    config: TrainingConfig,
    machine: Machine,
    device: torch.device,
    details: VoiceDetails,
    report: StageReport,
) -> None:
    """Score the saves, report them and add them to the run's evaluations; not with evaluate=never."""
    if config.evaluate == "never":
        return
    if config.evaluate == "auto" and details.training_seconds < SHORTEST_TRAINING:
        report.log("a voice trained for less than a minute is not scored by conversions, except with evaluate=always")
        return
    try:
        _Scoring(workspace, config, machine, device, details, report).run()
    except StopRequested:
        raise
    except Exception as error:  # noqa: BLE001 - the voice is complete, whatever fails here
        report.warn(
            f"the voice is complete, but could not be scored by conversions: {str(error) or type(error).__name__}"
        )


class _Scoring:
    """Sources, the speaker's own recordings, and the converters' shared parts."""

    def __init__(
        self,
        workspace: Workspace,
        config: TrainingConfig,
        machine: Machine,
        device: torch.device,
        details: VoiceDetails,
        report: StageReport,
    ) -> None:
        self._workspace, self._config, self._details, self._report = workspace, config, details, report
        self._speaker = min(details.speakers)
        self._analysis = Analysis(machine, device)
        self._started = time.monotonic()
        seconds = max(MIN_SECONDS, MAX_TIME_FRACTION * details.training_seconds)
        self._until = math.inf if config.evaluate == "always" else self._started + seconds
        self._scorers = Scorers.load(machine.weights_folder, report)

    def run(self) -> None:
        """Score each save."""
        sources = [self._scorers.examine(read_mono(path, ANALYSIS_SAMPLE_RATE)) for path in FOREIGN_SPEAKERS]
        own, target = self._own_recordings()
        floor = mean_scores(own_scores(source, target) for source in sources)
        ceiling = mean_scores(own_scores(speech, target) for speech in own)
        for save in self._saves():
            started = time.monotonic()
            values = self._score(save, sources, own, target, floor, ceiling)
            add_quality(self._workspace.root, save.step, save.epoch, values)
            seconds, self._started = time.monotonic() - min(started, self._started), time.monotonic()
            self._report.event(QualityScored(step=save.step, epoch=save.epoch, values=values, seconds=seconds))

    def _saves(self) -> Iterator[_Save]:
        """The last save and, while there is time, the best."""
        yield _Save(self._details.step, self._details.epoch, self._workspace.voice_file)
        found = kept_evaluations(self._workspace.root)
        best = None if found is None else found[1]
        if best is None or best.step == self._details.step or not self._workspace.best_file.is_file():
            return
        if self._has_time():
            yield _Save(best.step, best.epoch, self._workspace.best_file)
        else:
            self._report.log("the best save is not scored by conversions: that would take too long on this machine")

    def _has_time(self) -> bool:
        self._report.check_stop()
        return time.monotonic() < self._until

    def _own_recordings(self) -> tuple[list[Speech], NDArray[np.float32] | None]:
        """Clips of the speaker, held out where there are such, and the mean embedding of the others."""
        hparams = config_file.hyperparameters(self._workspace, self._config)
        clips, _ = list_clips(self._workspace, hparams, Speakers.from_workspace(self._workspace, self._config))
        parts = split(clips, self._workspace.slices, self._config.evaluate)
        trained, evaluated = self._of_speaker(parts.trained), self._of_speaker(parts.evaluated)
        chosen = (evaluated or trained)[:NUM_OWN_CLIPS]
        own = [self._scorers.examine(_read(clip)) for clip in chosen]
        if self._scorers.speaker is None:
            return own, None
        names = {clip.wave for clip in chosen}
        others = [clip for clip in trained if clip.wave not in names] or chosen
        spread = others[:: max(1, len(others) // NUM_REFERENCE_CLIPS)][:NUM_REFERENCE_CLIPS]
        mean = np.mean([self._scorers.speaker.embed(_read(clip)) for clip in spread], axis=0)
        return own, mean / max(float(np.linalg.norm(mean)), 1e-12)

    def _of_speaker(self, clips: Sequence[ClipFiles]) -> list[ClipFiles]:
        return [each for each in clips if each.speaker == self._speaker and not SILENCE.fullmatch(each.wave.stem)]

    def _score(
        self,
        save: _Save,
        sources: Sequence[Speech],
        own: Sequence[Speech],
        target: NDArray[np.float32] | None,
        floor: Scores,
        ceiling: Scores,
    ) -> dict[str, float]:
        index = self._workspace.index_file
        converter = Converter(save.voice, index if index.is_file() else None, self._analysis)
        converted = [self._convert(converter, source) for source in sources]
        scores = mean_scores(
            {**own_scores(each, target), **kept_scores(each, source)}
            for each, source in zip(converted, sources, strict=True)
        )
        unrelated = mean_scores(
            kept_scores(each, source) for each, source in zip(converted, reversed(sources), strict=True)
        )
        kept = mean_scores(kept_scores(self._convert(converter, speech), speech) for speech in own if self._has_time())
        return _keyed(scores) | _keyed({**floor, **unrelated}, "/floor") | _keyed({**ceiling, **kept}, "/ceiling")

    def _convert(self, converter: Converter, source: Speech) -> Speech:
        """Convert with the pitch moved to the voice's, where that is known."""
        shift = None if self._speaker in self._details.median_pitch else 0.0
        options = ConversionOptions(key_shift=shift, speaker=self._speaker)
        samples = converter.convert(source.wave, options).samples.astype(np.float32) / 32768
        return self._scorers.examine(
            np.asarray(soxr.resample(samples, converter.sample_rate, ANALYSIS_SAMPLE_RATE), np.float32)
        )


def _read(clip: ClipFiles) -> NDArray[np.float32]:
    return read_mono(clip.wave, ANALYSIS_SAMPLE_RATE)


def _keyed(scores: Scores, bound: str = "") -> dict[str, float]:
    return {f"{QUALITY_PREFIX}{name}{bound}": value for name, value in scores.items()}
