"""How good the generator is on a few fixed clips, rendered from their own content and pitch as a conversion does.

The same clips, places in them and noise at every save of a run, so that its values can be compared. What is measured:

- `eval/mel`: mean absolute log-mel difference of render and recording, weighted as the training's mel loss. The render
  takes the way of a conversion (text encoder, flow, decoder): training's own mel loss gets the recording's spectrogram
  through the posterior encoder, and stays low for a voice that cannot speak from content. The lowest is the best save.
- `eval/mel_posterior`: training's own mel loss, on fixed segments.
- `eval/f0_cents`: mean distance of the pitch curves of render and recording, by the same estimator for both, over the
  frames that are voiced in both; `eval/voicing`: share of frames voiced in one of them only.
- `eval/similarity`: cosine of render and voice by a speaker scorer, where one is installed.

PyTorch's global random state is neither read nor changed, and the nets keep no trace: training goes on as without.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from rvc_engine.audio.mel import log_mel, spectrogram
from rvc_engine.data.clips import Clip, ClipFiles, load_clip
from rvc_engine.data.split import name_hash
from rvc_engine.evaluation.speaker_similarity import SpeakerScorer
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE, MEL_WEIGHT, Hyperparameters
from rvc_engine.models.losses import mel_distance
from rvc_engine.models.synthesizer import PRIOR_NOISE_SCALE, Noise, Synthesizer, cut_segments
from rvc_engine.pitch.curve import fit_length
from rvc_engine.pitch.estimators import PitchEstimator

PREVIEW_FRAMES = 400
"""The clip that is also written as a preview is rendered up to this length: 4 s."""
OTHER_FRAMES = 150
"""Of every other clip so much is rendered, from its middle: away from where its neighbours overlap it."""
TRIAL_FRAMES = 50
EVAL_OVERHEAD = 1.3
"""Seconds of an evaluation for each second of its rendering: the posterior's way, pitch, preview, the best's export."""
MEL = "eval/mel"
MEL_POSTERIOR = "eval/mel_posterior"
F0_CENTS = "eval/f0_cents"
VOICING = "eval/voicing"
SIMILARITY = "eval/similarity"


@dataclass(frozen=True)
class Window:
    """The part of a clip that is rendered, on the device, with its noise and what is known of the recording."""

    name: str
    features: Tensor
    """(1, T, feature_size)."""
    coarse_f0: Tensor | None
    """(1, T)."""
    f0: Tensor | None
    """(1, T), Hz."""
    spec: Tensor
    """(1, bins, T)."""
    mel: Tensor
    """(1, n_mels, T), log-mel of the recording."""
    speaker: Tensor
    """(1,)."""
    prior_noise: Tensor
    """(1, hidden, T), scaled."""
    source_noise: Tensor | None
    """(1, T * hop)."""
    posterior_noise: Noise
    starts: Tensor
    """(2,), first frames of the segments for the posterior's way."""
    wave: NDArray[np.float32]
    """(T * hop,), the recording."""

    @property
    def frames(self) -> int:
        """T."""
        return self.features.shape[1]


@dataclass(frozen=True)
class Rendering:
    """One clip as the voice speaks it."""

    name: str
    wave: NDArray[np.float32]
    """(T * hop,)."""
    mel: NDArray[np.float32]
    """(n_mels, T), log-mel of the render."""
    scores: dict[str, float]
    """Of this clip."""


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a save."""

    values: dict[str, float]
    """Over all clips, by the keys of this module. What could not be measured is left out."""
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
    """Renders and measures the same clips again and again."""

    def __init__(
        self,
        clips: Sequence[ClipFiles],
        hparams: Hyperparameters,
        device: torch.device,
        estimator: PitchEstimator,
        scorer: SpeakerScorer | None,
    ) -> None:
        """The longest clip comes first, and is rendered at length: it is the preview."""
        self._hparams, self._device = hparams, device
        self._estimator, self._scorer = estimator, scorer
        longest_first = sorted(clips, key=lambda clip: -min(clip.frames, PREVIEW_FRAMES))
        lengths = [PREVIEW_FRAMES] + [OTHER_FRAMES] * (len(clips) - 1)
        self.windows = [
            _window(files, length, hparams, device) for files, length in zip(longest_first, lengths, strict=True)
        ]
        waves = [_to_16k(window.wave, hparams) for window in self.windows]
        self._curves = self._estimator.estimate(waves)
        self._speakers = None if scorer is None else _mean_by_speaker(scorer, self.windows, waves)

    @property
    def num_frames(self) -> int:
        """Frames that an evaluation renders."""
        return sum(window.frames for window in self.windows)

    def estimate_seconds(self, model: Synthesizer) -> float:
        """About how long an evaluation takes, estimated from rendering half a second."""
        window, frames = self.windows[0], min(TRIAL_FRAMES, self.windows[0].frames)
        started = time.monotonic()
        with eval_mode(model):
            float(_render(model, window, frames, self._hparams).sum())
        return (time.monotonic() - started) / frames * self.num_frames * EVAL_OVERHEAD

    def evaluate(self, model: Synthesizer) -> Evaluation:
        """Render and measure all clips."""
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
        wave = _render(model, window, window.frames, hparams)
        mel = log_mel(spectrogram(wave[:, 0], hparams.n_fft, hparams.hop_length), hparams.sample_rate, hparams.n_mels)
        rendered = wave[0, 0].float().cpu().numpy()
        rendered_16k = _to_16k(rendered, hparams)
        count = _compare_pitch(self._estimator.estimate([rendered_16k])[0], curve)
        scores = {
            MEL: MEL_WEIGHT * float((mel - window.mel).abs().mean()),
            MEL_POSTERIOR: MEL_WEIGHT * _posterior_distance(model, window, hparams),
            **_pitch_scores([count]),
        }
        if self._scorer is not None and self._speakers is not None:
            scores[SIMILARITY] = _cosine(self._scorer.embed(rendered_16k), self._speakers[int(window.speaker)])
        return Rendering(window.name, rendered, mel[0].float().cpu().numpy(), scores), count


def _mean_by_speaker(
    scorer: SpeakerScorer, windows: Sequence[Window], waves: Sequence[NDArray[np.float32]]
) -> dict[int, NDArray[np.float32]]:
    """What the scorer makes of each speaker's clips, in the mean."""
    embedded: dict[int, list[NDArray[np.float32]]] = {}
    for window, wave in zip(windows, waves, strict=True):
        embedded.setdefault(int(window.speaker), []).append(scorer.embed(wave))
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


