"""Mixdown of recordings to mono, and the scale of recordings beyond full scale. No torch.

Mono and ordinary stereo: the mean of the channels, as the reference does. What differs is decided by the whole
recording, so that gain and signs are constant within it:

- more than two channels of known loudspeakers: FFmpeg's weights, the centre 1, where films have their voices;
- two channels of opposite phase: one of them is inverted, or they would cancel each other;
- channels whose mix is nearly silent for long while one of them is not: their sum where they are many; where
  they cancel each other, the loudest one alone;
- floating-point samples beyond full scale: the recording is scaled to full scale, since its unit is only a factor.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rvc_engine.audio.silence import THRESHOLD

MAX_PEAK = 2.5
"""Pieces with a larger peak are dropped, as the reference does. Decoders of lossy codecs stay below it."""
FULL_SCALE_TOLERANCE = 1.001
HOP_SECONDS = 0.015
"""Time whose peak is one value of the survey; also the resolution of damage."""
SPIKE_HOPS = 8
SPIKE_RATIO = 10.0
"""Fewer hops than SPIKE_HOPS, louder by SPIKE_RATIO than all others, are damage and do not determine the scale."""
OPPOSITE_CORRELATION = -0.8
OPPOSITE_ENERGY = 0.25
"""Two channels are of opposite phase when their correlation and the energy of their mean (as a share of their mean
energy) are below these; both are far from those of ordinary stereo (0.5 for unrelated channels, or a silent one)."""

LOST_ENERGY = 0.05
"""Energy of a mix, as a share of its loudest channel's, below which the sound of that channel is lost in it."""
LOST_SHARE = 0.2
"""Share of the time of sound, lost in the mix, above which it is mixed in another way."""

FRONT, SURROUND = math.sqrt(0.5), 0.5
_WEIGHTS = {
    "FC": 1.0,
    **dict.fromkeys(("FL", "FR", "FLC", "FRC", "DL", "DR", "WL", "WR"), FRONT),
    **dict.fromkeys(("BL", "BR", "SL", "SR", "BC"), SURROUND),
    "LFE": 0.0,
    "LFE2": 0.0,
}
_COMMON_LAYOUTS = {
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}
"""Layouts of files that state only the number of channels: 5.1 and 7.1, as players assume."""
_FLOAT_CODECS = ("float", "double", "pcm_f", "wavpack")
"""Starts of the names of codecs that store floating-point samples without loss."""

_FIRST_DB, _LAST_DB = -120, 200
"""Range of the histogram of peaks, in bins of 1 dB."""


