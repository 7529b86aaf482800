"""G_/D_ pairs in a run's folder: which is used, which is skipped, and what is restored from it."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from rvc_engine.checkpoints.pair_files import pair_trees, write_pair
from rvc_engine.checkpoints.pairs import pairs_to_resume, resume
from rvc_engine.checkpoints.recovery import OwnCheckpoint
from rvc_engine.checkpoints.retention import Save, SaveRegistry
from rvc_engine.checkpoints.train_state import GanTrainState, TrainProgress
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.voices.optimizer_order import reorder_optimizer
from rvc_engine.workspace.layout import Workspace


def config(**changes: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"pretrained": "none", "width": 24, **changes})


def build(**changes: object) -> GanTrainState:
    torch.manual_seed(1)
    return GanTrainState.build(Hyperparameters.from_config(config(**changes)), torch.device("cpu"), 1e-4)


@pytest.fixture(scope="module")
def trained() -> GanTrainState:
    """Models after two steps along random gradients."""
    state = build()
    for _ in range(2):
        for net, optimizer in (
            (state.synthesizer, state.generator_optimizer),
            (state.discriminators, state.discriminator_optimizer),
        ):
            for parameter in net.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
    return state


@pytest.fixture
def save(trained: GanTrainState, tmp_path: Path) -> Any:
    """Save a pair of an epoch under a name, as another program does, with changes to the tree of each file."""

    def save_one(epoch: int, name: str, **changes: Any) -> None:
        write_pair(
            Workspace(tmp_path, "anna").root,
            pair_trees(trained, TrainProgress(999, epoch + 1, 0, 0.0, 1, 1), 1e-4, 999),
        )
        for letter in "GD":
            path = tmp_path / f"{letter}_999.pth"
            torch.save({**torch.load(path, weights_only=True), "scaler": {}, **changes}, path)
            path.rename(tmp_path / f"{letter}_{name}.pth")

    return save_one


def names(root: Path, own: OwnCheckpoint | None = None) -> list[str]:
    warnings: list[str] = []
    return [*(pair.generator.name for pair in pairs_to_resume(root, own, warnings.append)), *warnings]


def assert_same(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    expected = theirs.state_dict()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_newest_is_the_one_of_the_latest_epoch_then_of_the_latest_time_whatever_its_name(
    save: Any, tmp_path: Path
) -> None:
    save(1, "2333333")
    save(3, "9")
    save(3, "100")
    save(2, "77")
    os.utime(tmp_path / "G_100.pth", (1e9, 1e9))
    assert names(tmp_path) == ["G_9.pth", "G_100.pth", "G_77.pth", "G_2333333.pth"]
    assert names(tmp_path / "elsewhere") == []


def test_weights_moments_and_epoch_arrive(save: Any, trained: GanTrainState, tmp_path: Path) -> None:
    save(7, "5")
    fresh, warnings = build(), []
    resumed = resume(pairs_to_resume(tmp_path, None, warnings.append), fresh, config(), warnings.append)
    assert resumed is not None
    assert (resumed.epoch, resumed.pair.generator.name, warnings) == (7, "G_5.pth", [])
    for ours, theirs, optimizer, other in (
        (fresh.synthesizer, trained.synthesizer, fresh.generator_optimizer, trained.generator_optimizer),
        (fresh.discriminators, trained.discriminators, fresh.discriminator_optimizer, trained.discriminator_optimizer),
    ):
        assert_same(ours, theirs)
        for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
            for key in ("step", "exp_avg", "exp_avg_sq"):
                assert torch.equal(optimizer.state[one][key], other.state[two][key])


def test_a_damaged_newest_is_skipped_with_a_warning_and_an_old_broken_one_does_not_matter(
    save: Any, trained: GanTrainState, tmp_path: Path
) -> None:
    save(1, "1a")
    save(2, "2a")
    data = bytearray((tmp_path / "D_2a.pth").read_bytes())
    data[len(data) // 2] ^= 0xFF  # one byte of one tensor
    (tmp_path / "D_2a.pth").write_bytes(data)
    (tmp_path / "G_0.pth").write_bytes(b"PK")
    os.utime(tmp_path / "G_0.pth", (1e9, 1e9))
    warnings: list[str] = []
    resumed = resume(pairs_to_resume(tmp_path, None, warnings.append), build(), config(), warnings.append)
    assert resumed is not None
    assert resumed.epoch == 1
    [warning] = warnings
    assert warning.startswith("D_2a.pth is damaged")
    assert "resuming from the pair before it" in warning


@pytest.mark.parametrize("half", ["G", "D"])
def test_a_run_with_nothing_but_broken_pairs_does_not_start_over(save: Any, tmp_path: Path, half: str) -> None:
    save(2, "2")
    path = tmp_path / f"{half}_2.pth"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(IncompatibleCheckpoint, match=r"damaged.*(move|moved|restore)"):
        resume(pairs_to_resume(tmp_path, None, lambda _: None), build(), config(), lambda _: None)


def test_a_half_alone_and_halves_of_different_epochs_are_no_pair(save: Any, tmp_path: Path) -> None:
    save(1, "1")
    save(2, "2")
    (tmp_path / "D_2.pth").unlink()
    assert names(tmp_path) == ["G_1.pth", "G_2.pth has no D_2.pth beside it; it is skipped"]
    (tmp_path / "D_2.pth").hardlink_to(tmp_path / "D_1.pth")
    warnings: list[str] = []
    resumed = resume(pairs_to_resume(tmp_path, None, warnings.append), build(), config(), warnings.append)
    assert resumed is not None
    assert resumed.epoch == 1
    assert "G_2.pth is of epoch 2 and D_2.pth of epoch 1: saving them was interrupted" in warnings[0]


def test_the_runs_own_checkpoint_wins_unless_another_program_trained_on(save: Any, tmp_path: Path) -> None:
    save(5, "50")
    written = (tmp_path / "G_50.pth").stat().st_mtime
    assert names(tmp_path, OwnCheckpoint(4, written - 60)) == ["G_50.pth"]
    assert names(tmp_path, OwnCheckpoint(5, written - 60)) == ["G_50.pth"]  # RVC WebUI trains the last epoch again
    assert names(tmp_path, OwnCheckpoint(6, written - 60)) == []  # an earlier epoch
    assert names(tmp_path, OwnCheckpoint(4, written + 60)) == []  # not a later time
    SaveRegistry(tmp_path).add(Save(step=50, epoch=5, files=["G_50.pth", "D_50.pth"]), config(), lambda _: 0.0)
    assert names(tmp_path, OwnCheckpoint(4, written - 60)) == []  # this run's own save
    save(6, "60")
    (tmp_path / "D_60.pth").write_bytes(b"")
    [warning] = names(tmp_path, OwnCheckpoint(4, written - 60))
    assert "D_60.pth is damaged" in warning


def test_a_pair_that_always_has_the_same_name_is_recognised_by_its_contents(
    trained: GanTrainState, tmp_path: Path
) -> None:
    def save_latest(epoch: int) -> None:
        write_pair(
            Workspace(tmp_path, "anna").root,
            pair_trees(trained, TrainProgress(9, epoch + 1, 0, 0.0, 1, 1), 1e-4, 2333333),
        )

    save_latest(5)
    assert names(tmp_path, OwnCheckpoint(4, 0.0)) == []  # killed before it was listed, or with -l 1
    SaveRegistry(tmp_path).claim("0" * 64)  # of a save whose run was killed before the rename
    assert names(tmp_path, OwnCheckpoint(4, 0.0)) == []
    for letter in "GD":  # another program resumes from it
        path = tmp_path / f"{letter}_2333333.pth"
        torch.save({**torch.load(path, weights_only=True), "iteration": 6}, path)
    assert names(tmp_path, OwnCheckpoint(4, 0.0)) == ["G_2333333.pth"]


def test_a_pair_without_optimizer_gives_its_weights_and_a_warning(
    save: Any, trained: GanTrainState, tmp_path: Path
) -> None:
    save(1, "1", optimizer={"state": {}, "param_groups": []})
    fresh, warnings = build(), []
    resume(pairs_to_resume(tmp_path, None, warnings.append), fresh, config(), warnings.append)
    assert [warning.split(";")[0] for warning in warnings] == [
        f"{letter}_1.pth has no optimizer state that fits" for letter in "GD"
    ]
    assert_same(fresh.synthesizer, trained.synthesizer)
    assert not fresh.generator_optimizer.state


@pytest.mark.parametrize(("asked", "scale"), [({}, 2.0), ({"learning_rate": 3e-4}, 1.0)])
def test_the_learning_rate_of_a_pair_is_continued_unless_the_config_sets_another(
    save: Any, tmp_path: Path, asked: dict[str, float], scale: float
) -> None:
    save(3, "1")
    path = tmp_path / "G_1.pth"
    tree = torch.load(path, weights_only=True)
    tree["optimizer"]["param_groups"][0]["lr"] = 0.5e-4  # after two halvings of 2e-4
    torch.save(tree, path)
    warnings: list[str] = []
    changed = config(lr_decay=0.5, **asked)
    resumed = resume(pairs_to_resume(tmp_path, None, warnings.append), build(), changed, warnings.append)
    assert resumed is not None
    assert resumed.learning_rate_scale == pytest.approx(scale)
    assert bool(warnings) == (scale != 1)


@pytest.mark.parametrize(
    ("asked", "ours"),
    [
        ({"sample_rate": "48k"}, "v2 48k weights with pitch of width 24"),
        ({"version": "v1", "f0": False}, "v1 40k weights without pitch of width 24"),
        ({"width": 48}, "v2 40k weights with pitch of width 48"),
    ],
)
def test_a_pair_of_another_kind_is_named(save: Any, tmp_path: Path, asked: dict[str, Any], ours: str) -> None:
    save(1, "1")
    with pytest.raises(IncompatibleCheckpoint, match=f"these are v2 40k .* of width 24; the job asks for {ours}"):
        resume(pairs_to_resume(tmp_path, None, lambda _: None), build(**asked), config(**asked), lambda _: None)


def test_a_generator_is_rewritten_in_the_order_of_applio_and_back(
    save: Any, trained: GanTrainState, tmp_path: Path
) -> None:
    save(2, "1")
    ours = torch.load(tmp_path / "G_1.pth", weights_only=True)
    reorder_optimizer(tmp_path / "G_1.pth", tmp_path / "G_1.pth", "applio")
    theirs = torch.load(tmp_path / "G_1.pth", weights_only=True)
    order, other = list(ours["model"]), list(theirs["model"])
    parts = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in other if name.startswith("dec.")))
    theirs_order = ["m_source", "conv_pre", "ups", "noise_convs", "resblocks", "conv_post", "cond"]
    assert parts == [f"dec.{name}" for name in theirs_order]
    assert other[0] == "enc_p.emb_phone.weight" != order[0]
    assert (theirs["iteration"], sorted(other)) == (2, sorted(order))
    assert theirs["optimizer"]["param_groups"][0]["params"] == list(range(len(order)))
    assert theirs["optimizer"]["param_groups"][0]["initial_lr"] == 1e-4
    for number, name in enumerate(other):
        entry, same = theirs["optimizer"]["state"][number], ours["optimizer"]["state"][order.index(name)]
        assert all(torch.equal(entry[key], same[key]) for key in ("step", "exp_avg", "exp_avg_sq")), name

    fresh = build()
    resume(pairs_to_resume(tmp_path, None, lambda _: None), fresh, config(), lambda _: None)
    assert_same(fresh.synthesizer, trained.synthesizer)
    reorder_optimizer(tmp_path / "G_1.pth", tmp_path / "G_back.pth", "rvc")
    assert list(torch.load(tmp_path / "G_back.pth", weights_only=True)["model"]) == order
    with pytest.raises(IncompatibleCheckpoint, match="contains v2 discriminators of width 24; give the G_ file"):
        reorder_optimizer(tmp_path / "D_1.pth", tmp_path / "x.pth", "applio")
