"""Step numbers in the names of G_/D_ files; RVC WebUI and Applio resume from the highest one. No torch.

So that they find this run's saves, and it replaces none of theirs, the steps of a run go on above the numbers of other
programs, and a pair of the highest name of all, 2333333, gets a number as soon as a newer pair follows.
"""

import re
from collections.abc import Callable
from itertools import chain, count
from pathlib import Path

from rvc_engine.environment.files import rename

LATEST_STEP_NAME = 2333333
"""Step in the file names of the reference when it keeps one pair only."""


def step_in_name(path: Path) -> int | None:
    """Step in the name of a G_ or D_ file; None for 2333333 and above, and for other names."""
    found = re.fullmatch(r"[GD]_([0-9]+)\.pth", path.name)
    step = int(found[1]) if found else LATEST_STEP_NAME
    return step if step < LATEST_STEP_NAME else None


def step_above(root: Path, step: int, counts: Callable[[Path], bool]) -> int:
    """`step`, or a higher one: the numbers of later saves exceed those of all G_ files that `counts` is true of.

    Where there is a pair named 2333333, the step itself is also free, as a number for that pair.
    """
    steps = {path: number for path in root.glob("G_*.pth") if (number := step_in_name(path)) is not None}
    above = max((number for path, number in steps.items() if number > step and counts(path)), default=step)
    if any(path.exists() for path in _pair(root, LATEST_STEP_NAME)):
        while not _is_free(root, above):
            above += 1
    return above


def make_way(
    root: Path, step: int, only_latest: bool, is_own: Callable[[Path], bool], warn: Callable[[str], None]
) -> int:
    """Number in the names of the pair to be saved at `step`, which replaces no file that is not this run's own.

    `is_own` is asked for a G_ file. A pair named 2333333 gets the nearest free number below `step`, unless the new pair
    is to replace it as this run's own.
    """
    latest = _pair(root, LATEST_STEP_NAME)
    if any(path.exists() for path in latest) and not (only_latest and is_own(latest[0])):
        free = next(number for number in chain(range(step - 1, -1, -1), count(step + 1)) if _is_free(root, number))
        for path, renamed in zip(latest, _pair(root, free), strict=True):
            if path.exists():
                rename(path, renamed)
        warn(
            f"G_{LATEST_STEP_NAME}.pth and its D_ file in {root} are now named G_{free}.pth and D_{free}.pth: other "
            "programs resume from the highest number, which is that of the newer save"
        )
    if only_latest:
        return LATEST_STEP_NAME
    number = step
    while not _is_free(root, number) and not is_own(_pair(root, number)[0]):
        number += 1
    if number != step:
        warn(f"G_{step}.pth in {root} is not of this run and stays; the save of step {step} is named G_{number}.pth")
    return number


def _pair(root: Path, number: int) -> tuple[Path, Path]:
    return root / f"G_{number}.pth", root / f"D_{number}.pth"


def _is_free(root: Path, number: int) -> bool:
    return not any(path.exists() for path in _pair(root, number))
