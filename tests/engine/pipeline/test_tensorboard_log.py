"""TensorBoard's event files, read back with TensorBoard's own reader."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rvc_engine.events import Evaluated, Event, Log, Metric, PreviewReady
from rvc_engine.machine import Machine
from rvc_engine.pipeline.pipeline import StageSelection
from rvc_engine.pipeline.process import run_engine
from rvc_engine.pipeline.tensorboard_log import EVENT_FILES, tensorboard_log
from rvc_engine.workspace.layout import Workspace
from tests.engine.pipeline.conftest import tiny_config


def metric(step: int, loss: float) -> Metric:
    return Metric(step=step, epoch=1, values={"loss/gen": loss, "loss/mel": loss / 2, "learning_rate": 1e-4})


def losses(folder: Path, tag: str = "loss/g/total") -> list[tuple[int, float]]:
    """As TensorBoard would draw them: steps that were trained again, once."""
    board = EventAccumulator(str(folder)).Reload()
    return [(each.step, round(each.value, 3)) for each in board.Scalars(tag)]


def test_a_run_is_in_the_board_with_losses_scores_pictures_and_sound(
    tmp_path: Path, recordings: Path, machine: Machine
) -> None:
    workspace, events = Workspace(tmp_path / "logs" / "anna", "anna"), []
    config = tiny_config(evaluate="always", total_epochs=1)
    assert run_engine(recordings, workspace, config, machine, events.append, lambda: False, StageSelection(), 0) == 0

    board = EventAccumulator(str(workspace.root)).Reload()
    tags = board.Tags()
    assert {"loss/g/total", "loss/d/total", "loss/g/mel", "grad_norm_g", "learning_rate", "eval/mel", "epoch"} <= set(
        tags["scalars"]
    )
    sent = [event for event in events if isinstance(event, Metric)]
    assert losses(workspace.root) == [(event.step, round(event.values["loss/gen"], 3)) for event in sent]
    [preview] = [event for event in events if isinstance(event, PreviewReady)]
    assert tags["images"] == ["mel/1"]
    assert sorted(tags["audio"]) == ["recording/1", "sound/1"]
    sound = board.Audio("sound/1")[0]
    wave, rate = soundfile.read(preview.audio)
    assert (sound.step, sound.sample_rate, sound.length_frames) == (preview.step, rate, len(wave))


def test_steps_that_are_trained_again_after_a_resume_or_a_rollback_appear_once(tmp_path: Path) -> None:
    with tensorboard_log(tmp_path, lambda _: None) as report:
        for step in (1, 2, 3):
            report(metric(step, 10 + step))
    with tensorboard_log(tmp_path, lambda _: None) as report:  # resumed from step 1
        for step in (2, 3, 4):
            report(metric(step, 20 + step))
        for step in (4, 5):  # rolled back to step 3
            report(metric(step, 30 + step))
    assert losses(tmp_path) == [(1, 11), (2, 22), (3, 23), (4, 34), (5, 35)]


def test_event_files_of_rvc_in_the_folder_stay(tmp_path: Path) -> None:
    theirs = tmp_path / "events.out.tfevents.1700000000.pc.1.0"
    theirs.write_bytes(b"another program's")
    with tensorboard_log(tmp_path, lambda _: None) as report:
        report(metric(1, 1.0))
    assert theirs.read_bytes() == b"another program's"
    assert len(list(tmp_path.glob(EVENT_FILES))) == 2


def test_a_write_error_ends_the_event_files_with_one_warning_and_not_the_run(tmp_path: Path) -> None:
    events: list[Event] = []
    missing = PreviewReady(
        step=1, epoch=1, clip=1, audio=str(tmp_path / "a.flac"), picture=str(tmp_path / "a.png"),
        recording=str(tmp_path / "r.flac"), seconds=1.0, scores={},
    )  # fmt: skip
    with tensorboard_log(tmp_path, events.append) as report:
        report(metric(1, 1.0))
        report(missing)
        report(metric(2, 2.0))
        report(missing)
    warnings = [event.message for event in events if isinstance(event, Log)]
    assert len(warnings) == 1
    assert warnings[0].startswith("TensorBoard's event files are no longer written: ")
    assert [event for event in events if isinstance(event, Metric)] == [events[0], events[3]]


def test_scores_and_silent_clips_are_written(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.flac" for name in ("audio", "recording")}
    for path in paths.values():
        soundfile.write(path, np.zeros(4000), 40_000)
    Image.new("L", (20, 10)).save(tmp_path / "mel.png")
    named = {name: str(path) for name, path in paths.items()}
    preview = PreviewReady(step=4, epoch=2, clip=1, picture=str(tmp_path / "mel.png"), seconds=0.1, scores={}, **named)
    scores = Evaluated(
        step=4, epoch=2, values={"eval/mel": 12.5}, held_out=True, is_best=True, num_clips=1, seconds=1.0
    )
    with tensorboard_log(tmp_path, lambda _: None) as report:
        report(scores)
        report(preview)
    assert losses(tmp_path, "eval/mel") == [(4, 12.5)]
    assert EventAccumulator(str(tmp_path)).Reload().Images("mel/1")[0].width == 20


def test_without_a_metric_nothing_is_written_and_the_package_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rvc_engine.pipeline.tensorboard_log import tensorboard_log\n"
        f"with tensorboard_log(Path({str(tmp_path)!r}), print): pass\n"
        "assert 'tensorboard' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert not list(tmp_path.iterdir())
