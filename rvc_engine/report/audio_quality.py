"""Audio quality of a recording: noise, bandwidth, reverberation, pitch and timbre. No torch, no neural networks.

Audio is analysed in pieces of 20 s and reduced to histograms and a few numbers per window, so that memory stays bounded
however long the recording is. The results are estimates of whether recordings are good enough for training, not
measurements by a standard.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

RATE = 48_000
"""Hz. All audio is resampled to this rate, so that a bin is the same frequency in every file."""
PIECE_SECONDS = 20
FRAME = 1536
"""Samples, 32 ms."""
HOP = 768
HOP_SECONDS = HOP / RATE
FRAMES_AT_ONCE = 256
ALL_PIECES = 30
"""Pieces at the start of a file (10 minutes) that are all measured."""
PIECE_STEP = 4
"""After ALL_PIECES one piece of this many is measured, to bound the time for recordings of hours."""

NUM_BANDS = 24
LOWEST_HZ = 60.0
"""Draughts and handling noise lie below; slicing filters them out."""
HISTOGRAM = (-140.0, 20.0, 320)
"""Levels in dB of full scale: least, greatest, number of bins."""
DIGITAL_SILENCE = -100.0
"""dB of full scale. Quieter frames were inserted by editing, so they are no measure of the room's noise."""
NOISE_PERCENTILE = 0.1
"""Share of a band's frames, the quietest, that are considered noise alone."""
ACTIVE_RANGE = 15.9
"""Frames down to this many dB below the level of speech count as speech (the margin of ITU-T P.56)."""
MIN_FRAMES = 30
"""Fewest frames (half a second) for an estimate."""

DECAY_BANDS_HZ = (300.0, 4000.0)
PEAK_HOPS = 16
DECAY_HOPS = 6
"""96 ms."""
DECAY_RANGE = 26.0
"""dB above the noise at which a decay must start, to be measurable."""
DECAY_STEP = 4.0
"""dB per second; width of the bins that decays are counted in."""
NUM_DECAYS = 150
FAST_DECAYS = 0.75
MIN_DECAYS = 60
"""Fewest decays, counted every 16 ms, for an estimate of the room: a few seconds of speech over low noise."""

PITCH_RATE = 8000
PITCH_FRAME = 400
PITCH_HOP = 160
PITCH_FFT = 1024
PITCH_HZ = (65.0, 450.0)
VOICED = 0.6
"""Least normalised autocorrelation at the period for a frame to count as voiced."""
NUM_TIMBRE_BANDS = 20
"""Bands from 100 to 3900 Hz that describe timbre; telephones transmit them too."""
WINDOW_FRAMES = 100
"""Voiced frames (2 s of voice) that are averaged to one window."""
MIN_WINDOW_FRAMES = 25

FINGERPRINT_HOPS = 2
FINGERPRINT_SLOTS = 500
"""Slots of 32 ms: the first 16 s of a file."""
FINGERPRINT_BANDS = 8
FINGERPRINT_RANGE = 50.0
"""dB below the loudest slot; codecs differ in how they encode near-silence."""

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class VoiceWindow:
    """Up to 2 s of voiced sound."""

    num_frames: int
    pitch: float
    """Median, in octaves above 1 Hz."""
    timbre: Floats
    """(NUM_TIMBRE_BANDS,): mean level in dB of each band, less the mean of all."""


@dataclass(frozen=True)
class AudioQuality:
    """Measurements of one recording; None where there is too little audio for an estimate."""

    speech_db: float | None
    """Level of speech, dB of full scale (a full-scale sine is -3)."""
    noise_db: float | None
    """Level of the background noise, dB of full scale."""
    bandwidth_hz: float | None
    """Highest frequency with content, in pauses and speech together."""
    decays: NDArray[np.int64]
    """(NUM_DECAYS,): histogram of decay rates in bins of DECAY_STEP; see `reverberation_seconds`."""
    windows: tuple[VoiceWindow, ...]
    fingerprint: NDArray[np.int8]
    """(slots of 32 ms, FINGERPRINT_BANDS): levels in dB below the loudest, of the first seconds; for finding copies."""

    @property
    def snr_db(self) -> float | None:
        """Signal-to-noise ratio, dB."""
        return None if self.speech_db is None or self.noise_db is None else self.speech_db - self.noise_db


