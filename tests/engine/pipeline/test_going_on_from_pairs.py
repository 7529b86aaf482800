"""Resuming from a G_/D_ pair of any program in the run's folder; the run's own checkpoint comes first."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rvc_engine.checkpoints.recovery import load_trained_synthesizer
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.events import Event, Log, Metric, Progress, Warned
from rvc_engine.workspace.layout import Workspace

Make = Callable[..., tuple[Workspace, list[Event]]]
SPELLINGS = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}


def read(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = torch.load(path, weights_only=True)
    return tree


def steps(events: list[Event]) -> list[int]:
    return [event.step for event in events if isinstance(event, Metric)]


def epochs(events: list[Event]) -> set[int]:
    return {event.epoch for event in events if isinstance(event, Metric)}


def messages(events: list[Event]) -> str:
    return "\n".join(event.message for event in events if isinstance(event, Log | Warned))


def as_applio_writes(path: Path) -> None:
    """Rewrite a pair as Applio does: its order of tensors, newer names, a scaler, an embedding of one row."""
    tree = read(path)
    order = list(tree["model"])
    theirs = sorted(order, key=lambda name: not name.startswith("enc_p.")) if path.name[0] == "G" else order
    state, weights = tree["optimizer"]["state"], {}
    for name in theirs:
        value = tree["model"][name]
        if name == "emb_g.weight":
            value = value[:1]
            entry = state[order.index(name)]
            for key in ("exp_avg", "exp_avg_sq"):
                entry[key] = entry[key][:1]
        for old, new in SPELLINGS.items():
            name = name.replace(old, new)  # noqa: PLW2901
        weights[name] = value
    tree["model"] = weights
    tree["optimizer"]["state"] = {number: state[order.index(name)] for number, name in enumerate(theirs)}
    torch.save({**tree, "scaler": {}}, path)


def test_a_pair_alone_goes_on_to_the_same_weights_as_the_runs_own_checkpoint(
    make: Make, finished: Workspace, tmp_path: Path
) -> None:
    shutil.copytree(finished.root, tmp_path / "other")
    _, own = make(total_epochs=2, evaluate="never")

    shutil.rmtree(tmp_path / "other" / "recovery")
    for letter in "GD":
        as_applio_writes(tmp_path / "other" / f"{letter}_3.pth")
    other, events = make("other", total_epochs=2, evaluate="never")

    assert steps(events) == steps(own) == [4, 5, 6]
    assert epochs(events) == {2}
    assert "resuming after epoch 1 of G_3.pth" in messages(events)
    ours, theirs = (load_trained_synthesizer(workspace)[0] for workspace in (finished, other))
    for name, value in ours.items():
        rows = 1 if name == "emb_g.weight" else len(value)
        assert torch.equal(value[:rows], theirs[name][:rows]), name


def test_steps_go_on_from_another_programs_number_and_its_pair_stays(make: Make, finished: Workspace) -> None:
    shutil.rmtree(finished.recovery)
    (finished.root / "saves.json").unlink()
    for letter in "GD":
        (finished.root / f"{letter}_3.pth").rename(finished.root / f"{letter}_15.pth")
    theirs = (finished.root / "G_15.pth").read_bytes()
    _, events = make(total_epochs=2, evaluate="never")
    assert steps(events) == [16, 17, 18]
    assert [event.progress for event in events if isinstance(event, Progress)][-1] == 1
    assert sorted(path.name for path in finished.root.glob("G_*.pth")) == ["G_15.pth", "G_18.pth"]
    assert (finished.root / "G_15.pth").read_bytes() == theirs
    assert load_trained_synthesizer(finished)[1].step == 18


@pytest.mark.long  # test_pairs.py compares what is chosen each day
def test_a_pair_that_another_program_trained_on_wins_over_the_older_checkpoint(make: Make, finished: Workspace) -> None:
    for letter in "GD":
        tree = read(finished.root / f"{letter}_3.pth")
        torch.save({**tree, "iteration": 5}, finished.root / f"{letter}_2333333.pth")
    _, events = make(total_epochs=6, evaluate="never")
    assert "resuming after epoch 5 of G_2333333.pth" in messages(events)
    assert epochs(events) == {6}
    _, events = make(total_epochs=7, evaluate="never")  # and from then on it is the run's own again
    assert "resuming after step 18" in messages(events)


def test_a_pair_of_another_kind_is_named(make: Make, finished: Workspace) -> None:
    for path in (finished.recovery, finished.root / "stages"):
        shutil.rmtree(path)
    finished.hyperparameters.unlink()  # without its record it would count as another program's
    theirs, ours = (f"v2 40k weights with pitch of width {width}" for width in (24, 48))
    with pytest.raises(IncompatibleCheckpoint, match=f"these are {theirs}; the job asks for {ours}"):
        make(total_epochs=2, width=48)
