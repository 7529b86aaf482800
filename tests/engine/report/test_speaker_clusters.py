"""Two voices are suspected where there are two, and not where there is one.

`voice_windows.npz` holds the windows that `AudioQualityMeter` measured in 250 recordings of each of three people (two
women, one man), rows of: number of the file, voiced frames, pitch, timbre.
"""

import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from rvc_engine.report.audio_quality import VoiceWindow
from rvc_engine.report.speaker_clusters import MIN_WINDOWS, cluster_speakers

VOICES = ("be_f_44k", "bg_m_44k", "en_f_16k")


def windows(voice: str, num_files: int, seed: int) -> list[VoiceWindow]:
    with np.load(Path(__file__).parent / "voice_windows.npz") as measured:
        rows = measured[voice]
    files = random.Random(seed).sample(sorted({int(row[0]) for row in rows}), num_files)
    return [VoiceWindow(int(row[1]), float(row[2]), row[3:]) for row in rows if int(row[0]) in files]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_files", [80, 150])
@pytest.mark.parametrize("voice", VOICES)
def test_one_voice_is_not_taken_for_several(voice: str, num_files: int, seed: int) -> None:
    assert cluster_speakers(windows(voice, num_files, seed)) is None


@pytest.mark.parametrize(("one", "other"), [*combinations(VOICES, 2)])
@pytest.mark.parametrize("num_files", [(80, 80), (120, 40)])
def test_two_voices_together_are_suspected(one: str, other: str, num_files: tuple[int, int]) -> None:
    first, second = windows(one, num_files[0], 1), windows(other, num_files[1], 2)
    groups = cluster_speakers(first + second)
    assert groups is not None
    is_second = np.arange(len(first) + len(second)) >= len(first)
    agreement = np.mean(groups.in_smaller == is_second)
    assert max(agreement, 1 - agreement) > 0.9


def test_the_pitch_of_both_clusters_is_measured() -> None:
    groups = cluster_speakers(windows("be_f_44k", 100, 1) + windows("bg_m_44k", 50, 1))
    assert groups is not None
    assert 230 < groups.larger_hz < 270
    assert 105 < groups.smaller_hz < 130
    assert 0.2 < groups.share < 0.5


def test_few_windows_form_no_clusters() -> None:
    few = windows("be_f_44k", 60, 1)[: MIN_WINDOWS // 2] + windows("bg_m_44k", 60, 1)[: MIN_WINDOWS // 2 - 1]
    assert cluster_speakers(few) is None
