"""Scores of the synthesizer on a few fixed clips, rendered from their own content and pitch as in a conversion.

Clips, windows and noise are the same at every save of a run, so that its scores are comparable:

- `eval/mel`: mean absolute log-mel difference of render and recording, weighted as the training's mel loss. The render
  is that of a conversion (text encoder, flow, decoder); training's mel loss encodes the recording's spectrogram with
  the posterior encoder, and stays low for a voice that fails to render from content. The lowest is the best save, of
  those whose pitch is right (see `history`).
- `eval/mel_posterior`: training's mel loss, on fixed segments.
- `eval/f0_cents`: mean distance of the pitch curves of render and recording, by the same estimator for both, over the
  frames that are voiced in both; `eval/voicing`: share of frames voiced in one of them only.
- `eval/similarity`: cosine of render and voice by a speaker scorer, where one is installed.

PyTorch's global random state is neither read nor changed, and the model is left as it was: training is not affected.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from rvc_engine.audio.mel import log_mel, spectrogram
from rvc_engine.data.clips import ClipFiles, load_clip
from rvc_engine.data.split import name_hash
from rvc_engine.evaluation.speaker_similarity import SpeakerScorer
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE, MEL_WEIGHT, Hyperparameters
from rvc_engine.models.losses import mel_distance
from rvc_engine.models.synthesizer import PRIOR_NOISE_SCALE, Noise, Synthesizer, cut_segments
from rvc_engine.pitch.curve import fit_length
from rvc_engine.pitch.estimators import PitchEstimator

PREVIEW_FRAMES = 400
"""Length of the clip that is also written as a preview, at most: 4 s."""
OTHER_FRAMES = 150
"""Length of every other clip, at most, from its middle: away from the overlap with its neighbours."""
TRIAL_FRAMES = 50
"""Length of a timed trial: 0.5 s."""
EVAL_OVERHEAD = 1.3
"""Duration of an evaluation relative to its rendering: also posterior encoder, pitch, preview, the best's export."""
MEL = "eval/mel"
MEL_POSTERIOR = "eval/mel_posterior"
F0_CENTS = "eval/f0_cents"
VOICING = "eval/voicing"
SIMILARITY = "eval/similarity"


class ConversionInputs(NamedTuple):
    """Arguments of `Synthesizer.infer` for one clip."""

    features: Tensor
    """(1, T, feature_size)."""
    coarse_f0: Tensor | None
    """(1, T)."""
    f0: Tensor | None
    """(1, T), Hz."""
    lengths: Tensor
    """(1,), T."""
    speakers: Tensor
    """(1,)."""
    prior_noise: Tensor
    """(1, hidden, T), scaled."""
    source_noise: Tensor | None
    """(1, T * hop)."""

    def first(self, frames: int, hop_length: int) -> "ConversionInputs":
        """The inputs of the first `frames` frames."""
        return ConversionInputs(
            self.features[:, :frames],
            None if self.coarse_f0 is None else self.coarse_f0[:, :frames],
            None if self.f0 is None else self.f0[:, :frames],
            torch.full_like(self.lengths, frames),
            self.speakers,
            self.prior_noise[:, :, :frames],
            None if self.source_noise is None else self.source_noise[:, : frames * hop_length],
        )


class SegmentInputs(NamedTuple):
    """Arguments of `Synthesizer.generate` for B segments of one clip."""

    f0: Tensor | None
    """(B, T), Hz."""
    spec: Tensor
    """(B, bins, T)."""
    lengths: Tensor
    """(B,), T."""
    speakers: Tensor
    """(B,)."""
    starts: Tensor
    """(B,), first frames of the segments."""
    noise: Noise


@dataclass(frozen=True)
class Window:
    """The evaluated part of a clip, of T frames, with all inputs of the model on the device."""

    name: str
    wave: NDArray[np.float32]
    """(T * hop,), the recording."""
    mel: Tensor
    """(1, n_mels, T), log-mel of the recording."""
    conversion: ConversionInputs
    segments: SegmentInputs
    segment_mel: Tensor
    """(B, n_mels, segment frames), log-mel of the recording's segments."""

    @property
    def frames(self) -> int:
        """T."""
        return self.mel.shape[2]

    @property
    def speaker(self) -> int:
        """Row of the speaker embedding."""
        return int(self.conversion.speakers)


