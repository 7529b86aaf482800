"""A G_/D_ pair in the run's folder, from whatever program, is gone on from; the run's own checkpoint comes first."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rvc_engine.checkpoint import load_trained_generator
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.events import Event, Log, Metric, Warned
from rvc_engine.workspace import Workspace

Make = Callable[..., tuple[Workspace, list[Event]]]
SPELLINGS = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}


def read(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = torch.load(path, weights_only=True)
    return tree


def steps(events: list[Event]) -> list[int]:
    return [event.step for event in events if isinstance(event, Metric)]


def epochs(events: list[Event]) -> set[int]:
    return {event.epoch for event in events if isinstance(event, Metric)}


def said(events: list[Event]) -> str:
    return "\n".join(event.message for event in events if isinstance(event, Log | Warned))


def as_applio_writes(path: Path) -> None:
    """The same state in Applio's way: its order of tensors, newer names, a scaler, an embedding of one row."""
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


def rename(workspace: Workspace, old: str, new: str) -> None:
    for letter in "GD":
        (workspace.root / f"{letter}_{old}.pth").rename(workspace.root / f"{letter}_{new}.pth")


def trained(workspace: Workspace) -> dict[str, torch.Tensor]:
    return load_trained_generator(workspace)[0]


def test_a_pair_alone_goes_on_to_the_same_weights_as_the_runs_own_checkpoint(
    make: Make, finished: Workspace, tmp_path: Path
) -> None:
    shutil.copytree(finished.root, tmp_path / "other")
    _, own = make(total_epochs=2)

    shutil.rmtree(tmp_path / "other" / "recovery")
    for letter in "GD":
        as_applio_writes(tmp_path / "other" / f"{letter}_3.pth")
    other, events = make("other", total_epochs=2)

    assert steps(events) == steps(own) == [4, 5, 6]
    assert epochs(events) == {2}
    assert "going on after epoch 1 of G_3.pth" in said(events)
    theirs = trained(other)
    for name, value in trained(finished).items():
        if name == "emb_g.weight":  # all other rows are what a fresh net has, and weight decay alone moves them
            torch.testing.assert_close(value[:1], theirs[name][:1], rtol=0, atol=0)
        else:
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=0)


def test_the_newest_pair_is_the_one_of_the_latest_epoch_whatever_its_name(make: Make, finished: Workspace) -> None:
    make(total_epochs=2)
    rename(finished, "3", "2333333")  # the older
    shutil.rmtree(finished.recovery)
    _, events = make(total_epochs=3)
    assert "after epoch 2 of G_6.pth" in said(events)
    assert epochs(events) == {3}


def test_a_damaged_newest_pair_is_passed_over_for_the_one_before_and_that_is_said(
    make: Make, finished: Workspace
) -> None:
    make(total_epochs=2)
    shutil.rmtree(finished.recovery)
    data = bytearray((finished.root / "D_6.pth").read_bytes())
    data[len(data) // 2] ^= 0xFF  # one byte of one tensor
    (finished.root / "D_6.pth").write_bytes(data)
    _, events = make(total_epochs=2)
    assert "D_6.pth is damaged" in said(events)
    assert "after epoch 1 of G_3.pth" in said(events)
    assert epochs(events) == {2}


def test_a_run_whose_pairs_are_all_broken_does_not_start_over(make: Make, finished: Workspace) -> None:
    shutil.rmtree(finished.recovery)
    path = finished.root / "G_3.pth"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(IncompatibleCheckpoint, match=r"none can be gone on from .*G_3\.pth is damaged"):
        make(total_epochs=2)


def test_halves_of_different_epochs_are_no_pair(make: Make, finished: Workspace) -> None:
    make(total_epochs=2)
    shutil.rmtree(finished.recovery)
    shutil.copy(finished.root / "D_3.pth", finished.root / "D_6.pth")
    _, events = make(total_epochs=2)
    assert "G_6.pth is of epoch 2 and D_6.pth of epoch 1: saving them was interrupted" in said(events)
    assert "after epoch 1" in said(events)


def test_the_runs_own_checkpoint_wins_over_its_own_and_over_older_pairs(make: Make, finished: Workspace) -> None:
    for letter in "GD":
        os.utime(finished.root / f"{letter}_3.pth")  # as after a copy
    _, events = make(total_epochs=2)
    assert "going on after step 3" in said(events)
    assert "pair" not in said(events)


def test_a_pair_that_another_program_trained_on_wins_over_the_older_checkpoint(make: Make, finished: Workspace) -> None:
    for letter in "GD":
        tree = read(finished.root / f"{letter}_3.pth")
        torch.save({**tree, "iteration": 5}, finished.root / f"{letter}_2333333.pth")
    _, events = make(total_epochs=6)
    assert "going on after epoch 5 of G_2333333.pth" in said(events)
    assert epochs(events) == {6}
    _, events = make(total_epochs=7)  # and from then on it is the run's own again
    assert "going on after step 18" in said(events)


def test_a_pair_without_optimizer_gives_its_weights_and_that_is_said(make: Make, finished: Workspace) -> None:
    shutil.rmtree(finished.recovery)
    for letter in "GD":
        tree = read(finished.root / f"{letter}_3.pth")
        torch.save({"model": {k: v.half() for k, v in tree["model"].items()}, "iteration": 1},
                   finished.root / f"{letter}_3.pth")  # fmt: skip
    _, events = make(total_epochs=2)
    assert "G_3.pth has no optimizer state that fits" in said(events)
    assert epochs(events) == {2}


def test_the_learning_rate_of_a_pair_goes_on_unless_another_is_asked_for(make: Make, finished: Workspace) -> None:
    shutil.rmtree(finished.recovery)
    for letter in "GD":
        tree = read(finished.root / f"{letter}_3.pth")
        tree["optimizer"]["param_groups"][0]["lr"] = 2e-4
        torch.save(tree, finished.root / f"{letter}_3.pth")
    kept = finished.root.with_name("kept")
    shutil.copytree(finished.root, kept)
    _, events = make(total_epochs=2, learning_rate=1e-4, lr_decay=0.5)
    assert "2 times the usual" in said(events)
    assert {event.values["learning_rate"] for event in events if isinstance(event, Metric)} == {1e-4}
    _, events = make("kept", total_epochs=2, learning_rate=1e-3, lr_decay=0.5)
    assert {event.values["learning_rate"] for event in events if isinstance(event, Metric)} == {5e-4}


def test_a_pair_of_another_kind_is_named(make: Make, finished: Workspace) -> None:
    for path in (finished.recovery, finished.root / "stages"):
        shutil.rmtree(path)
    theirs, ours = (f"v2 {rate} weights with pitch of width 24" for rate in ("40k", "32k"))
    with pytest.raises(IncompatibleCheckpoint, match=f"these are {theirs}; the job asks for {ours}"):
        make(total_epochs=2, sample_rate="32k")
