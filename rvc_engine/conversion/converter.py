"""Conversion of recordings to a voice.

The method is the reference's (FORMATS, "Conversion"), with the same numbers in float32, except for two faults of it:
`protect` uses the pitch before gaps are filled, as intended, and no audio is lost at the cuts of long input.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy.signal
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from rvc_engine.audio.high_pass import HIGH_PASS_HZ, HIGH_PASS_ORDER
from rvc_engine.audio.reading import UnreadableAudio, read_mono
from rvc_engine.config import PitchEstimator as EstimatorName
from rvc_engine.config import SampleRate
from rvc_engine.content.encoders import ContentEncoder, create_encoder
from rvc_engine.content.windows import num_content_frames
from rvc_engine.conversion.formats import check_suffix, write_audio
from rvc_engine.errors import InvalidConfig, InvalidDataset
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE
from rvc_engine.index.retrieval import Retrieval
from rvc_engine.machine import Machine
from rvc_engine.models.synthesizer import PRIOR_NOISE_SCALE
from rvc_engine.pitch.curve import coarse_pitch, interpolate_unvoiced
from rvc_engine.pitch.estimators import PitchEstimator, create_estimator
from rvc_engine.voices.extract import load_voice_or_save
from rvc_engine.voices.voice import Voice

FRAME = 160
"""Samples at 16 kHz per frame of pitch: 10 ms."""
MAX_INPUT_PEAK = 0.95
MAX_OUTPUT_PEAK = 0.99
PADDING = 1 * ANALYSIS_SAMPLE_RATE
"""Samples of reflected sound before and after each piece, so that its ends have context."""
LONGEST_WHOLE = 41 * ANALYSIS_SAMPLE_RATE
"""Longest input, in samples, that is converted in one piece."""
CUT_EVERY = 38 * ANALYSIS_SAMPLE_RATE
"""Distance between the cuts of longer input, in samples."""
CUT_WITHIN = 6 * ANALYSIS_SAMPLE_RATE
"""Largest shift of a cut, in samples, to the quietest point."""
SHORTEST = 400
"""Shortest input, in samples."""


@dataclass(frozen=True)
class ConversionOptions:
    """Options of a conversion. Defaults are RVC's for a single file."""

    key_shift: float | None = 0.0
    """Semitones to raise the pitch by; None: as many as move the recording's median pitch to the voice's."""
    index_rate: float = 0.75
    """Share of the features retrieved from the index, if one is given: 0 none, 1 all."""
    protect: float = 0.33
    """Share of the index's effect on unvoiced sounds (breath, s, t); 0.5 switches the protection off."""
    rms_mix_rate: float = 0.25
    """Loudness envelope: 0 the recording's, 1 the voice's own."""
    pitch: EstimatorName = "swift"
    """Pitch estimator."""
    speaker: int = 0
    """Row of the voice's speaker embedding."""
    seed: int = 0
    """Seed of the synthesizer's noise."""

    def __post_init__(self) -> None:
        for name, highest in (("index_rate", 1.0), ("protect", 0.5), ("rms_mix_rate", 1.0)):
            if not 0 <= getattr(self, name) <= highest:
                raise InvalidConfig(f"{name} is {getattr(self, name)}; it must be between 0 and {highest:g}")
        if self.key_shift is not None and not -48 <= self.key_shift <= 48:
            raise InvalidConfig(f"key_shift is {self.key_shift}; it must be between -48 and 48 semitones")


@dataclass(frozen=True)
class _Pitch:
    """Pitch of padded input, one value per 10 ms."""

    hz: NDArray[np.float64]
    """(frames,), Hz, with gaps filled and the key shifted."""
    is_voiced: NDArray[np.bool_]
    """(frames,)."""


@dataclass(frozen=True)
class _Piece:
    """A part of the input, padded on both sides by PADDING samples of the sound around it."""

    wave: NDArray[np.float32]
    """(num_samples + 2 * PADDING or a little more,), at 16 kHz."""
    pitch: _Pitch | None
    num_samples: int
    """Samples without the padding, at 16 kHz."""


@dataclass(frozen=True)
class Converted:
    """Converted speech."""

    samples: NDArray[np.int16]
    """(num_samples,), at the voice's sample rate."""
    key_shift: float
    """Semitones that the pitch was raised by."""


