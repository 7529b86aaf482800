"""How a recording sounds: noise, bandwidth, reverberation, pitch and colour of the voice. No torch, no nets.

Sound is taken in pieces of 20 s, so that memory stays bounded however long the recording is; what is kept are
histograms and a few numbers a window. These are estimates for a person who asks whether the recordings will do, not
measurements by a standard.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

RATE = 48_000
"""All sound is brought to it, so that a frequency means the same in every file."""
PIECE_SECONDS = 20
FRAME = 1536
"""Samples, 32 ms."""
HOP = 768
HOP_SECONDS = HOP / RATE
FRAMES_AT_ONCE = 256
ALL_PIECES = 30
"""The first so many pieces of a file (10 minutes) are all measured,"""
PIECE_STEP = 4
"""and then one of so many: hours of sound shall not cost hours."""

NUM_BANDS = 24
LOWEST_HZ = 60.0
"""Below are draughts and handling, which slicing filters out."""
HISTOGRAM = (-140.0, 20.0, 320)
"""Levels in dB of full scale: least, greatest, number of bins."""
DIGITAL_SILENCE = -100.0
"""dB. What is quieter was never recorded, but edited in: it says nothing of the room."""
NOISE_PERCENTILE = 0.1
"""Share of a band's frames, the quietest, that are taken for noise alone."""
ACTIVE_RANGE = 15.9
"""dB below the level of speech down to which frames count as speech (ITU-T P.56's margin)."""
MIN_FRAMES = 30
"""Half a second: of less nothing is said."""

DECAY_BANDS_HZ = (300.0, 4000.0)
PEAK_HOPS = 16
DECAY_HOPS = 6
"""96 ms."""
DECAY_RANGE = 26.0
"""dB above the noise at which a fall must begin, to have room."""
DECAY_STEP = 4.0
"""dB a second; falls are counted in steps of it."""
NUM_DECAYS = 150
FAST_DECAYS = 0.75
MIN_DECAYS = 60
"""Falls, counted every 16 ms, that a judgement of the room takes: a few seconds of speech over a low noise."""

PITCH_RATE = 8000
PITCH_FRAME = 400
PITCH_HOP = 160
PITCH_FFT = 1024
PITCH_HZ = (65.0, 450.0)
VOICED = 0.6
"""Normalised autocorrelation at the period from which a frame counts as voiced."""
NUM_TIMBRE_BANDS = 20
"""Bands from 100 to 3900 Hz in which the colour of a voice is told: telephones pass them, too."""
WINDOW_FRAMES = 100
"""Voiced frames (2 s of voice) that are summed up as one window."""
MIN_WINDOW_FRAMES = 25

FINGERPRINT_HOPS = 2
FINGERPRINT_SLOTS = 500
"""Of 32 ms: the first 16 s of a file."""
FINGERPRINT_BANDS = 8
FINGERPRINT_RANGE = 50.0
"""dB below the loudest: coders differ in what they make of silence."""

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class VoiceWindow:
    """Up to 2 s of voiced sound."""

    num_frames: int
    pitch: float
    """Median, in octaves above 1 Hz."""
    timbre: Floats
    """(NUM_COLOURS,): mean level in dB of each band, less the mean of all."""


@dataclass(frozen=True)
class AudioQuality:
    """What was measured in one recording; None where there is too little to tell."""

    speech_db: float | None
    """Level of speech, dB of full scale (a full sine is -3)."""
    noise_db: float | None
    """Level of the noise beneath, dB of full scale."""
    bandwidth_hz: float | None
    """Up to where the recording holds anything, pauses and speech taken together."""
    decays: NDArray[np.int64]
    """(NUM_FALLS,): how often the level fell how fast; see `reverberation_seconds`."""
    windows: tuple[VoiceWindow, ...]
    fingerprint: NDArray[np.int8]
    """(slots of 32 ms, SKETCH_BANDS): levels in dB below the loudest, of the first seconds; to tell copies by."""

    @property
    def snr_db(self) -> float | None:
        """Speech over noise, dB."""
        return None if self.speech_db is None or self.noise_db is None else self.speech_db - self.noise_db