class AudioQualityMeter:
    """Measurement of a recording, block by block."""

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
        """Add the next samples, (num_samples,), at `rate` Hz, which may differ from the rate before."""
        if rate != self._rate:
            self._flush_resampler()
            self._rate = rate
            self._to_common = soxr.ResampleStream(rate, RATE, 1, dtype="float32") if rate != RATE else None
        samples = np.asarray(block, np.float32)
        self._keep(samples if self._to_common is None else self._to_common.resample_chunk(samples))

    def result(self) -> AudioQuality:
        """The measurements. Call once, after the last block."""
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
            is_measured = self._num_pieces < ALL_PIECES or self._num_pieces % PIECE_STEP == 0
            if is_measured and len(part) >= FRAME:
                self._measure(part)
            self._num_pieces += 1

    def _measure(self, piece: Floats) -> None:
        voice_levels, fingerprinted = [], []
        for power in _spectra(piece):
            total = _decibels(power[:, _first_bin(LOWEST_HZ) :].sum(axis=1))
            is_audible = total > DIGITAL_SILENCE
            self._levels += self._count(total[is_audible])
            in_bands = power @ _BANDS.T
            bands = _decibels(in_bands[is_audible])
            for band in range(NUM_BANDS):
                self._bands[band] += self._count(bands[:, band])
            if self._num_pieces == 0:
                fingerprinted.append(in_bands)
            self._peaks += power[is_audible].sum(axis=0)
            voice_levels.append(_decibels(power[:, slice(*map(_first_bin, DECAY_BANDS_HZ))].sum(axis=1)))
        self._decays += _decay_histogram(np.concatenate(voice_levels))
        if fingerprinted:
            self._fingerprint = _fingerprint(np.concatenate(fingerprinted))
        self._voice.add(piece)

    def _count(self, levels: Floats) -> NDArray[np.int64]:
        least, _, bins = HISTOGRAM
        numbers = np.clip(((levels - least) * self._scale).astype(np.int64), 0, bins - 1)
        return np.bincount(numbers, minlength=bins)

    def _noise_db(self) -> float | None:
        """The level of the quietest frames of each band, corrected for that choice, summed over bands."""
        if self._levels.sum() < MIN_FRAMES:
            return None
        powers = [
            10 ** ((_percentile(counts, NOISE_PERCENTILE) - _bias_db(width)) / 10)
            for counts, width in zip(self._bands, _BANDS.sum(axis=1), strict=True)
        ]
        return float(_decibels(np.array(sum(powers))))

    def _speech_db(self, noise_db: float) -> float | None:
        """The mean power of the active frames, less the noise in them; None when hardly any frame is above the noise.

        Active are the frames down to ACTIVE_RANGE below that mean, which is found by iteration.
        """
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
        """The highest frequency with more than the residue of a resampler or codec."""
        power = _decibels(self._peaks / max(int(self._levels.sum()), 1))
        width = _first_bin(500)
        smooth = np.convolve(power, np.ones(width) / width, mode="valid")
        edge = _first_bin(1000)
        loudest = smooth[:edge].max()
        audible = np.flatnonzero(smooth > max(loudest - 75, -125))
        return float((audible[-1] + width) * RATE / FRAME) if len(audible) else 0.0


