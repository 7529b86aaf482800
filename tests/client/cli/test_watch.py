"""`watch` shows the numbers of a training's events."""

from types import SimpleNamespace

import pytest

from rvc_engine.translation.messages import use_language
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


def test_progress_is_shown_in_the_language_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGUAGE", "")  # restored at the end
    use_language("zh")
    try:
        view = a_view()
        data = {"stage": "train", "epoch": 2, "total_epochs": 20, "step": 40, "step_seconds": 0.5, "eta_seconds": 185}
        view.update(SimpleNamespace(type="progress", data=data))  # type: ignore[arg-type]
        assert view.heading() == "训练"
        assert view.details() == "第 2/20 轮  第 40 步 (0.5 秒)  约剩 3 分 05 秒"
    finally:
        use_language("en")
