"""The service used and abused for ten minutes, and the measure of growth itself."""

import random
from pathlib import Path

import pytest

from tests.soak.__main__ import Soak
from tests.soak.measures import slope


def test_growth_is_found_in_noise_and_none_where_there_is_none() -> None:
    noise = random.Random(1)

    def lives(per_second: float) -> list[list[tuple[float, float]]]:
        levels = (100.0, 130.0, 90.0)
        return [[(t, level + per_second * t + noise.gauss(0, 2)) for t in range(120)] for level in levels]

    growing, flat = slope(lives(0.05)), slope(lives(0.0))
    assert growing.per_minute == pytest.approx(3, abs=0.8)
    assert growing.least > 1
    assert flat.least < 0.5


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_nothing_is_lost_left_over_or_growing_in_ten_minutes_of_use_and_abuse(tmp_path: Path) -> None:
    result = Soak(tmp_path, 600, 1).run()
    assert result.faults == [], result.figures