class AudioQualityMeter:
    """Takes a recording block by block."""

    def __init__(self) -> None:
        self._rate = 0
        self._to_common: soxr.ResampleStream | None = None
        self._waiting: list[Floats] = []
        self._num_waiting = self._num_pieces = 0
        self._fingerprint = np.zeros((0, FINGERPRINT_BANDS), np.int8)
        least, greatest, bins = HISTOGRAM
        self._bands = np.zeros((NUM_BANDS, bins), np.int64)
        self._levels = np.zeros(bins, np.int64)
        self._peaks = np.zeros(FRAME // 2 + 1)
        self._decays = np.zeros(NUM_DECAYS, np.int64)
        self._voice = _VoiceSums()
        self._scale = bins / (greatest - least)

    def add(self, block: Floats, rate: int) -> None:
        """The next samples, (num_samples,), at `rate` Hz, which may change on the way."""
        if rate != self._rate:
            self._flush_resampler()
            self._rate = rate
            self._to_common = soxr.ResampleStream(rate, RATE, 1, dtype="float32") if rate != RATE else None
        samples = np.asarray(block, np.float32)
        self._keep(samples if self._to_common is None else self._to_common.resample_chunk(samples))

    def result(self) -> AudioQuality:
        """What was measured. Call once, after the last block."""
        self._flush_resampler()
        self._measure_waiting()
        noise, speech = self._noise_db(), None
        if noise is not None:
            speech = self._speech_db(noise)
        return AudioQuality(
            speech_db=speech,
            noise_db=noise,
            bandwidth_hz=self._bandwidth() if speech is not None else None,
            decays=self._decays,
            windows=self._voice.windows(),
            fingerprint=self._fingerprint,
        )

    def _flush_resampler(self) -> None:
        if self._to_common is not None:
            self._keep(self._to_common.resample_chunk(np.zeros(0, np.float32), last=True))
            self._to_common = None

    def _keep(self, samples: Floats) -> None:
        self._waiting.append(samples)
        self._num_waiting += len(samples)
        if self._num_waiting >= PIECE_SECONDS * RATE:
            self._measure_waiting()

    def _measure_waiting(self) -> None:
        piece = np.concatenate(self._waiting) if self._waiting else np.zeros(0, np.float32)
        self._waiting, self._num_waiting = [], 0
        for start in range(0, len(piece), PIECE_SECONDS * RATE):
            part = piece[start : start + PIECE_SECONDS * RATE]
            is_wanted = self._num_pieces < ALL_PIECES or self._num_pieces % PIECE_STEP == 0
            if is_wanted and len(part) >= FRAME:
                self._measure(part)
            self._num_pieces += 1

    def _measure(self, piece: Floats) -> None:
        voice_levels, sketched = [], []
        for power in _spectra(piece):
            total = _decibels(power[:, _first_bin(LOWEST_HZ) :].sum(axis=1))
            is_audible = total > DIGITAL_SILENCE
            self._levels += self._count(total[is_audible])
            in_bands = power @ _BANDS.T
            bands = _decibels(in_bands[is_audible])
            for band in range(NUM_BANDS):
                self._bands[band] += self._count(bands[:, band])
            if self._num_pieces == 0:
                sketched.append(in_bands)
            self._peaks += power[is_audible].sum(axis=0)
            voice_levels.append(_decibels(power[:, slice(*map(_first_bin, DECAY_BANDS_HZ))].sum(axis=1)))
        self._decays += _decay_histogram(np.concatenate(voice_levels))
        if sketched:
            self._fingerprint = _fingerprint(np.concatenate(sketched))
        self._voice.add(piece)

    def _count(self, levels: Floats) -> NDArray[np.int64]:
        least, _, bins = HISTOGRAM
        places = np.clip(((levels - least) * self._scale).astype(np.int64), 0, bins - 1)
        return np.bincount(places, minlength=bins)

    def _noise_db(self) -> float | None:
        """The quietest frames of each band, made up for their being the quietest, over all bands."""
        if self._levels.sum() < MIN_FRAMES:
            return None
        powers = [
            10 ** ((_percentile(counts, NOISE_PERCENTILE) - _bias_db(width)) / 10)
            for counts, width in zip(self._bands, _BANDS.sum(axis=1), strict=True)
        ]
        return float(_decibels(np.array(sum(powers))))

    def _speech_db(self, noise_db: float) -> float | None:
        """The mean power of all frames not far below it, less the noise in them; None when hardly one is louder."""
        levels = _centres()
        powers = 10 ** (levels / 10)
        threshold = noise_db + 3
        for _ in range(20):
            counts = np.where(levels > threshold, self._levels, 0)
            if counts.sum() < MIN_FRAMES // 3:
                return None
            mean = float((counts * powers).sum() / counts.sum())
            threshold = max(noise_db + 3, 10 * math.log10(mean) - ACTIVE_RANGE)
        clean = mean - 10 ** (noise_db / 10)
        return 10 * math.log10(clean) if clean > 0 else None

    def _bandwidth(self) -> float:
        """The highest frequency above which nothing stands out of what a resampler or coder leaves."""
        power = _decibels(self._peaks / max(int(self._levels.sum()), 1))
        width = _first_bin(500)
        smooth = np.convolve(power, np.ones(width) / width, mode="valid")
        edge = _first_bin(1000)
        loudest = smooth[:edge].max()
        audible = np.flatnonzero(smooth > max(loudest - 75, -125))
        return float((audible[-1] + width) * RATE / FRAME) if len(audible) else 0.0


class _VoiceSums:
    """Pitch and colour of voiced frames, window by window."""

    def __init__(self) -> None:
        self._windows: list[VoiceWindow] = []
        self._pitches: list[Floats] = []
        self._timbres: list[Floats] = []

    def add(self, piece: Floats) -> None:
        """A piece at RATE."""
        pitches, timbres = _voiced_frames(soxr.resample(piece, RATE, PITCH_RATE))
        while len(pitches):
            room = WINDOW_FRAMES - sum(map(len, self._pitches))
            self._pitches.append(pitches[:room])
            self._timbres.append(timbres[:room])
            pitches, timbres = pitches[room:], timbres[room:]
            if sum(map(len, self._pitches)) == WINDOW_FRAMES:
                self._close()

    def windows(self) -> tuple[VoiceWindow, ...]:
        """All of them; a last one that is too short is left out."""
        if sum(map(len, self._pitches)) >= MIN_WINDOW_FRAMES:
            self._close()
        return tuple(self._windows)

    def _close(self) -> None:
        pitches, timbre = np.concatenate(self._pitches), np.concatenate(self._timbres).mean(axis=0)
        self._pitches, self._timbres = [], []
        self._windows.append(VoiceWindow(len(pitches), float(np.median(pitches)), timbre - timbre.mean()))


def _voiced_frames(samples: Floats) -> tuple[Floats, Floats]:
    """Pitch (N,) in octaves above 1 Hz and band levels (N, NUM_COLOURS) in dB of the voiced frames."""
    if len(samples) < PITCH_FRAME:
        return np.zeros(0), np.zeros((0, NUM_TIMBRE_BANDS))
    pitches, timbres = [], []
    for frames in _frames(samples, PITCH_FRAME, PITCH_HOP):
        spectra = np.abs(np.fft.rfft(frames * _PITCH_WINDOW, PITCH_FFT)) ** 2
        loud = spectra[:, 1:].sum(axis=1)
        kept = loud > max(10**-4.5 * PITCH_FRAME, 10**-2.5 * float(loud.max(initial=0.0)))
        lags = np.fft.irfft(spectra[kept])[:, : PITCH_FRAME // 2]
        lags = lags / np.maximum(lags[:, :1], 1e-12) / _WINDOW_LAGS
        pitch, is_voiced = _pitch_of(lags)
        pitches.append(pitch[is_voiced])
        timbres.append(_decibels(spectra[kept][is_voiced] @ _TIMBRE_BANDS.T))
    return np.concatenate(pitches), np.concatenate(timbres)


def _pitch_of(lags: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Of normalised autocorrelations (N, lags): octaves above 1 Hz, and where there is a period at all."""
    first, last = int(PITCH_RATE / PITCH_HZ[1]), int(PITCH_RATE / PITCH_HZ[0])
    inner = lags[:, first : last + 1]
    is_peak = (inner >= lags[:, first - 1 : last]) & (inner >= lags[:, first + 1 : last + 2])
    heights = np.where(is_peak, inner, 0)
    best = heights.max(axis=1, initial=0.0)
    # The shortest period among those nearly as good: the others are its multiples.
    lag = np.argmax(heights >= 0.85 * best[:, None], axis=1) + first
    rows = np.arange(len(lags))
    left, middle, right = (lags[rows, lag + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, 1), 0)
    return np.log2(PITCH_RATE / (lag + np.clip(shift, -0.5, 0.5))), best > VOICED


def _frames(samples: Floats, length: int, hop: int) -> Iterator[Floats]:
    """Overlapping frames, (at most FRAMES_AT_ONCE, length) at a time."""
    views = np.lib.stride_tricks.sliding_window_view(samples, length)[::hop]
    for start in range(0, len(views), FRAMES_AT_ONCE):
        yield views[start : start + FRAMES_AT_ONCE]


def _spectra(piece: Floats) -> Iterator[Floats]:
    """Power of each bin, (frames, FRAME // 2 + 1), such that a frame's sum is its mean square."""
    for frames in _frames(piece, FRAME, HOP):
        spectra = np.fft.rfft(frames * _WINDOW)
        yield spectra.real**2 + spectra.imag**2


def _fingerprint(in_bands: Floats) -> NDArray[np.int8]:
    """Of band powers (frames, NUM_BANDS): see `AudioQuality.sketch`."""
    slots = min(len(in_bands) // FINGERPRINT_HOPS, FINGERPRINT_SLOTS)
    grouped = in_bands[: slots * FINGERPRINT_HOPS].reshape(
        slots, FINGERPRINT_HOPS, FINGERPRINT_BANDS, NUM_BANDS // FINGERPRINT_BANDS
    )
    levels = _decibels(grouped.sum(axis=(1, 3)))
    fingerprint: NDArray[np.int8] = np.maximum(levels - levels.max(initial=-140.0), -FINGERPRINT_RANGE).astype(np.int8)
    return fingerprint


def _decay_histogram(levels: Floats) -> NDArray[np.int64]:
    """How often the level (dB, one per HOP) falls how fast behind the peaks of speech: counts by FALLS' steps.

    Looked at is what comes 8 dB and more below a peak of the last quarter of a second: there a room is heard, and the
    direct sound is over. A fall that ends in the noise counts as far as the noise; it must have had room to be fast.
    """
    if len(levels) <= PEAK_HOPS + DECAY_HOPS:
        return np.zeros(NUM_DECAYS, np.int64)
    floor, loud = np.percentile(levels, [5, 90])
    peaks = np.lib.stride_tricks.sliding_window_view(levels, PEAK_HOPS).max(axis=1)[:-DECAY_HOPS]
    now = levels[PEAK_HOPS - 1 : -DECAY_HOPS]
    then = np.maximum(levels[PEAK_HOPS - 1 + DECAY_HOPS :], floor + 3)
    is_seen = (peaks - now > 8) & (peaks > loud - 12) & (now > floor + DECAY_RANGE) & (now > then)
    speeds = (now - then)[is_seen] / (DECAY_HOPS * HOP_SECONDS)
    return np.bincount(np.minimum(speeds / DECAY_STEP, NUM_DECAYS - 1).astype(np.int64), minlength=NUM_DECAYS)


def reverberation_seconds(decays: NDArray[np.int64]) -> float | None:
    """About the time in which sound fades by 60 dB (T60), from summed `AudioQuality.falls`; None where few were seen.

    No fall is faster than the room's, so that of the quick ones tells. Dry speech gives 0.35 s and less, as it fades by
    itself; a voice close to the microphone hides its room in part.
    """
    if decays.sum() < MIN_DECAYS:
        return None
    step = int(np.searchsorted(np.cumsum(decays), FAST_DECAYS * decays.sum()))
    return 60 / ((step + 0.5) * DECAY_STEP)


def _decibels(power: Floats) -> Floats:
    decibels: Floats = 10 * np.log10(np.maximum(power, 1e-14))
    return decibels


def _first_bin(hz: float) -> int:
    return round(hz * FRAME / RATE)


def _centres() -> Floats:
    least, greatest, bins = HISTOGRAM
    return least + (np.arange(bins) + 0.5) * (greatest - least) / bins


def _percentile(counts: NDArray[np.int64], share: float) -> float:
    """The level below which that share of the frames lies."""
    sums = np.cumsum(counts)
    return float(_centres()[int(np.searchsorted(sums, share * sums[-1]))])


def _bias_db(num_bins: float) -> float:
    """By how much the NOISE_PERCENTILE of a band's power lies below its mean, for noise (chi square, Wilson-Hilferty).

    Neighbouring bins of a Hann window are two thirds of a degree of freedom each, twice.
    """
    freedom = max(2 * num_bins / 1.5, 1.0)
    return 30 * math.log10(1 - 2 / (9 * freedom) - 1.2816 * math.sqrt(2 / (9 * freedom)))


def _mel(hz: Floats) -> Floats:
    mel: Floats = 1127 * np.log1p(hz / 700)
    return mel


def _band_rows(num_bands: int, low: float, high: float, bins: int, bin_hz: float) -> Floats:
    """(num_bands, bins): which bins belong to which band; bands are equally wide on the mel scale."""
    position = (_mel(np.arange(bins) * bin_hz) - _mel(np.array(low))) / (_mel(np.array(high)) - _mel(np.array(low)))
    rows: Floats = (np.floor(position * num_bands) == np.arange(num_bands)[:, None]).astype(np.float32)
    return rows


def _window_lags() -> Floats:
    """The autocorrelation of the window itself, by which a frame's is divided."""
    lags = np.fft.irfft(np.abs(np.fft.rfft(_PITCH_WINDOW, PITCH_FFT)) ** 2)[: PITCH_FRAME // 2]
    normalised: Floats = (lags / lags[0]).astype(np.float32)
    return normalised


_WINDOW = np.hanning(FRAME).astype(np.float32)
_WINDOW *= np.float32(np.sqrt(2 / (FRAME * float((_WINDOW**2).sum()))))
_PITCH_WINDOW = np.hanning(PITCH_FRAME).astype(np.float32)
_BANDS = _band_rows(NUM_BANDS, LOWEST_HZ, RATE / 2 + 1, FRAME // 2 + 1, RATE / FRAME)
_TIMBRE_BANDS = _band_rows(NUM_TIMBRE_BANDS, 100.0, 3900.0, PITCH_FFT // 2 + 1, PITCH_RATE / PITCH_FFT)
_WINDOW_LAGS = _window_lags()
