"""What `watch` shows of a training is what its events said."""

from types import SimpleNamespace

from rvc_train.cli.watch import View


def a_view() -> View:
    """Of a job that has just begun to train."""
    job = SimpleNamespace(status="running", config={}, queue_position=None, losses={})
    job.model_dump = lambda include: dict.fromkeys(include) | {"stage": "train"}
    return View(job)  # type: ignore[arg-type]


def test_a_step_stands_beside_its_time_its_pace_and_its_share_of_the_machine() -> None:
    view = a_view()
    data = {"stage": "train", "epoch": 2, "total_epochs": 20, "step": 40, "step_seconds": 0.5}
    view.update(SimpleNamespace(type="progress", data=data))  # type: ignore[arg-type]
    assert view.details().strip() == "epoch 2/20  step 40 (0.5 s)"
    pace = {"clips_per_second": 8.0, "machine_share": 0.42}
    view.update(SimpleNamespace(type="progress", data=data | pace))  # type: ignore[arg-type]
    assert view.details().strip() == "epoch 2/20  step 40 (0.5 s, 8 clips/s, 42% of the machine)"