@dataclass(frozen=True)
class Rendering:
    """A clip rendered with the voice."""

    name: str
    wave: NDArray[np.float32]
    """(T * hop,)."""
    mel: NDArray[np.float32]
    """(n_mels, T), log-mel of the render."""
    scores: dict[str, float]
    """Scores of this clip."""


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a save."""

    values: dict[str, float]
    """Over all clips, by the keys of this module. Scores that could not be measured are left out."""
    renderings: list[Rendering] = field(default_factory=list)
    """One for each clip, in order."""


@dataclass(frozen=True)
class _PitchCount:
    cents: float
    """Summed over the frames voiced in both."""
    num_both: int
    num_one: int
    """Frames voiced in one of the two only."""
    num_frames: int


class Evaluator:
    """Evaluator of the same windows of a few clips at every save."""

    def __init__(
        self,
        clips: Sequence[ClipFiles],
        hparams: Hyperparameters,
        device: torch.device,
        estimator: PitchEstimator,
        scorer: SpeakerScorer | None,
    ) -> None:
        """The longest clip comes first, with up to PREVIEW_FRAMES frames: it is the preview."""
        self._hparams, self._device = hparams, device
        self._estimator, self._scorer = estimator, scorer
        longest_first = sorted(clips, key=lambda clip: -min(clip.frames, PREVIEW_FRAMES))
        lengths = [PREVIEW_FRAMES] + [OTHER_FRAMES] * (len(clips) - 1)
        self.windows = [
            _load_window(files, length, hparams, device) for files, length in zip(longest_first, lengths, strict=True)
        ]
        waves = [_to_16k(window.wave, hparams) for window in self.windows]
        self._curves = self._estimator.estimate(waves)
        self._speakers = None if scorer is None else _mean_by_speaker(scorer, self.windows, waves)

    @property
    def num_frames(self) -> int:
        """Frames rendered in an evaluation."""
        return sum(window.frames for window in self.windows)

    def estimate_seconds(self, model: Synthesizer) -> float:
        """Estimated duration of an evaluation, from rendering half a second; a rendering before loads its kernels."""
        frames = min(TRIAL_FRAMES, self.windows[0].frames)
        inputs = self.windows[0].conversion.first(frames, self._hparams.hop_length)
        with eval_mode(model):
            float(model.infer(*inputs).sum())  # reading the sum waits for the device
            started = time.monotonic()
            float(model.infer(*inputs).sum())
        return (time.monotonic() - started) / frames * self.num_frames * EVAL_OVERHEAD

    def evaluate(self, model: Synthesizer) -> Evaluation:
        """Render and score all clips."""
        renderings, counts = [], []
        with eval_mode(model):
            for window, curve in zip(self.windows, self._curves, strict=True):
                rendering, count = self._evaluate_window(model, window, curve)
                renderings.append(rendering)
                counts.append(count)
        values = _overall([each.scores for each in renderings], counts)
        return Evaluation({key: value for key, value in values.items() if math.isfinite(value)}, renderings)

    def _evaluate_window(
        self, model: Synthesizer, window: Window, curve: NDArray[np.float64]
    ) -> tuple[Rendering, _PitchCount]:
        hparams = self._hparams
        wave = model.infer(*window.conversion)
        mel = log_mel(spectrogram(wave[:, 0], hparams.n_fft, hparams.hop_length), hparams.sample_rate, hparams.n_mels)
        rendered = wave[0, 0].float().cpu().numpy()
        rendered_16k = _to_16k(rendered, hparams)
        count = _compare_pitch(self._estimator.estimate([rendered_16k])[0], curve)
        scores = {
            MEL: MEL_WEIGHT * float((mel - window.mel).abs().mean()),
            MEL_POSTERIOR: MEL_WEIGHT
            * float(mel_distance(hparams, model.generate(*window.segments), window.segment_mel)),
            **_pitch_scores([count]),
        }
        if self._scorer is not None and self._speakers is not None:
            scores[SIMILARITY] = _cosine(self._scorer.embed(rendered_16k), self._speakers[window.speaker])
        return Rendering(window.name, rendered, mel[0].float().cpu().numpy(), scores), count


def _mean_by_speaker(
    scorer: SpeakerScorer, windows: Sequence[Window], waves: Sequence[NDArray[np.float32]]
) -> dict[int, NDArray[np.float32]]:
    """Mean embedding of each speaker's recordings."""
    embedded: dict[int, list[NDArray[np.float32]]] = {}
    for window, wave in zip(windows, waves, strict=True):
        embedded.setdefault(window.speaker, []).append(scorer.embed(wave))
    return {number: np.mean(each, axis=0) for number, each in embedded.items()}


