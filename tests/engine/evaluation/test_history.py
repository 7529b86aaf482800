"""History of evaluations through interruptions and rollbacks to a checkpoint."""

import json
from pathlib import Path

from rvc_engine.evaluation.history import EvaluationHistory, Row


def row(step: int, mel: float, *files: str) -> Row:
    return Row(step=step, epoch=step, values={"eval/mel": mel}, files=list(files))


def history(root: Path, clips: list[str] | None = None) -> EvaluationHistory:
    return EvaluationHistory.load(root, clips or ["1_0", "2_0"], True, warn)


warnings: list[str] = []


def warn(message: str) -> None:
    warnings.append(message)


def add(kept: EvaluationHistory, new: Row) -> bool:
    is_best = kept.is_best(new)
    kept.add(new, 1.0, is_best=is_best)
    return is_best


def test_the_lowest_is_the_best_and_all_of_it_is_there_in_the_next_attempt(tmp_path: Path) -> None:
    kept = history(tmp_path)
    assert [add(kept, each) for each in (row(1, 30.0), row(2, 20.0), row(3, 25.0))] == [True, True, False]
    again = history(tmp_path)
    assert (again.rows, again.best, again.spent_seconds) == (kept.rows, row(2, 20.0), 3.0)


def sung(step: int, mel: float, cents: float) -> Row:
    return Row(step=step, epoch=step, values={"eval/mel": mel, "eval/f0_cents": cents})


def test_a_save_of_a_wrong_pitch_is_not_the_best_beside_one_of_a_right_pitch(tmp_path: Path) -> None:
    kept = history(tmp_path)
    rows = [sung(1, 120.0, 300.0), sung(2, 110.0, 1063.0), sung(3, 130.0, 40.0), sung(4, 106.0, 1063.0)]
    assert [add(kept, each) for each in rows] == [True, True, True, False]
    assert not add(kept, row(5, 100.0)), "nothing of it is voiced where the recording is"
    assert [add(kept, each) for each in (sung(6, 129.0, 99.0), sung(7, 129.5, 5.0))] == [True, False]
    assert history(tmp_path).best == sung(6, 129.0, 99.0)


def test_a_step_done_again_replaces_its_row(tmp_path: Path) -> None:
    kept = history(tmp_path)
    for each in (row(1, 30.0), row(2, 20.0), row(2, 22.0)):
        add(kept, each)
    assert kept.rows == [row(1, 30.0), row(2, 22.0)]


def test_what_was_measured_beyond_the_checkpoint_goes_with_its_previews_and_the_best_stays(tmp_path: Path) -> None:
    kept = history(tmp_path)
    for each in (row(1, 30.0, "a.flac"), row(2, 20.0, "b.flac")):
        (tmp_path / each.files[0]).touch()
        add(kept, each)
    kept.truncate_after(1)
    again = history(tmp_path)
    assert (again.rows, again.best) == ([row(1, 30.0, "a.flac")], row(2, 20.0, "b.flac"))
    assert not (tmp_path / "b.flac").exists()
    assert (tmp_path / "a.flac").exists()
    assert not add(again, row(2, 21.0))


def test_values_of_other_clips_are_not_compared_with(tmp_path: Path) -> None:
    add(history(tmp_path), row(1, 1.0))
    other = history(tmp_path, ["7_0"])
    assert other.rows == []
    assert add(other, row(2, 30.0))


def test_a_run_begun_anew_remembers_nothing(tmp_path: Path) -> None:
    kept = history(tmp_path)
    add(kept, row(1, 1.0))
    kept.clear()
    assert history(tmp_path).best is None
    assert not kept.path.exists()


def test_a_damaged_file_is_told_of_and_begun_anew(tmp_path: Path) -> None:
    warnings.clear()
    add(history(tmp_path), row(1, 1.0))
    (tmp_path / "evaluation.json").write_text('{"best": 3')
    assert history(tmp_path).rows == []
    assert "evaluation.json" in warnings[0]


def test_what_could_not_be_measured_is_never_the_best(tmp_path: Path) -> None:
    kept = history(tmp_path)
    unmeasured = Row(step=1, epoch=1, values={"eval/voicing": 0.1})
    assert not add(kept, unmeasured)
    assert add(kept, row(2, 99.0))
    assert json.loads(kept.path.read_text())["evaluations"][0]["values"] == {"eval/voicing": 0.1}
