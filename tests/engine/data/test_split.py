"""Clips for evaluation: few, the same on every machine, and held out of training where the dataset is long enough."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from rvc_engine.data.clips import ClipFiles
from rvc_engine.data.split import Split, split

SLICES = Path("0_gt_wavs")


def clip(name: str, frames: int = 300, folder: Path = SLICES) -> ClipFiles:
    return ClipFiles(folder / f"{name}.wav", Path("f.npy"), None, None, 0, frames)


MUTE = [clip("mute40k", folder=Path("mute"))] * 2


def dataset(pieces_of: Callable[[int], int], num_recordings: int) -> list[ClipFiles]:
    return [clip(f"{i}_{j}") for i in range(num_recordings) for j in range(pieces_of(i))] + MUTE


def names(clips: list[ClipFiles]) -> list[str]:
    return [each.wave.stem for each in clips]


@pytest.mark.parametrize(
    ("clips", "wanted"),
    [
        (dataset(lambda _: 1, 70), 3),  # 5 % of 70, rounded down
        (dataset(lambda i: 1 + i % 4, 200), 8),  # never more than 8
        (dataset(lambda _: 250, 2), 8),  # recordings too long to spare a whole one
        (dataset(lambda _: 61, 1), 3),
    ],
)
def test_some_clips_are_held_out_and_never_trained_on(clips: list[ClipFiles], wanted: int) -> None:
    parts = split(clips, SLICES)
    assert parts.are_held_out
    assert 1 <= len(parts.evaluated) <= wanted
    assert not set(names(parts.trained)) & set(names(parts.evaluated))
    assert [each for each in clips if each in set(parts.trained)] == parts.trained
    assert len(parts.trained) + len(parts.evaluated) == len(clips)
    assert parts.trained[-2:] == MUTE


def test_whole_recordings_are_held_out_where_they_fit() -> None:
    clips = dataset(lambda i: 1 + i % 4, 200)
    parts = split(clips, SLICES)
    held, trained = ({name.split("_")[0] for name in names(part)} for part in (parts.evaluated, parts.trained))
    assert held
    assert not held & trained


def test_the_split_depends_on_names_alone() -> None:
    clips = dataset(lambda i: 1 + i % 4, 200)
    shuffled = random.Random(1).sample(clips, len(clips))
    moved = [clip(each.wave.stem, 290, Path("elsewhere") / each.wave.parent) for each in clips]
    chosen = names(split(clips, SLICES).evaluated)
    assert names(split(shuffled, SLICES).evaluated) == chosen
    assert names(split(moved, Path("elsewhere") / SLICES).evaluated) == chosen


def test_a_short_dataset_is_trained_on_whole_and_measured_on_fixed_clips_of_it() -> None:
    clips = dataset(lambda _: 1, 59)  # 177 s
    parts = split(clips, SLICES)
    assert not parts.are_held_out
    assert parts.trained == clips
    assert len(parts.evaluated) == 2
    assert set(parts.evaluated) <= set(clips) - set(MUTE)


def test_nothing_is_held_out_without_evaluation() -> None:
    clips = dataset(lambda _: 1, 100)
    assert split(clips, SLICES, "never") == Split(clips, [], are_held_out=False)
