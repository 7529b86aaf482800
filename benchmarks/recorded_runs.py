"""Record calibration and small runs of different settings, to which the test of the estimates compares its figures.

    python -m benchmarks.recorded_runs FILE

There is one thread, and times are of the CPU, so that they mean something on a machine that other programs share. The
runs share a process, whose start counts for each. Runs that FILE has already are not repeated.
"""

import argparse
import json
import platform
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).parents[1] / "samples"
BASE = {"width": 24, "content": "whisper-tiny", "pretrained": "none", "batch_size": 4, "total_epochs": 4}
RUNS: list[tuple[int, dict[str, Any]]] = [
    # number of recordings, and what is changed in BASE
    (9, {}),
    (9, {"width": 192, "total_epochs": 1}),
    (4, {"width": 96, "total_epochs": 2}),
    (4, {"batch_size": 2, "total_epochs": 1, "pitch": "harvest"}),
    (4, {"width": 48, "batch_size": 2, "total_epochs": 1}),
    (4, {"content": "local", "total_epochs": 1}),
    (9, {"batch_size": 8, "total_epochs": 2}),
    (4, {"precision": "fp32", "total_epochs": 2}),
    (4, {"f0": False, "total_epochs": 2}),
    (4, {"batch_size": 1, "total_epochs": 1, "evaluate": "never"}),
    (4, {"sample_rate": "48k", "total_epochs": 2}),
    (4, {"evaluate": "always", "save_every_epochs": 1, "total_epochs": 2}),
    (4, {"accumulate_steps": 2, "sample_rate": "32k", "pitch": "dio", "total_epochs": 3}),
    (4, {"slicing": "fixed", "slice_seconds": 1.5, "slice_overlap_seconds": 0.2, "total_epochs": 1}),
    (9, {"slicing": "none", "total_epochs": 2}),
    (4, {"width": 48, "gradient_checkpointing": True, "total_epochs": 1}),
    (25, {"batch_size": 8, "total_epochs": 1}),
    (4, {"width": 192, "batch_size": 1, "total_epochs": 1, "evaluate": "never"}),
]


def record_calibration() -> dict[str, Any]:
    """A calibration of one thread, in seconds of the CPU."""
    from rvc_engine.calibration.measurement import calibrate
    from rvc_engine.machine import Machine

    loading = time.process_time()
    found = calibrate(Machine(device="cpu", num_threads=1), time.process_time)
    return found.model_copy(update={"start_seconds": loading}).model_dump(mode="json")


def record_run(num_recordings: int, changes: dict[str, Any], start_seconds: float) -> dict[str, Any]:
    """A run in this process: its settings, the length of its recordings, its steps and its seconds of the CPU."""
    from rvc_engine.config import TrainingConfig
    from rvc_engine.events import Event, Progress, StageChanged
    from rvc_engine.machine import Machine
    from rvc_engine.pipeline.pipeline import make_voice
    from rvc_engine.report.report import make_report
    from rvc_engine.workspace.layout import Workspace

    stages: dict[str, float] = {}
    last: dict[str, int] = {}
    began: dict[str, float] = {}

    def report(event: Event) -> None:
        if isinstance(event, StageChanged) and event.state == "started":
            began[event.stage] = time.process_time()
        if isinstance(event, StageChanged) and event.state == "finished":
            stages[event.stage] = time.process_time() - began[event.stage]
        if isinstance(event, Progress) and event.step is not None and event.total_steps is not None:
            last.update(step=event.step, total_steps=event.total_steps)

    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder, "recordings")
        dataset.mkdir()
        for path in sorted(SAMPLES.glob("*.flac"))[:num_recordings]:
            (dataset / path.name).symlink_to(path.resolve())
        content = _random_hubert(Path(folder, "hubert")) if changes.get("content") == "local" else None
        config = TrainingConfig.model_validate(BASE | changes)
        starting = time.process_time()
        machine = Machine(device="cpu", num_threads=1, content_folder=content)
        make_voice(dataset, Workspace(Path(folder, "run"), "recorded"), config, machine, report)
        seconds = start_seconds + time.process_time() - starting
        dataset_report = asdict(make_report(dataset))
    kept = {name: dataset_report[name] for name in ("seconds", "speech_seconds", "kept_seconds", "num_usable")}
    return {"config": BASE | changes, "dataset": kept, "seconds": seconds, "stages": stages, **last}


def _random_hubert(folder: Path) -> Path:
    """A HuBERT of the published size with random weights, which takes as long as ContentVec."""
    import torch
    from transformers import HubertConfig, HubertModel

    folder.mkdir()
    config = HubertConfig()
    torch.save(HubertModel(config).state_dict(), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder


def main() -> None:
    """Record what is missing in the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    file = Path(parser.parse_args().file)
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"runs": []}
    if "calibration" not in found:
        machine = f"one thread of {platform.processor() or platform.machine()}, seconds of the CPU"
        found |= {"machine": machine, "date": datetime.now(UTC).date().isoformat(), "calibration": record_calibration()}
        file.write_text(json.dumps(found, indent=1))
    from rvc_engine.pipeline import pipeline  # noqa: F401 - its loading is the start

    start_seconds = time.process_time()
    for number, run in enumerate(RUNS):
        if all(each["number"] != number for each in found["runs"]):
            found["runs"].append({"number": number} | record_run(*run, start_seconds))
            file.write_text(json.dumps(found, indent=1))
            print(json.dumps(found["runs"][-1]), flush=True)


if __name__ == "__main__":
    main()
