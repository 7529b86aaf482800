"""A name that is used again with other inputs is refused before anything in its folder is made anew."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rvc_engine.audio import slicing
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.events import Event, StageChanged
from rvc_engine.workspace.layout import Workspace

Make = Callable[..., tuple[Workspace, list[Event]]]


def contents(workspace: Workspace) -> dict[str, tuple[int, bytes]]:
    return {
        path.relative_to(workspace.root).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(workspace.root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def other_recordings(tmp_path: Path, recordings: Path) -> Path:
    folder = tmp_path / "other"
    folder.mkdir()
    shutil.copy(sorted(recordings.iterdir())[0], folder)
    return folder


@pytest.mark.parametrize("other", ["recordings", "rate", "pitch"])
def test_other_inputs_under_the_name_of_a_begun_run_are_refused_before_anything_is_overwritten(
    make: Make, finished: Workspace, other_recordings: Path, other: str
) -> None:
    changes: dict[str, dict[str, Any]] = {
        "recordings": {"dataset": other_recordings},
        "rate": {"sample_rate": "48k"},
        "pitch": {"pitch": "harvest"},
    }
    before = contents(finished)
    with pytest.raises(IncompatibleCheckpoint) as raised:
        make(**changes[other])
    assert contents(finished) == before
    message = str(raised.value)
    wanted = "sample_rate=40k, but this run asks for sample_rate=48k" if other == "rate" else "with other recordings"
    assert f"the folder {finished.root} holds a run that was trained with " in message
    assert wanted in message
    newest = max(finished.root.glob("G_*.pth"), key=lambda path: path.stat().st_mtime)
    pair = f"-pg {newest} -pd {newest.with_name(newest.name.replace('G_', 'D_'))}"
    assert (pair in message) == (other != "rate")  # weights of another rate do not fit
    assert "more epochs" in message


def skipped(events: list[Event]) -> list[str]:
    return [event.stage for event in events if isinstance(event, StageChanged) and event.state == "skipped"]


def test_a_run_that_began_with_slices_of_an_earlier_version_goes_on_with_them(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slicing, "VERSION", slicing.EARLIER_VERSIONS[0])
    workspace, _ = make(total_epochs=1)
    shutil.rmtree(workspace.slicing_result.parent)  # which that version did not write
    monkeypatch.undo()
    _, events = make(total_epochs=2)
    assert skipped(events) == ["slice", "pitch", "content"]


def test_the_same_inputs_go_on(make: Make, finished: Workspace) -> None:
    _, events = make(total_epochs=2)
    assert skipped(events) == ["slice", "pitch", "content"]