class _VoiceSums:
    """Pitch and timbre of voiced frames, averaged to windows."""

    def __init__(self) -> None:
        self._windows: list[VoiceWindow] = []
        self._pitches: list[Floats] = []
        self._timbres: list[Floats] = []

    def add(self, piece: Floats) -> None:
        """Add a piece, (num_samples,), at RATE."""
        pitches, timbres = _voiced_frames(soxr.resample(piece, RATE, PITCH_RATE))
        while len(pitches):
            missing = WINDOW_FRAMES - sum(map(len, self._pitches))
            self._pitches.append(pitches[:missing])
            self._timbres.append(timbres[:missing])
            pitches, timbres = pitches[missing:], timbres[missing:]
            if sum(map(len, self._pitches)) == WINDOW_FRAMES:
                self._close()

    def windows(self) -> tuple[VoiceWindow, ...]:
        """All windows; a last one that is too short is left out."""
        if sum(map(len, self._pitches)) >= MIN_WINDOW_FRAMES:
            self._close()
        return tuple(self._windows)

    def _close(self) -> None:
        pitches, timbre = np.concatenate(self._pitches), np.concatenate(self._timbres).mean(axis=0)
        self._pitches, self._timbres = [], []
        self._windows.append(VoiceWindow(len(pitches), float(np.median(pitches)), timbre - timbre.mean()))


def _voiced_frames(samples: Floats) -> tuple[Floats, Floats]:
    """Pitch (N,) in octaves above 1 Hz and band levels (N, NUM_TIMBRE_BANDS) in dB of the voiced frames."""
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
    """Pitch (N,) in octaves above 1 Hz and whether frames are voiced (N,), by normalised autocorrelations (N, lags)."""
    first, last = int(PITCH_RATE / PITCH_HZ[1]), int(PITCH_RATE / PITCH_HZ[0])
    inner = lags[:, first : last + 1]
    is_peak = (inner >= lags[:, first - 1 : last]) & (inner >= lags[:, first + 1 : last + 2])
    heights = np.where(is_peak, inner, 0)
    best = heights.max(axis=1, initial=0.0)
    # The shortest period among those nearly as strong: the others are its multiples.
    lag = np.argmax(heights >= 0.85 * best[:, None], axis=1) + first
    rows = np.arange(len(lags))
    left, middle, right = (lags[rows, lag + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, 1), 0)
    return np.log2(PITCH_RATE / (lag + np.clip(shift, -0.5, 0.5))), best > VOICED


def _frames(samples: Floats, length: int, hop: int) -> Iterator[Floats]:
    """Overlapping frames in blocks of (at most FRAMES_AT_ONCE, length)."""
    views = np.lib.stride_tricks.sliding_window_view(samples, length)[::hop]
    for start in range(0, len(views), FRAMES_AT_ONCE):
        yield views[start : start + FRAMES_AT_ONCE]


def _spectra(piece: Floats) -> Iterator[Floats]:
    """Power of each bin, (frames, FRAME // 2 + 1), scaled such that the sum over a frame is its mean square."""
    for frames in _frames(piece, FRAME, HOP):
        spectra = np.fft.rfft(frames * _WINDOW)
        yield spectra.real**2 + spectra.imag**2


