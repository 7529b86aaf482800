"""Scores of a conversion: what it has of the speaker, what it kept of the source, and how natural it sounds."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.evaluation.speaker_similarity import ResemblyzerScorer, SpeakerScorer
from rvc_engine.events import QualityMetric
from rvc_engine.pitch.curve import fit_length
from rvc_engine.pitch.estimators import PitchEstimator
from rvc_engine.pitch.swift import SwiftEstimator
from rvc_engine.quality.naturalness import Dnsmos
from rvc_engine.quality.transcription import Transcriber, character_error_rate
from rvc_engine.reporting import StageReport
from rvc_engine.weights.catalogue import Weights
from rvc_engine.weights.packages import package_file

WEIGHTS_ID = "quality"
"""Id of the scorers' published files."""
Scores = Mapping[QualityMetric, float]
_Scorer = TypeVar("_Scorer")


@dataclass(frozen=True)
class Speech:
    """A clip with what is measured of it alone."""

    wave: NDArray[np.float32]
    """(num_samples,), 16 kHz."""
    hz: NDArray[np.float64]
    """(frames,), F0, 0 where unvoiced."""
    embedding: NDArray[np.float32] | None
    """The embedding of its speaker, of length 1."""
    naturalness: float | None
    text: str | None
    """Transcript."""


@dataclass(frozen=True)
class Scorers:
    """The scorers that are there."""

    estimator: PitchEstimator
    speaker: SpeakerScorer | None
    dnsmos: Dnsmos | None
    transcriber: Transcriber | None

    @classmethod
    def load(cls, weights_folder: Path, report: StageReport) -> "Scorers":
        """Load the scorers whose weights are on this machine; how to get those of the others is logged."""
        weights, threads = Weights(weights_folder), torch.get_num_threads()
        files = {file.name: weights.path_of(file) for file in weights.files_of(WEIGHTS_ID)}
        there = {file.name for file in weights.files_of(WEIGHTS_ID) if weights.verify(file) == "verified"}

        def found(name: str, package: str = "", path: str = "") -> Path | None:
            return files[name] if name in there else package_file(package, path) if package else None

        def loaded(make: Callable[..., _Scorer], *paths: Path | None) -> _Scorer | None:
            if any(path is None for path in paths):
                return None
            try:
                return make(*paths)
            except IncompatibleCheckpoint as error:
                report.warn(f"a score of the voice is left out: {error}")
                return None

        speaker = loaded(ResemblyzerScorer, found("pretrained.pt", "resemblyzer", "pretrained.pt"))
        model = found("sig_bak_ovr.onnx", "speechmos", "dnsmos_models/sig_bak_ovr.onnx")
        dnsmos = loaded(lambda path: Dnsmos(path, threads), model)
        transcriber = loaded(Transcriber, found("model.bin"), found("vocabulary.txt"))
        missing: dict[str, object] = {"similarity": speaker, "naturalness": dnsmos, "character errors": transcriber}
        if names := [name for name, scorer in missing.items() if scorer is None]:
            report.log(
                f"these scores of conversions are not measured: {', '.join(names)}; the weights that they need, 96 MB, "
                "are downloaded once with: rvc-engine weights fetch quality"
            )
        return cls(SwiftEstimator(threads), speaker, dnsmos, transcriber)

    def examine(self, wave: NDArray[np.float32]) -> Speech:
        """Measure a clip at 16 kHz by itself."""
        return Speech(
            wave,
            self.estimator.estimate([wave])[0],
            None if self.speaker is None else self.speaker.embed(wave),
            None if self.dnsmos is None else self.dnsmos.score(wave),
            None if self.transcriber is None else self.transcriber.transcribe([wave])[0],
        )


def own_scores(speech: Speech, target: NDArray[np.float32] | None) -> dict[QualityMetric, float]:
    """Scores of a clip as it is: its similarity to the speaker with the embedding `target`, and its naturalness."""
    scores: dict[QualityMetric, float] = {}
    if speech.embedding is not None and target is not None:
        scores["similarity"] = float(speech.embedding @ target)
    if speech.naturalness is not None:
        scores["naturalness"] = speech.naturalness
    return scores


def kept_scores(converted: Speech, source: Speech) -> dict[QualityMetric, float]:
    """Scores of what a conversion kept of its source: words, intonation and voicing."""
    scores: dict[QualityMetric, float] = {}
    if converted.text is not None and source.text is not None:
        scores["character_error_rate"] = character_error_rate(source.text, converted.text)
    length = min(len(converted.hz), len(source.hz))
    hz, reference = fit_length(converted.hz, length), fit_length(source.hz, length)
    if length:
        scores["voicing_agreement"] = float(np.mean((hz > 0) == (reference > 0)))
    both = (hz > 0) & (reference > 0)
    if both.sum() > 2:
        one, other = np.log(hz[both]), np.log(reference[both])
        spread = float(one.std() * other.std())
        covariance = float(np.mean((one - one.mean()) * (other - other.mean())))
        scores["f0_correlation"] = covariance / spread if spread > 1e-9 else 0.0
    return scores


def mean_scores(scores: Iterable[Scores]) -> dict[QualityMetric, float]:
    """Mean of each score over the clips that have it."""
    found: dict[QualityMetric, list[float]] = {}
    for each in scores:
        for name, value in each.items():
            if math.isfinite(value):
                found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}
