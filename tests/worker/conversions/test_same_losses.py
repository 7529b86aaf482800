"""A real training with conversions beside it takes the same steps as one without."""

import shutil

import pytest

from rvc_engine.config import TrainingConfig
from rvc_train.schemas.jobs import JobCreate
from tests.programs import ROOT
from worker.settings import default_engine_command

CONFIG = TrainingConfig(
    width=24,
    content="whisper-tiny",
    pretrained="none",
    total_epochs=2,
    batch_size=4,
    seed=7,
    f0=True,
    evaluate="always",
)


@pytest.mark.long  # minutes; a conversion is a process of its own, which test_conversions.py starts each day
def test_losses_are_the_same_with_conversions_beside_the_training(studio, shop, recording):
    for path in sorted((ROOT / "samples").glob("*.flac"))[:8]:
        shutil.copy(path, shop.storage.dataset_folder(shop.dataset_id))
    shop.jobs.cancel(studio.job_id)  # only its voice is used
    jobs = [
        shop.jobs.submit(JobCreate(name="anna", dataset_id=shop.dataset_id, config=CONFIG)).job_id for _ in range(2)
    ]
    settings = {"engine_command": default_engine_command(), "device": "cpu", "silence_seconds": 240}
    ends = []
    with shop.worker(**settings):
        alone = shop.wait_for(jobs[0], "succeeded", "failed", seconds=280)
        assert alone.status == "succeeded", shop.log(jobs[0])
        shop.wait_for(jobs[1], "running", "failed")
        while shop.job(jobs[1]).status == "running":
            ends.append(studio.wait_for(studio.convert(recording(1.0)), "succeeded", "failed"))
        beside = shop.wait_for(jobs[1], "succeeded", "failed")
    assert [end.status for end in ends] == ["succeeded"] * len(ends)
    assert len(ends) > 1
    assert ends[0].device_reason.endswith("CPU cores at a low priority")
    losses, same = (
        {name: value for name, value in job.losses.items() if not name.startswith("speed/")} for job in (alone, beside)
    )
    assert losses == same
    assert len(losses) > 3