@dataclass(frozen=True)
class Mix:
    """The way in which the channels of one recording become mono."""

    weights: tuple[float, ...] | None = None
    """Weight of each channel; None: the mean."""
    is_inverted: bool = False
    """Whether the second of two channels is inverted."""
    gain: float = 1.0

    @property
    def is_one_channel(self) -> bool:
        """Whether one of several channels is used alone."""
        return self.weights is not None and np.count_nonzero(self.weights) == 1

    @property
    def is_sum(self) -> bool:
        """Whether all channels are summed."""
        return self.weights is not None and all(weight == 1 for weight in self.weights)

    @property
    def is_by_layout(self) -> bool:
        """Whether the channels have the weights of their loudspeakers."""
        return self.weights is not None and not self.is_one_channel and not self.is_sum

    def mono(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mix (num_samples, channels) to (num_samples,)."""
        channels = samples.shape[1]
        if self.weights is not None and len(self.weights) == channels:
            total = np.zeros(len(samples), np.float32)
            for channel, weight in enumerate(self.weights):
                if weight:
                    total += np.float32(weight) * samples[:, channel]
        elif self.is_inverted and channels == 2:
            total = (samples[:, 0] - samples[:, 1]) / np.float32(2)
        else:
            # Adding columns is several times faster than numpy's mean over short rows.
            total = samples[:, 0].copy()
            for channel in range(1, channels):
                total += samples[:, channel]
            total /= np.float32(channels)
        return total if self.gain == 1 else total * np.float32(self.gain)


def layout_mix(channels: int, layout: tuple[str, ...]) -> Mix:
    """The mix for a header: weights for loudspeakers with a centre, else the mean (without the subwoofer).

    `layout`: FFmpeg's name of each channel; empty where the file does not state them.
    """
    names = layout if len(layout) == channels else ()
    if not all(name in _WEIGHTS for name in names) or not names:
        names = _COMMON_LAYOUTS.get(channels, ())
    if channels <= 2 or not names:
        return Mix()
    if "FC" in names:
        return Mix(tuple(_WEIGHTS[name] for name in names))
    is_heard = [_WEIGHTS[name] > 0 for name in names]
    return Mix(tuple(float(heard) / sum(is_heard) for heard in is_heard))


def _hop_energies(samples: NDArray[np.float32], hop: int) -> NDArray[np.float64]:
    """Energy of each hop without its constant offset; (num_hops * hop,) to (num_hops,)."""
    hops = samples.reshape(-1, hop)
    energies: NDArray[np.float64] = np.einsum("ij,ij->i", hops, hops, dtype=np.float64) / hop - hops.mean(axis=1) ** 2
    return energies


class Survey:
    """Peaks and correlation of the channels of a whole recording, block by block; from them the right mix."""

    def __init__(self, codec: str, mix: Mix) -> None:
        """`mix`: the mix for the header."""
        self.peak = 0.0
        """Largest sample of any channel; full scale is 1."""
        self._limit = FULL_SCALE_TOLERANCE if codec.startswith(_FLOAT_CODECS) else MAX_PEAK
        self._mix = replace(mix, gain=1.0, is_inverted=False)
        self._mix_peak = 0.0
        self._counts = np.zeros(_LAST_DB - _FIRST_DB + 1, np.int64)
        self._largest = np.zeros(len(self._counts))
        self._products = np.zeros((2, 2))
        self._sums = np.zeros(2)
        self._num_stereo = 0
        self._energies = np.zeros(0)
        """Energy of the sound of each channel."""
        self._num_loud = self._num_lost = self._num_cancelled = 0
        """Hops with sound in a channel, those of them in which the mix loses it, and in which the sum does too."""

    def add(self, samples: NDArray[np.float32], sample_rate: int) -> None:
        """Add the next samples, (num_samples, channels)."""
        hop, channels = max(1, round(HOP_SECONDS * sample_rate)), samples.shape[1]
        loudness = np.abs(samples).reshape(-1)
        whole = len(samples) // hop * hop * channels
        rest = [loudness[whole:].max()] if len(loudness) > whole else []
        peaks = np.concatenate([loudness[:whole].reshape(-1, hop * channels).max(axis=1), rest]).astype(np.float64)
        self.peak = max(self.peak, float(peaks.max()))
        bins = np.clip(20 * np.log10(np.maximum(peaks, 1e-6)) - _FIRST_DB, 0, len(self._counts) - 1).astype(np.int64)
        np.add.at(self._counts, bins, 1)
        np.maximum.at(self._largest, bins, peaks)
        if samples.shape[1] == 2:
            self._products += samples.T @ samples
            self._sums += samples.sum(axis=0)
            self._num_stereo += len(samples)
        if channels > 1:
            mono = self._mix.mono(samples)
            self._mix_peak = max(self._mix_peak, float(np.abs(mono).max()))
            end = len(samples) // hop * hop
            self._count_lost(samples[:end], mono[:end], hop)

    def mix(self) -> Mix:
        """The right mix for all samples so far."""
        peak = self._peak_of_sound()
        is_spiked = peak < self.peak  # then the peak of the mix is that of the spikes
        full = peak if peak > self._limit else 1.0
        weights = self._weights()
        mix = Mix(weights, weights == self._mix.weights and self._is_opposite())
        if not is_spiked and mix.is_sum:
            full = max(full, self._mix_peak * len(self._energies))
        elif not is_spiked and mix.is_by_layout:
            full = max(full, self._mix_peak)
        return replace(mix, gain=1 / full if full > 1 else 1.0)

    def _peak_of_sound(self) -> float:
        """The largest sample, spikes left out."""
        num_louder = np.cumsum(self._counts[::-1])[::-1]
        long_enough = np.flatnonzero(num_louder >= SPIKE_HOPS)
        if not len(long_enough):
            return self.peak
        credible = self._largest[: long_enough[-1] + 1 + round(20 * math.log10(SPIKE_RATIO))]
        return float(credible.max())

    def _count_lost(self, samples: NDArray[np.float32], mono: NDArray[np.float32], hop: int) -> None:
        """Compare the energy of each channel with that of their mix, in hops; (num_hops * hop, channels)."""
        channels = samples.shape[1]
        if not len(self._energies):
            self._energies = np.zeros(channels)
        if len(self._energies) != channels:  # the number of channels changes within the recording
            return
        weights = self._mix.weights if self._mix.weights and len(self._mix.weights) == channels else (1.0,) * channels
        heard = [channel for channel, weight in enumerate(weights) if weight]
        energies = np.stack([_hop_energies(samples[:, channel], hop) for channel in heard])
        loudest, mixed = energies.max(axis=0), _hop_energies(mono, hop)
        is_loud = loudest >= THRESHOLD**2
        self._energies[heard] += energies[:, is_loud].sum(axis=1)
        self._num_loud += int(np.count_nonzero(is_loud))
        sum_per_mix = channels if self._mix.weights is None else 1
        self._num_lost += int(np.count_nonzero(is_loud & (mixed < LOST_ENERGY * loudest)))
        self._num_cancelled += int(np.count_nonzero(is_loud & (mixed * sum_per_mix**2 < LOST_ENERGY * loudest)))

    def _weights(self) -> tuple[float, ...] | None:
        """Weights of the right mix: others than those for the header where these lose much of the sound."""
        if self._num_lost <= LOST_SHARE * self._num_loud or self._is_opposite():
            return self._mix.weights
        if self._num_cancelled <= LOST_SHARE * self._num_loud:
            return (1.0,) * len(self._energies)
        return tuple(float(channel == self._energies.argmax()) for channel in range(len(self._energies)))

    def _is_opposite(self) -> bool:
        if not self._num_stereo:
            return False
        covariance = self._products / self._num_stereo - np.outer(self._sums, self._sums) / self._num_stereo**2
        energies, product = np.diag(covariance), float(covariance[0, 1])
        if energies.min() <= 0:
            return False
        mean_energy = float(energies.sum()) / 2
        energy_of_mean = (float(energies.sum()) + 2 * product) / 4
        is_correlated = product / math.sqrt(energies[0] * energies[1]) < OPPOSITE_CORRELATION
        return bool(is_correlated and energy_of_mean < OPPOSITE_ENERGY * mean_energy)

    def excess_db(self) -> float:
        """Level of the peak over full scale, in dB, where the recording must be scaled for it; else 0."""
        peak = self._peak_of_sound()
        return 20 * math.log10(peak) if peak > self._limit else 0.0

    def remarks(self, mix: Mix) -> list[str]:
        """Clauses on how the recording is changed before anything else. `mix`: the right one."""
        remarks = []
        if excess := self.excess_db():
            remarks.append(f"{excess:.1f} dB over full scale, so it is scaled to full scale as a whole")
        if mix.is_inverted:
            remarks.append("its two channels are of opposite phase and would cancel each other, so one is inverted")
        if mix.weights is not None and mix.is_one_channel:
            remarks.append(
                f"a mix of its {len(mix.weights)} channels would lose much of the sound, as they cancel each other, so "
                "the loudest is used alone"
            )
        elif mix.weights is not None and mix.is_sum:
            remarks.append(f"its {len(mix.weights)} channels are summed, as their mean would be nearly silent")
        elif mix.weights is not None:
            remarks.append(f"its {len(mix.weights)} channels are mixed as loudspeakers play them, the centre in full")
        return remarks
