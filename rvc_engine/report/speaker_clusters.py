"""Detection of several speakers by pitch and timbre: a hint, without a neural network. No torch.

Windows of voice are split into two clusters by 2-means. The clusters of one voice touch; those of two voices have a gap
between them. On the voices tried (two women, one man, 40 windows or more) about 1 of 200 sets of a single voice gave a
gap, and most sets of two voices did. Two microphones, or speech and singing, split a voice as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rvc_engine.report.audio_quality import VoiceWindow

MIN_WINDOWS = 40
MIN_SHARE = 0.1
"""Least share of the voice in the smaller cluster; less may be laughter, or a bell mistaken for voice."""
MIN_DISTANCE = 4.2
"""Least distance of the clusters' means, in standard deviations within them. One normal distribution gives 2.7."""
MAX_BETWEEN = 0.06
"""Largest share of the voice in the middle third between the means."""
NUM_CEPSTRA = 8
PITCH_UNIT = 1 / 6
"""Octaves (2 semitones): typical difference between files of one voice."""
TIMBRE_UNIT = 6.0
"""dB: unit of the cepstra."""
NUM_AXES = 3
"""Principal axes along which an initial division is tried."""
MAX_ROUNDS = 30

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class SpeakerClusters:
    """Two clusters of the voice in the recordings."""

    share: float
    """0..1: share of the voice in the smaller cluster."""
    larger_hz: float
    """Mean pitch of the larger cluster."""
    smaller_hz: float
    in_smaller: NDArray[np.bool_]
    """(windows,): membership in the smaller cluster."""


def cluster_speakers(windows: Sequence[VoiceWindow]) -> SpeakerClusters | None:
    """Split the windows of all recordings into two clusters; None where they form one, or are too few."""
    if len(windows) < MIN_WINDOWS:
        return None
    pitches = np.array([window.pitch for window in windows])
    timbres = np.array([window.timbre for window in windows])
    weights = np.sqrt([float(window.num_frames) for window in windows])
    cepstra = timbres @ _cosines(timbres.shape[1]) / TIMBRE_UNIT
    pitch = pitches[:, None] / PITCH_UNIT
    for points in (pitch, np.hstack([pitch, cepstra])):
        split = _split(points, weights)
        if split is not None:
            return _describe(split, pitches, weights)
    return None


def _cosines(num_bands: int) -> Floats:
    """The orthonormal cosine transform without its constant term, (num_bands, NUM_CEPSTRA)."""
    angles = (np.arange(num_bands)[:, None] + 0.5) * np.arange(1, NUM_CEPSTRA + 1) * np.pi / num_bands
    cosines: Floats = np.sqrt(2 / num_bands) * np.cos(angles)
    return cosines


def _describe(split: NDArray[np.bool_], pitches: Floats, weights: Floats) -> SpeakerClusters:
    smaller = split if weights[split].sum() <= weights[~split].sum() else ~split
    hz = [float(2 ** np.average(pitches[group], weights=weights[group])) for group in (~smaller, smaller)]
    return SpeakerClusters(float(weights[smaller].sum() / weights.sum()), hz[0], hz[1], smaller)


def _split(points: Floats, weights: Floats) -> NDArray[np.bool_] | None:
    """The clearest division of points (N, D) into two clusters; None when there is no gap between them."""
    centred = points - np.average(points, axis=0, weights=weights)
    _, _, axes = np.linalg.svd(centred * np.sqrt(weights)[:, None], full_matrices=False)
    divisions = [_two_means(points, weights, centred @ axis > 0) for axis in axes[:NUM_AXES]]
    scored = [
        (_distance(points, weights, each), n) for n, each in enumerate(divisions) if each.any() and not each.all()
    ]
    if not scored:
        return None
    (distance, between), best = max(scored)
    division = divisions[best]
    share = float(weights[division].sum() / weights.sum())
    is_clear = distance >= MIN_DISTANCE and between <= MAX_BETWEEN and min(share, 1 - share) >= MIN_SHARE
    return division if is_clear else None


def _two_means(points: Floats, weights: Floats, division: NDArray[np.bool_]) -> NDArray[np.bool_]:
    for _ in range(MAX_ROUNDS):
        if division.all() or not division.any():
            break
        one, other = _means(points, weights, division)
        nearer = ((points - one) ** 2).sum(axis=1) < ((points - other) ** 2).sum(axis=1)
        if (nearer == division).all():
            break
        division = nearer
    return division


def _means(points: Floats, weights: Floats, division: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    one = np.average(points[division], axis=0, weights=weights[division])
    other = np.average(points[~division], axis=0, weights=weights[~division])
    return one, other


def _distance(points: Floats, weights: Floats, division: NDArray[np.bool_]) -> tuple[float, float]:
    """Distance of the means, in standard deviations along the line between them, and the share in its middle third."""
    one, other = _means(points, weights, division)
    length = float(np.linalg.norm(one - other)) or 1e-9
    along = (points - (one + other) / 2) @ (one - other) / length
    off = np.where(division, along - length / 2, along + length / 2)
    deviation = float(np.sqrt(np.average(off**2, weights=weights))) or 1e-9
    return length / deviation, float(weights[np.abs(along) < length / 6].sum() / weights.sum())
