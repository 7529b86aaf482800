"""`watch` shows the numbers of a training's events."""

from types import SimpleNamespace

from rvc_train.cli.watch import View


def a_view() -> View:
    """View of a job whose training has just begun."""
    job = SimpleNamespace(status="running", config={}, queue_position=None, losses={})
    job.model_dump = lambda include: dict.fromkeys(include) | {"stage": "train"}
    return View(job)  # type: ignore[arg-type]


def test_a_step_is_shown_with_its_duration_its_throughput_and_its_share_of_the_machine() -> None:
    view = a_view()
    data = {"stage": "train", "epoch": 2, "total_epochs": 20, "step": 40, "step_seconds": 0.5}
    view.update(SimpleNamespace(type="progress", data=data))  # type: ignore[arg-type]
    assert view.details().strip() == "epoch 2/20  step 40 (0.5 s)"
    throughput = {"clips_per_second": 8.0, "machine_share": 0.42}
    view.update(SimpleNamespace(type="progress", data=data | throughput))  # type: ignore[arg-type]
    assert view.details().strip() == "epoch 2/20  step 40 (0.5 s, 8 clips/s, 42% of the machine)"
