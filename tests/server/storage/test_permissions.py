"""Files of a data folder are closed to other users, unless they are shared on purpose."""

import stat
from pathlib import Path

import pytest

from server.storage.permissions import restrict_access, restrict_data_folder
from tests.systems import modes

pytestmark = modes


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As an earlier version made it under the usual umask."""
    root = tmp_path / "data"
    for path in (root, root / "jobs", root / "weights"):
        path.mkdir()
        path.chmod(0o755)
    (root / "rvc-train.db").touch()
    (root / "rvc-train.db").chmod(0o644)
    return root


def test_the_folder_and_what_is_ours_in_it_are_closed_once(folder: Path) -> None:
    assert len(list(restrict_data_folder(folder))) == 3
    assert [mode_of(folder / name) for name in ("", "jobs", "rvc-train.db")] == [0o700, 0o700, 0o600]
    assert list(restrict_data_folder(folder)) == []


def test_a_folder_with_things_of_others_stays_open_but_for_what_is_ours(folder: Path) -> None:
    (folder / "holiday").mkdir(mode=0o755)
    messages = list(restrict_data_folder(folder))
    assert [mode_of(folder / name) for name in ("", "jobs", "holiday")] == [0o755, 0o700, 0o755]
    assert "because it contains holiday, which is not the server's" in messages[-1]


def test_a_folder_that_was_shared_with_a_group_stays_so_and_is_closed_to_all_others(folder: Path) -> None:
    folder.chmod(0o2775)
    (folder / "jobs").chmod(0o2775)
    messages = list(restrict_data_folder(folder))
    assert [mode_of(folder / name) for name in ("", "jobs", "rvc-train.db")] == [0o2770, 0o2770, 0o640]
    assert "shared with a group on purpose" in messages[-1]


def test_what_cannot_be_closed_is_told_and_what_is_gone_is_not(tmp_path: Path) -> None:
    assert list(restrict_access([tmp_path / "gone"])) == []
    (message,) = restrict_access([Path("/proc/self/status")])
    assert "/proc/self/status is open to other users of this machine, and its mode cannot be changed" in message
