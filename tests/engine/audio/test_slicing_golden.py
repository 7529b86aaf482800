"""The golden slices: what the reference cuts from a made-up input, and its pitch bins (tests/golden/slicing.json)."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rvc_engine.audio.selection import pieces
from rvc_engine.audio.silence import Levels, loud_spans
from rvc_engine.audio.slicing import high_pass, normalize_level
from rvc_engine.pitch.curve import coarse_pitch

TOLERANCE = 1e-6


def golden_files() -> list[Path]:
    root = Path(__file__).parents[3]
    shared = root.parent / "shared/reference/golden/slicing.json"
    return [root / "tests/golden/slicing.json", *([shared] if shared.exists() else [])]


@pytest.fixture(params=golden_files(), ids=["carried", "shared"][: len(golden_files())])
def golden(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads(request.param.read_text())


def golden_input(plan: list[tuple[float, float]], rate: int) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(b"slicing"))
    parts = []
    for number, (on, off) in enumerate(plan):
        hz, times = 110 * (1 + 0.25 * number), np.arange(int(on * rate)) / rate
        parts.append(0.3 * np.sin(2 * np.pi * hz * times) + 0.1 * np.sin(2 * np.pi * 3 * hz * times + 0.5))
        parts.append(np.zeros(int(off * rate)))
    sound = np.concatenate(parts)
    return sound + 1e-4 * random.standard_normal(len(sound))


@pytest.mark.parametrize("block", [10_000, 65_536, 10_000_000])
def test_golden_slices_hold_whatever_the_blocks(golden: dict[str, Any], block: int) -> None:
    rate = golden["sample_rate"]
    sound = golden_input(golden["plan_seconds_on_off"], rate)
    assert len(sound) == golden["input_samples"]
    assert sound.sum() == pytest.approx(golden["input_sum"], abs=1e-9)
    levels, kept = Levels(rate), []
    for part in high_pass(np.split(sound, range(block, len(sound), block)), rate):
        levels.add(part)
        kept.append(part.astype(np.float32))
    filtered = np.concatenate(kept)
    slices = [
        normalize_level(filtered[start:end])
        for span in loud_spans(levels.rms(), levels.num_samples, levels.hop_length)
        for start, end in pieces(*span, rate)
    ]
    assert len(slices) == len(golden["slices"]) == 14
    for ours, theirs in zip(slices, golden["slices"], strict=True):
        assert ours is not None
        assert len(ours) == theirs["samples"]
        assert np.abs(ours).max() == pytest.approx(theirs["peak"], abs=TOLERANCE)
        assert np.sqrt(np.mean(ours.astype(np.float64) ** 2)) == pytest.approx(theirs["rms"], abs=TOLERANCE)
        assert ours[0] == pytest.approx(theirs["first"], abs=TOLERANCE)
        assert ours[len(ours) // 2] == pytest.approx(theirs["middle"], abs=TOLERANCE)


def test_golden_coarse_pitch_holds(golden: dict[str, Any]) -> None:
    assert coarse_pitch(np.array(golden["coarse_f0"]["hz"])).tolist() == golden["coarse_f0"]["bin"]
