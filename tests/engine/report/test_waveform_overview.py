"""The peaks of a dataset in a few hundred numbers."""

import numpy as np
import pytest

from rvc_engine.report.waveform_overview import MAX_PEAKS, MAX_STARTS, Envelope, draw


def envelope(samples: np.ndarray, rate: int, block: int) -> np.ndarray:
    found = Envelope()
    for start in range(0, len(samples), block):
        found.add(samples[start : start + block], rate)
    return found.result()


@pytest.mark.parametrize("block", [7, 800, 4096, 10**6])
def test_each_tenth_of_a_second_has_its_peak_however_the_blocks_fall(block: int) -> None:
    samples = np.linspace(-1, 0.5, 8000 * 3 + 5)
    expected = [np.abs(samples[start : start + 800]).max() for start in range(0, len(samples), 800)]
    assert envelope(samples, 8000, block) == pytest.approx(expected, abs=1e-6)


def test_an_overview_is_small_and_has_the_starts_of_the_recordings() -> None:
    quiet, loud = np.full(9000, 0.1, np.float32), np.full(3000, 0.8, np.float32)
    found = draw([quiet, loud])
    assert len(found.peaks) == MAX_PEAKS
    assert found.starts == [0.0, 0.75]
    assert found.peaks[:450] == [0.1] * 450
    assert found.peaks[450:] == [0.8] * 150
    assert draw([quiet] * (MAX_STARTS + 1)).starts == []
    assert draw([]).peaks == []
