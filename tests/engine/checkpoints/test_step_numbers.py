"""Step numbers: RVC WebUI and Applio find this run's saves by the highest number, and no file of theirs is replaced."""

from pathlib import Path

import pytest

from rvc_engine.checkpoints.step_numbers import make_way, step_above


def touch(root: Path, *numbers: int | str) -> None:
    for number in numbers:
        for letter in "GD":
            (root / f"{letter}_{number}.pth").write_text(f"{letter} of {number}")


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def found_by_others(root: Path) -> str:
    """The file that RVC WebUI and Applio resume from: the one of the highest number."""
    return max(root.glob("G_*.pth"), key=lambda path: int("".join(filter(str.isdigit, path.name)))).name


@pytest.mark.parametrize(
    ("present", "step", "above"),
    [
        ([], 9, 9),
        ([10, 15], 12, 15),
        ([10, 15], 20, 20),
        (["12a", "best", 2333333, 20261129], 9, 9),  # no steps
        ([9, 10, 2333333], 9, 11),  # and a number for the pair of the highest name
    ],
)
def test_steps_are_counted_on_above_all_numbers_in_the_folder(
    tmp_path: Path, present: list[int | str], step: int, above: int
) -> None:
    touch(tmp_path, *present)
    assert step_above(tmp_path, step, lambda _: True) == above


def test_own_saves_after_the_checkpoint_do_not_move_the_steps(tmp_path: Path) -> None:
    touch(tmp_path, 12)
    assert step_above(tmp_path, 9, lambda path: path.name != "G_12.pth") == 9


def test_a_save_takes_its_step_as_its_name_and_replaces_only_own_files(tmp_path: Path) -> None:
    told: list[str] = []
    assert make_way(tmp_path, 15, False, lambda _: False, told.append) == 15
    touch(tmp_path, 15)
    assert make_way(tmp_path, 15, False, lambda _: True, told.append) == 15
    assert told == []
    assert make_way(tmp_path, 15, False, lambda _: False, told.append) == 16
    assert "G_15.pth" in told[0]
    assert "the save of step 15 is named G_16.pth" in told[0]


@pytest.mark.parametrize(("only_latest", "number"), [(False, 18), (True, 2333333)])
def test_the_only_pair_of_another_program_gets_a_number_below_the_newer_save(
    tmp_path: Path, only_latest: bool, number: int
) -> None:
    touch(tmp_path, 2333333, 17)
    told: list[str] = []
    assert make_way(tmp_path, 18, only_latest, lambda _: False, told.append) == number
    assert names(tmp_path) == ["D_16.pth", "D_17.pth", "G_16.pth", "G_17.pth"]
    assert (tmp_path / "G_16.pth").read_text() == "G of 2333333"
    assert "now named G_16.pth and D_16.pth" in told[0]
    touch(tmp_path, number)
    assert found_by_others(tmp_path) == f"G_{number}.pth"


def test_the_only_pair_of_this_run_is_replaced_by_its_next_and_gets_a_number_when_all_are_kept(tmp_path: Path) -> None:
    touch(tmp_path, 2333333)
    assert make_way(tmp_path, 18, True, lambda _: True, pytest.fail) == 2333333
    assert names(tmp_path) == ["D_2333333.pth", "G_2333333.pth"]
    assert make_way(tmp_path, 18, False, lambda _: True, lambda _: None) == 18
    assert names(tmp_path) == ["D_17.pth", "G_17.pth"]