class Analysis:
    """Content encoders and pitch estimators of a device, each loaded once and used by all its converters."""

    def __init__(self, machine: Machine, device: torch.device) -> None:
        self.device = device
        self._machine = machine
        self._encoders: dict[tuple[str, str], ContentEncoder] = {}
        self._estimators: dict[str, PitchEstimator] = {}

    def encoder(self, voice: Voice) -> ContentEncoder:
        """The encoder that a voice was trained with. Raises as `create_encoder`."""
        key = (voice.embedder, voice.hparams.version)
        if key not in self._encoders:
            self._encoders[key] = create_encoder(
                voice.encoder, voice.hparams.version, self._machine, self.device, voice.embedder
            )
        return self._encoders[key]

    def estimator(self, name: EstimatorName) -> PitchEstimator:
        """A pitch estimator. Raises as `create_estimator`."""
        if name not in self._estimators:
            self._estimators[name] = create_estimator(name, self._machine)
        return self._estimators[name]


class Converter:
    """A voice with its index, ready to convert."""

    def __init__(
        self,
        voice: Path,
        index: Path | None,
        analysis: Analysis,
        sample_rate: SampleRate | None = None,
        content: str | None = None,
    ) -> None:
        """Load a voice file, or a save of a training.

        `sample_rate` and `content`: the training's, where its file leaves them open. Raises IncompatibleCheckpoint for
        another file or another voice's index, and MissingWeights.
        """
        self._device = analysis.device
        self._voice = load_voice_or_save(voice, self._device, sample_rate, content)
        self._retrieval = Retrieval(index, self._voice.hparams.feature_size) if index is not None else None
        self._encoder = analysis.encoder(self._voice)
        self._analysis = analysis

    @property
    def sample_rate(self) -> int:
        """Sample rate of the output, in Hz."""
        return self._voice.hparams.sample_rate

    def convert(
        self,
        wave_16k: NDArray[np.float32],
        options: ConversionOptions,
        progress: Callable[[float], None] = lambda _share: None,
    ) -> Converted:
        """Convert speech, (num_samples,) at 16 kHz, to 16-bit samples at `sample_rate`.

        `progress` is called with the share that is done. Raises InvalidDataset for too short input, InvalidConfig for a
        speaker that the voice does not have, an estimator that is not installed or a median pitch that is unknown, and
        MissingWeights for an estimator without its weights.
        """
        self._check_speaker(options.speaker)
        if options.key_shift is None:
            self._check_median_pitch(options.speaker)
        wave = high_pass(limit_peak(wave_16k))
        padded = np.pad(wave, PADDING, mode="reflect")
        hz = self._estimate(padded, options) if self._voice.hparams.f0 else None
        key_shift = self._key_shift(hz, options)
        pieces = list(self._pieces(wave, padded, hz, key_shift))
        rng = torch.Generator().manual_seed(options.seed)
        parts = []
        for done, piece in enumerate(pieces):
            progress(done / len(pieces))
            parts.append(self._synthesize(piece, options, rng))
        progress(1.0)
        output = np.concatenate(parts)
        num_reference_samples = len(output) - len(parts[-1]) + self._num_reference_samples(pieces[-1])
        loud = mix_loudness(wave, output, self.sample_rate, options.rms_mix_rate, num_reference_samples)
        return Converted(to_int16(loud), key_shift)

    def _num_reference_samples(self, piece: _Piece) -> int:
        """Samples of the reference's output for the last piece, whose features are a frame or two shorter."""
        frames = min(2 * num_content_frames(len(piece.wave)), len(piece.wave) // FRAME) - 2 * PADDING // FRAME
        return frames * self._voice.hparams.hop_length

    def find_speaker(self, name: str) -> int:
        """The id of a speaker by name or number; without a name, of the first. Raises InvalidConfig if unknown."""
        names = self._voice.speakers
        if not name:
            return min(names, default=0)
        ids = {known: number for number, known in names.items()}
        if name in ids or (name.isascii() and name.isdigit()):
            return ids[name] if name in ids else int(name)
        listed = ", ".join(f"{number} {known}" for number, known in names.items()) or "numbered speakers without names"
        raise InvalidConfig(f"the voice has no speaker {name!r}; it has {listed}")

    def _check_speaker(self, speaker: int) -> None:
        count = self._voice.hparams.num_speakers
        if not 0 <= speaker < count:
            raise InvalidConfig(f"the speaker is {speaker}, but the voice has speakers 0 to {count - 1}")

    def _check_median_pitch(self, speaker: int) -> None:
        if self._voice.hparams.f0 and speaker not in self._voice.median_pitch:
            raise InvalidConfig(
                "pitch_shift=auto needs the voice's median pitch, which this voice does not carry: it was made by "
                "another program or an earlier version; give the semitones, such as 12 from a man to a woman"
            )

    def _key_shift(self, hz: NDArray[np.float64] | None, options: ConversionOptions) -> float:
        """The semitones to shift by: given, or whole ones between the medians, so that music stays in a known key."""
        if options.key_shift is not None:
            return options.key_shift
        if hz is None or not (hz > 0).any():  # a voice without pitch, or no voiced sound
            return 0.0
        target = self._voice.median_pitch[options.speaker]
        return float(np.clip(np.rint(12 * np.log2(target / np.median(hz[hz > 0]))), -48, 48))

    def _pieces(
        self, wave: NDArray[np.float32], padded: NDArray[np.float32], hz: NDArray[np.float64] | None, key_shift: float
    ) -> Iterator[_Piece]:
        pitch = None if hz is None else _Pitch(interpolate_unvoiced(hz) * 2 ** (key_shift / 12), hz > 0)
        edges = [0, *cut_points(wave), len(wave)]
        for start, end in pairwise(edges):
            is_last = end == len(wave)
            stop = len(padded) if is_last else end + 2 * PADDING + FRAME
            frames = slice(start // FRAME, None if is_last else (end + 2 * PADDING) // FRAME)
            own = _Pitch(pitch.hz[frames], pitch.is_voiced[frames]) if pitch is not None else None
            yield _Piece(padded[start:stop], own, end - start)

    def _estimate(self, padded: NDArray[np.float32], options: ConversionOptions) -> NDArray[np.float64]:
        [hz] = self._analysis.estimator(options.pitch).estimate([padded])
        return hz

    def _features(self, piece: _Piece, options: ConversionOptions) -> NDArray[np.float32]:
        """Content features of a piece, one row per 10 ms, (frames, feature_size)."""
        [own] = self._encoder.encode([piece.wave])
        blended = self._retrieval.blend(own, options.index_rate) if self._retrieval is not None else own
        own, blended = own.repeat(2, axis=0), blended.repeat(2, axis=0)
        if piece.pitch is None or options.protect >= 0.5:
            return blended
        return protect_unvoiced(own, blended, piece.pitch.is_voiced, options.protect)

    def _synthesize(self, piece: _Piece, options: ConversionOptions, rng: torch.Generator) -> NDArray[np.float32]:
        """Synthesize a piece, without its padding: (samples,) at `sample_rate`."""
        hparams = self._voice.hparams
        features = self._features(piece, options)
        lengths = [len(features), len(piece.wave) // FRAME, *([len(piece.pitch.hz)] if piece.pitch else [])]
        frames = min(lengths)
        prior = torch.randn(1, hparams.hidden_channels, frames, generator=rng) * PRIOR_NOISE_SCALE
        source = torch.randn(1, frames * hparams.hop_length, generator=rng) if hparams.f0 else None
        hz = piece.pitch.hz[:frames] if piece.pitch is not None else None
        wave = self._voice.model.infer(
            self._tensor(features[:frames]),
            None if hz is None else self._tensor(coarse_pitch(hz)),
            None if hz is None else self._tensor(hz.astype(np.float32)),
            torch.tensor([frames], device=self._device),
            torch.tensor([options.speaker], device=self._device),
            prior.to(self._device),
            None if source is None else source.to(self._device),
        )
        # Counted from the start: the features may end a frame or two early, within the padding.
        start = PADDING * hparams.sample_rate // ANALYSIS_SAMPLE_RATE
        output: NDArray[np.float32] = wave[0, 0].float().cpu().numpy()
        return output[start:][: piece.num_samples * hparams.sample_rate // ANALYSIS_SAMPLE_RATE]

    def _tensor(self, values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values))[None].to(self._device)


def convert_file(
    source: Path,
    target: Path,
    converter: Converter,
    options: ConversionOptions,
    progress: Callable[[float], None] = lambda _share: None,
) -> float:
    """Convert an audio file to one of the suffix's format; return the length of the output in seconds.

    Raises InvalidConfig for another suffix, InvalidDataset when the source cannot be read, DiskFull, and the errors of
    `Converter.convert`.
    """
    check_suffix(target)
    try:
        wave = read_mono(source, ANALYSIS_SAMPLE_RATE)
    except UnreadableAudio as error:
        raise InvalidDataset(f"{source.name} cannot be read: {error}") from error
    output = converter.convert(wave, options, progress).samples
    write_audio(target, output, converter.sample_rate)
    return len(output) / converter.sample_rate


def limit_peak(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale the input down if its peak is too high. Raises InvalidDataset when it is too short to convert."""
    if len(wave) < SHORTEST:
        raise InvalidDataset(f"the recording is only {len(wave) / ANALYSIS_SAMPLE_RATE:.3f} s long; use a longer one")
    excess = np.abs(wave).max() / MAX_INPUT_PEAK
    return wave / excess if excess > 1 else wave


def high_pass(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply the 48 Hz high-pass forwards and backwards, without a shift in time."""
    b, a = scipy.signal.butter(HIGH_PASS_ORDER, HIGH_PASS_HZ, "high", fs=ANALYSIS_SAMPLE_RATE)
    filtered: NDArray[np.float32] = scipy.signal.filtfilt(b, a, wave).astype(np.float32)
    return filtered


def cut_points(wave: NDArray[np.float32]) -> list[int]:
    """Cuts of long input, in samples at whole frames: the quietest point near each multiple of CUT_EVERY."""
    if len(wave) + FRAME <= LONGEST_WHOLE:
        return []
    padded = np.abs(np.pad(wave, FRAME // 2, mode="reflect")).astype(np.float64)
    sums = np.concatenate([[0.0], padded.cumsum()])
    loudness = sums[FRAME:-1] - sums[: -FRAME - 1]  # of the frame around each sample, (len(wave),)
    points = []
    for middle in range(CUT_EVERY, len(wave), CUT_EVERY):
        start = middle - CUT_WITHIN
        quietest = start + int(loudness[start : middle + CUT_WITHIN].argmin())
        points.append(quietest // FRAME * FRAME)
    return points


def protect_unvoiced(
    own: NDArray[np.float32], blended: NDArray[np.float32], is_voiced: NDArray[np.bool_], protect: float
) -> NDArray[np.float32]:
    """Features (frames, size): blended for voiced frames, protect * blended + (1 - protect) * own for unvoiced ones."""
    frames = min(len(blended), len(is_voiced))
    share = np.where(is_voiced[:frames], np.float32(1), np.float32(protect))[:, None]
    mixed: NDArray[np.float32] = share * blended[:frames] + (np.float32(1) - share) * own[:frames]
    return mixed


def loudness_envelope(wave: NDArray[np.float32], sample_rate: int, length: int) -> Tensor:
    """RMS over frames of 1 s, every 0.5 s, interpolated linearly to (length,)."""
    hop = sample_rate // 2
    padded = np.pad(wave.astype(np.float64), hop)
    sums = np.concatenate([[0.0], np.square(padded).cumsum()])
    starts = np.arange(1 + len(wave) // hop) * hop
    rms = np.sqrt(np.maximum(sums[starts + 2 * hop] - sums[starts], 0) / (2 * hop))
    line = F.interpolate(torch.from_numpy(rms.astype(np.float32))[None, None], size=length, mode="linear")
    return line[0, 0]


def mix_loudness(
    wave_16k: NDArray[np.float32],
    output: NDArray[np.float32],
    sample_rate: int,
    rate: float,
    num_reference_samples: int | None = None,
) -> NDArray[np.float32]:
    """Scale the output to a loudness between the input's (rate 0) and its own (rate 1).

    Envelopes span the first `num_reference_samples` of the output, by default all, and the gain is constant after that:
    the reference loses the last few frames, so its envelopes span the shorter output.
    """
    if rate == 1:
        return output
    length = max(1, len(output) if num_reference_samples is None else num_reference_samples)
    target = loudness_envelope(wave_16k, ANALYSIS_SAMPLE_RATE, length)
    own = loudness_envelope(output[:length], sample_rate, length).clamp(min=1e-6)
    gain: NDArray[np.float32] = (target ** (1 - rate) * own ** (rate - 1)).numpy()
    return output * np.pad(gain, (0, len(output) - length), mode="edge")


def to_int16(wave: NDArray[np.float32]) -> NDArray[np.int16]:
    """Convert samples to 16-bit integers, scaled down if the peak is too high."""
    peak = np.abs(wave).max(initial=0.0) / MAX_OUTPUT_PEAK
    scale = 32768 / max(peak, 1.0)
    samples: NDArray[np.int16] = (wave * scale).astype(np.int16)
    return samples