def _window(files: ClipFiles, length: int, hparams: Hyperparameters, device: torch.device) -> Window:
    """The middle of a clip, at most `length` frames; its noise comes from its name."""
    clip = load_clip(files)
    frames = min(clip.frames, length)
    start = (clip.frames - frames) // 2
    spec = spectrogram(clip.wave.unsqueeze(0), hparams.n_fft, hparams.hop_length)[:, :, start : start + frames].to(
        device
    )
    rng = torch.Generator().manual_seed(int(name_hash(files.wave.stem)[:12], 16))

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng).to(device)

    starts = torch.tensor([(frames - hparams.segment_frames) * part // 4 for part in (1, 3)], device=device)
    return Window(
        name=files.wave.stem,
        features=clip.features[None, start : start + frames].to(device),
        coarse_f0=_cut(clip.coarse_f0, start, frames, device),
        f0=_cut(clip.f0, start, frames, device),
        spec=spec,
        mel=log_mel(spec, hparams.sample_rate, hparams.n_mels),
        speaker=torch.tensor([clip.speaker], device=device),
        prior_noise=noise(1, hparams.hidden_channels, frames) * PRIOR_NOISE_SCALE,
        source_noise=noise(1, frames * hparams.hop_length) if hparams.f0 else None,
        posterior_noise=Noise(
            noise(1, hparams.hidden_channels, frames).expand(len(starts), -1, -1),
            noise(len(starts), hparams.segment_samples) if hparams.f0 else None,
        ),
        starts=starts,
        wave=_samples(clip, start, frames, hparams),
    )


def _cut(curve: Tensor | None, start: int, frames: int, device: torch.device) -> Tensor | None:
    return None if curve is None else curve[None, start : start + frames].to(device)


def _samples(clip: Clip, start: int, frames: int, hparams: Hyperparameters) -> NDArray[np.float32]:
    wave: NDArray[np.float32] = clip.wave[start * hparams.hop_length : (start + frames) * hparams.hop_length].numpy()
    return wave


def _render(model: Synthesizer, window: Window, frames: int, hparams: Hyperparameters) -> Tensor:
    """The first `frames` of a window as the voice speaks them, (1, 1, frames * hop)."""
    return model.infer(
        window.features[:, :frames],
        None if window.coarse_f0 is None else window.coarse_f0[:, :frames],
        None if window.f0 is None else window.f0[:, :frames],
        torch.tensor([frames], device=window.features.device),
        window.speaker,
        window.prior_noise[:, :, :frames],
        None if window.source_noise is None else window.source_noise[:, : frames * hparams.hop_length],
    )


def _posterior_distance(model: Synthesizer, window: Window, hparams: Hyperparameters) -> float:
    """Mean absolute log-mel difference of two segments that went through the posterior encoder, as in training."""
    count = len(window.starts)

    def repeated(part: Tensor | None) -> Tensor | None:
        return None if part is None else part.expand(count, *part.shape[1:])

    spec = window.spec.expand(count, -1, -1)
    lengths = torch.full((count,), window.frames, device=spec.device)
    output = model(
        window.features.expand(count, -1, -1),
        repeated(window.coarse_f0),
        repeated(window.f0),
        spec,
        lengths,
        window.speaker.expand(count),
        window.starts,
        window.posterior_noise,
    )
    target = log_mel(cut_segments(spec, window.starts, hparams.segment_frames), hparams.sample_rate, hparams.n_mels)
    return float(mel_distance(hparams, output.wave, target))


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
    """Means over the clips; of pitch, over the frames of all clips together."""
    means = {
        key: float(np.mean([each[key] for each in scores]))
        for key in (MEL, MEL_POSTERIOR, SIMILARITY)
        if all(key in each for each in scores)
    }
    return means | _pitch_scores(counts)


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12))