@contextmanager
def eval_mode(model: Synthesizer) -> Iterator[None]:
    """The model in evaluation mode and without gradients, restored afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def _load_window(files: ClipFiles, max_frames: int, hparams: Hyperparameters, device: torch.device) -> Window:
    """The middle of a clip, at most `max_frames` frames; its noise is seeded by its name."""
    clip = load_clip(files)
    frames = min(clip.frames, max_frames)
    start, hop = (clip.frames - frames) // 2, hparams.hop_length
    spec = spectrogram(clip.wave.unsqueeze(0), hparams.n_fft, hop)[:, :, start : start + frames].to(device)
    rng = torch.Generator().manual_seed(int(name_hash(files.wave.stem)[:12], 16))

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng).to(device)

    def cut(curve: Tensor | None) -> Tensor | None:
        return None if curve is None else curve[None, start : start + frames].to(device)

    f0 = cut(clip.f0)
    conversion = ConversionInputs(
        features=clip.features[None, start : start + frames].to(device),
        coarse_f0=cut(clip.coarse_f0),
        f0=f0,
        lengths=torch.tensor([frames], device=device),
        speakers=torch.tensor([clip.speaker], device=device),
        prior_noise=noise(1, hparams.hidden_channels, frames) * PRIOR_NOISE_SCALE,
        source_noise=noise(1, frames * hop) if hparams.f0 else None,
    )
    starts = torch.tensor([(frames - hparams.segment_frames) * part // 4 for part in (1, 3)], device=device)
    count = len(starts)
    segments = SegmentInputs(
        f0=None if f0 is None else f0.expand(count, -1),
        spec=spec.expand(count, -1, -1),
        lengths=conversion.lengths.expand(count),
        speakers=conversion.speakers.expand(count),
        starts=starts,
        noise=Noise(
            noise(1, hparams.hidden_channels, frames).expand(count, -1, -1),
            noise(count, hparams.segment_samples) if hparams.f0 else None,
        ),
    )
    wave: NDArray[np.float32] = clip.wave[start * hop : (start + frames) * hop].numpy()
    mel = log_mel(spec, hparams.sample_rate, hparams.n_mels)
    segment_spec = cut_segments(segments.spec, starts, hparams.segment_frames)
    segment_mel = log_mel(segment_spec, hparams.sample_rate, hparams.n_mels)
    return Window(files.wave.stem, wave, mel, conversion, segments, segment_mel)


def _to_16k(wave: NDArray[np.float32], hparams: Hyperparameters) -> NDArray[np.float32]:
    return np.asarray(soxr.resample(wave, hparams.sample_rate, ANALYSIS_SAMPLE_RATE), np.float32)


def _compare_pitch(rendered: NDArray[np.float64], recorded: NDArray[np.float64]) -> _PitchCount:
    rendered = fit_length(rendered, len(recorded))
    is_one, is_other = rendered > 0, recorded > 0
    both = is_one & is_other
    cents = np.abs(1200 * np.log2(rendered[both] / recorded[both])).sum()
    return _PitchCount(float(cents), int(both.sum()), int((is_one != is_other).sum()), len(recorded))


def _pitch_scores(counts: Sequence[_PitchCount]) -> dict[str, float]:
    scores = {}
    if num_frames := sum(count.num_frames for count in counts):
        scores[VOICING] = sum(count.num_one for count in counts) / num_frames
    if num_both := sum(count.num_both for count in counts):
        scores[F0_CENTS] = sum(count.cents for count in counts) / num_both
    return scores


def _overall(scores: Sequence[dict[str, float]], counts: Sequence[_PitchCount]) -> dict[str, float]:
    """Means over the clips; pitch scores over the frames of all clips together."""
    means = {
        key: float(np.mean([each[key] for each in scores]))
        for key in (MEL, MEL_POSTERIOR, SIMILARITY)
        if all(key in each for each in scores)
    }
    return means | _pitch_scores(counts)


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12))
