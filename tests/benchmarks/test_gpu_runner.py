"""The benchmark of a GPU: parts in order, each within its share of the time, whatever the device does."""

import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import part as part_process
from benchmarks.gpu import runner as runner_module
from benchmarks.gpu.plan import PARTS, Part, Plan
from benchmarks.gpu.runner import Runner

ORDER = ["gradients", "steps", "compiled", "memory", "failures", "losses", "voices", "index", "content", "pitch"]
QUICK = [Part(name, 1, "") for name in ("first", "second", "third")]


def shell(**programs: str) -> Callable[[str, Plan], list[str]]:
    """Commands of parts; those not named print a result."""
    usual = 'echo \'{"name": "a result", "value": 1, "unit": "s"}\''
    return lambda name, _: ["/bin/sh", "-c", programs.get(name, usual)]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_parts_run_in_the_order_of_their_worth_and_their_lines_are_printed_and_kept(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert [part.name for part in PARTS] == ORDER
    assert sum(part.share for part in PARTS) == 480
    kept = io.StringIO()
    runner = Runner("cpu", 60, kept)
    runner.run(PARTS, shell())
    assert [line["part"] for line in lines(kept.getvalue())] == ORDER
    assert capsys.readouterr().out == kept.getvalue()
    assert not runner.has_failed


@pytest.mark.parametrize("hanging", ["device", *ORDER])
def test_a_device_that_hangs_in_any_part_costs_no_more_than_its_share(hanging: str) -> None:
    """The process ignores requests to end, and has printed a result before."""
    hang = 'trap "" TERM INT; echo \'{"name": "before", "value": 1}\'; sleep 600 & wait; sleep 600'
    kept = io.StringIO()
    runner = Runner("cuda:0", 3.0, kept)
    # So that no share is below the time that a shell takes to start here.
    parts = [Part(part.name, 1.0, "") for part in PARTS if part.name == hanging] or [Part("steps", 1.0, "")]
    began = time.monotonic()
    if hanging == "device":
        assert runner.run_part("device", 1.0, shell(device=hang))
    else:
        runner._ends_at = began + 1.0
        runner.run(parts, shell(**{hanging: hang}))
    assert time.monotonic() - began < 10
    found = lines(kept.getvalue())
    assert [line.get("name") for line in found] == ["before", None], "what came before is kept"
    assert found[-1]["part"] == hanging
    assert found[-1]["failed"].startswith("ended after its share of")


def test_time_that_a_part_leaves_goes_to_those_after_it() -> None:
    plans: dict[str, Plan] = {}

    def command(name: str, plan: Plan) -> list[str]:
        plans[name] = plan
        return ["/bin/sh", "-c", "sleep 600" if name == "second" else "true"]

    runner = Runner("cpu", 4.0, None)
    began = time.time()
    runner.run(QUICK, command)
    assert plans["first"].ends_at - began < 2
    assert time.time() - began < 4 + runner_module.KILL_SECONDS
    assert plans["second"].seconds_left < plans["third"].seconds_left


def test_a_process_that_cannot_be_ended_is_left_behind_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(runner_module, "kill", killed.append)
    monkeypatch.setattr(runner_module, "KILL_SECONDS", 0.2)
    kept = io.StringIO()
    runner = Runner("cuda:0", 30, kept)
    runner.run_part("first", 0.5, shell(first="sleep 600"))
    runner.run_part("second", 20, shell())
    monkeypatch.undo()
    for process in {id(each): each for each in killed}.values():
        runner_module.kill(process)
        process.communicate()
    found = lines(kept.getvalue())
    assert found[1]["failed"] == "its process could not be ended: the driver hangs"
    assert (found[-1]["part"], found[-1]["name"]) == ("second", "a result")


def test_a_part_that_fails_says_why_and_those_after_it_run() -> None:
    kept = io.StringIO()
    runner = Runner("cuda:0", 30, kept)
    runner.run(QUICK, shell(second="echo 'RuntimeError: CUDA error: an illegal memory access' >&2; exit 1"))
    assert [line["part"] for line in lines(kept.getvalue())] == ["first", "second", "third"]
    assert lines(kept.getvalue())[1]["failed"] == "RuntimeError: CUDA error: an illegal memory access"
    assert runner.has_failed


def test_a_part_whose_package_is_missing_is_left_out_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name="faiss")

    monkeypatch.setattr(part_process.importlib, "import_module", missing)
    monkeypatch.setattr(sys, "argv", ["part", "index", Plan("cpu", time.time() + 9).dump()])
    part_process.main()
    [line] = lines(capsys.readouterr().out)
    assert line["left_out"].startswith("needs the package faiss, which this Python")


def test_the_stand_in_for_pydantic_gives_the_hyperparameters_of_pydantic(tmp_path: Path) -> None:
    """In a Python without it, as a machine with a GPU may have."""
    program = (
        "from rvc_engine.config import TrainingConfig; from rvc_engine.hyperparameters import Hyperparameters;"
        "import pydantic; print(pydantic.__file__.count('stand_ins'));"
        "print(Hyperparameters.from_config(TrainingConfig(width=24, pretrained='none')))"
    )
    found = []
    for folder in (runner_module.STAND_INS, tmp_path):
        runner = Runner("cpu", 60, None)
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {program}"]
        child = runner_module._Child(command)
        found.append([child.line(50), child.line(50)])
        assert child.end(at_once=False)
        assert runner.has_failed is False
    assert [each[0] for each in found] == ["1\n", "0\n"]
    assert found[0][1] == found[1][1] is not None