def _fingerprint(in_bands: Floats) -> NDArray[np.int8]:
    """The `AudioQuality.fingerprint` by band powers (frames, NUM_BANDS)."""
    slots = min(len(in_bands) // FINGERPRINT_HOPS, FINGERPRINT_SLOTS)
    grouped = in_bands[: slots * FINGERPRINT_HOPS].reshape(
        slots, FINGERPRINT_HOPS, FINGERPRINT_BANDS, NUM_BANDS // FINGERPRINT_BANDS
    )
    levels = _decibels(grouped.sum(axis=(1, 3)))
    fingerprint: NDArray[np.int8] = np.maximum(levels - levels.max(initial=-140.0), -FINGERPRINT_RANGE).astype(np.int8)
    return fingerprint


def _decay_histogram(levels: Floats) -> NDArray[np.int64]:
    """Histogram of decay rates after peaks of speech, (NUM_DECAYS,), by levels (dB, one per HOP).

    Only frames 8 dB or more below a peak of the last quarter of a second count: the direct sound is over there, and the
    room remains. A decay that ends in the noise is measured down to the noise; it must start well above it.
    """
    if len(levels) <= PEAK_HOPS + DECAY_HOPS:
        return np.zeros(NUM_DECAYS, np.int64)
    floor, loud = np.percentile(levels, [5, 90])
    peaks = np.lib.stride_tricks.sliding_window_view(levels, PEAK_HOPS).max(axis=1)[:-DECAY_HOPS]
    start = levels[PEAK_HOPS - 1 : -DECAY_HOPS]
    end = np.maximum(levels[PEAK_HOPS - 1 + DECAY_HOPS :], floor + 3)
    is_decay = (peaks - start > 8) & (peaks > loud - 12) & (start > floor + DECAY_RANGE) & (start > end)
    rates = (start - end)[is_decay] / (DECAY_HOPS * HOP_SECONDS)
    return np.bincount(np.minimum(rates / DECAY_STEP, NUM_DECAYS - 1).astype(np.int64), minlength=NUM_DECAYS)


def reverberation_seconds(decays: NDArray[np.int64]) -> float | None:
    """Estimate the time in which sound decays by 60 dB (T60), by summed `AudioQuality.decays`; None for too few decays.

    No decay is faster than the room's, so the estimate is by the fast ones. Dry speech gives up to 0.35 s, by its own
    decay; a voice close to the microphone masks the room in part.
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
    """The level below which this share of the frames lies."""
    sums = np.cumsum(counts)
    return float(_centres()[int(np.searchsorted(sums, share * sums[-1]))])


def _bias_db(num_bins: float) -> float:
    """Level of the NOISE_PERCENTILE of a band's power over its mean, for noise (chi-squared, Wilson-Hilferty).

    Neighbouring bins of a Hann window correlate, so each bin has 2 / 1.5 degrees of freedom.
    """
    freedom = max(2 * num_bins / 1.5, 1.0)
    return 30 * math.log10(1 - 2 / (9 * freedom) - 1.2816 * math.sqrt(2 / (9 * freedom)))


def _mel(hz: Floats) -> Floats:
    mel: Floats = 1127 * np.log1p(hz / 700)
    return mel


def _band_rows(num_bands: int, low: float, high: float, bins: int, bin_hz: float) -> Floats:
    """Membership of bins in bands, (num_bands, bins) of 0 and 1; bands are equally wide on the mel scale."""
    position = (_mel(np.arange(bins) * bin_hz) - _mel(np.array(low))) / (_mel(np.array(high)) - _mel(np.array(low)))
    rows: Floats = (np.floor(position * num_bands) == np.arange(num_bands)[:, None]).astype(np.float32)
    return rows


def _window_lags() -> Floats:
    """The autocorrelation of the window, by which that of a frame is divided."""
    lags = np.fft.irfft(np.abs(np.fft.rfft(_PITCH_WINDOW, PITCH_FFT)) ** 2)[: PITCH_FRAME // 2]
    normalised: Floats = (lags / lags[0]).astype(np.float32)
    return normalised


_WINDOW = np.hanning(FRAME).astype(np.float32)
_WINDOW *= np.float32(np.sqrt(2 / (FRAME * float((_WINDOW**2).sum()))))
_PITCH_WINDOW = np.hanning(PITCH_FRAME).astype(np.float32)
_BANDS = _band_rows(NUM_BANDS, LOWEST_HZ, RATE / 2 + 1, FRAME // 2 + 1, RATE / FRAME)
_TIMBRE_BANDS = _band_rows(NUM_TIMBRE_BANDS, 100.0, 3900.0, PITCH_FFT // 2 + 1, PITCH_RATE / PITCH_FFT)
_WINDOW_LAGS = _window_lags()
