"""Inspecting, extracting and merging voices, as functions and from the command line."""

import contextlib
import json
import math
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rvc_engine.checkpoints.pair_files import pair_trees, write_pair
from rvc_engine.checkpoints.pairs import pairs_to_resume, resume
from rvc_engine.checkpoints.recovery import RecoveryStore
from rvc_engine.checkpoints.train_state import GanTrainState, TrainProgress
from rvc_engine.cli.main import app
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import IncompatibleCheckpoint, InvalidConfig
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.voices.export import VoiceDetails, read_voice, write_voice
from rvc_engine.voices.extract import extract
from rvc_engine.voices.inspect import describe, inspect_file
from rvc_engine.voices.merge import merge
from rvc_engine.voices.optimizer_order import reorder_optimizer
from rvc_engine.voices.voice import load_voice
from rvc_engine.workspace.base_weights_choice import BaseWeightsChoice
from rvc_engine.workspace.layout import Workspace

SPELLINGS = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}


def hparams_of(**changes: object) -> Hyperparameters:
    return Hyperparameters.from_config(TrainingConfig.model_validate({"pretrained": "none", "width": 24, **changes}))


def make_voice(path: Path, seed: int = 0, embedder: str = "contentvec", **changes: object) -> Path:
    torch.manual_seed(seed)
    hparams = hparams_of(**changes)
    weights = {name: torch.randn_like(value) * 0.1 for name, value in Synthesizer(hparams).state_dict().items()}
    write_voice(path, weights, hparams, VoiceDetails("anna", 20, 100, embedder, 60.0))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice, a G_/D_ pair and a recovery checkpoint of models after a step."""
    root = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    state = GanTrainState.build(hparams_of(), torch.device("cpu"), 1e-4)
    for net, optimizer in (
        (state.synthesizer, state.generator_optimizer),
        (state.discriminators, state.discriminator_optimizer),
    ):
        for parameter in net.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    progress = TrainProgress(step=1, epoch=3, batch=0, seconds=1.0, batch_size=1, num_clips=1)
    workspace = Workspace(root, "anna")
    write_pair(workspace.root, pair_trees(state, progress, 1e-4, 1))
    store = RecoveryStore(workspace, {})
    store.write(store.tree(state, progress))
    make_voice(root / "anna.pth")
    return root


@pytest.fixture
def changed(folder: Path, tmp_path: Path) -> Any:
    """A copy of a file with some of its top level replaced."""

    def change(name: str, to: str = "changed.pth", **values: Any) -> Path:
        tree = torch.load(folder / name, weights_only=True)
        torch.save({**tree, **values}, tmp_path / to)
        return tmp_path / to

    return change


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    tree: dict[str, dict[str, torch.Tensor]] = torch.load(path, weights_only=True)
    return tree["weight"] if "weight" in tree else tree["model"]


def faults(path: Path) -> str:
    return "\n".join(inspect_file(path).faults)


def test_a_report_of_a_voice_lists_its_metadata(folder: Path) -> None:
    report = inspect_file(folder / "anna.pth")
    assert report.model_dump(exclude={"path", "size", "sha256", "created", "parameters"}, exclude_none=True) == {
        "contents": "voice",
        "version": "v2",
        "sample_rate": "40k",
        "f0": True,
        "width": 24,
        "epoch": 20,
        "step": 100,
        "encoder": "contentvec",
        "speakers": 109,
        "name": "anna",
        "info": "20epoch",
        "dtype": "float16",
        "tensors": 457,
        "faults": [],
        "notes": [],
    }
    assert (report.size, len(report.sha256)) == ((folder / "anna.pth").stat().st_size, 64)


def test_checkpoints_and_base_weights_are_distinguished(folder: Path, changed: Any) -> None:
    g, d = inspect_file(folder / "G_1.pth"), inspect_file(folder / "D_1.pth")
    assert (g.contents, g.version, g.sample_rate, g.f0, g.epoch, g.optimizer) == (
        "generator checkpoint", "v2", "40k", True, 2, "fits")  # fmt: skip
    assert (d.contents, d.version, d.sample_rate, d.f0) == ("discriminators checkpoint", "v2", None, None)
    [recovery] = (folder / "recovery").glob("*.pt")
    report = inspect_file(recovery)
    assert (report.contents, report.epoch, report.step, report.faults) == ("recovery checkpoint", 2, 1, [])
    halves = {name: value.half() for name, value in weights_of(folder / "G_1.pth").items()}
    base = changed("G_1.pth", model=halves, optimizer=None)
    assert (inspect_file(base).contents, inspect_file(base).dtype) == ("generator weights", "float16")
    assert g.faults == d.faults == inspect_file(base).faults == []


def test_a_voice_from_scratch_for_lack_of_base_weights_says_so(tmp_path: Path) -> None:
    workspace, progress = Workspace(tmp_path, "anna"), TrainProgress(100, 20, 0, 1.0, 4, 8)
    config = TrainingConfig(pretrained="none", width=24)
    assert VoiceDetails.from_checkpoint(workspace, config, progress).base_weights is None
    BaseWeightsChoice(pretrained="none", reason="the hub cannot be reached").write(workspace)
    details = VoiceDetails.from_checkpoint(workspace, config, progress)
    write_voice(workspace.voice_file, Synthesizer(hparams_of()).state_dict(), hparams_of(), details)
    assert inspect_file(workspace.voice_file).notes == ["it was trained from scratch, without base weights"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda w: w.pop("dec.conv_pre.bias"), "in 1 tensors: dec.conv_pre.bias is missing"),
        (lambda w: w.update({"extra": torch.ones(2).half()}), "extra is unknown"),
        (lambda w: w.update({"dec.conv_pre.bias": torch.ones(3).half()}), "dec.conv_pre.bias is 3 and should be 64"),
        (lambda w: w["dec.conv_pre.bias"].fill_(math.nan), "1 tensor (dec.conv_pre.bias) contain NaN"),
        (lambda w: w["emb_g.weight"].zero_(), "emb_g.weight) contain only zeros"),
        (lambda w: w.update({k: v.float() for k, v in w.items()}), "float32; published voices are float16"),
        (
            lambda w: [w.update({k.replace(old, new): w.pop(k)}) for old, new in SPELLINGS.items() for k in list(w)],
            "names of newer PyTorch",
        ),
    ],
)
def test_faults_of_tensors_are_named(folder: Path, changed: Any, change: Any, fault: str) -> None:
    weights = weights_of(folder / "anna.pth")
    change(weights)
    [found] = inspect_file(changed("anna.pth", weight=weights)).faults
    assert fault in found


def test_faults_of_a_voices_metadata_are_named(folder: Path, changed: Any, tmp_path: Path) -> None:
    assert "has sr=48k, but 40000 Hz in its config" in faults(changed("anna.pth", sr="48k"))
    assert "is labelled v1 with pitch, but its tensors are v2 40k" in faults(changed("anna.pth", version="v1"))
    assert "no `config` of 18 entries" in faults(changed("anna.pth", config=[1, 2]))
    assert "vocoder RefineGAN" in faults(changed("anna.pth", vocoder="RefineGAN"))
    assert "its name contains `trained`" in faults(changed("anna.pth", to="pretrained_x.pth"))
    assert "begins with G_ or D_" in faults(changed("anna.pth", to="G_x.pth"))
    [note] = inspect_file(changed("anna.pth", embedder_model="whisper-tiny.en-l2l3")).notes
    assert "converts correctly only with `rvc-engine convert`" in note


class Malicious:
    """Value that runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/must-not-exist-rvc",)


def test_code_in_a_file_is_named_and_never_run(tmp_path: Path) -> None:
    torch.save({"weight": Malicious()}, tmp_path / "malicious.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps({"weight": Malicious()}))
    report = inspect_file(tmp_path / "malicious.pth")
    assert report.contents == "unreadable"
    assert "contains code that loading it would run (posix.system); nothing was run" in report.faults[0]
    assert inspect_file(tmp_path / "bare.pth").contents == "unreadable"
    assert not Path("/tmp/must-not-exist-rvc").exists()


def test_other_files_are_unknown_or_unreadable(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "text.pth").write_text("not a file of tensors")
    (tmp_path / "cut.pth").write_bytes((folder / "anna.pth").read_bytes()[:-500])
    torch.save({"other": 1}, tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    torch.save({"a": torch.ones(2)}, tmp_path / "net.pth")
    contents = [inspect_file(tmp_path / f"{name}.pth").contents for name in ("text", "cut", "other", "list", "net")]
    assert contents == ["unreadable", "unreadable", "unknown", "unknown", "unknown"]
    assert "its top-level keys are: other" in faults(tmp_path / "other.pth")


def make_index(path: Path, size: int = 768, rows: int = 100) -> Path:
    index = faiss.index_factory(size, "IVF2,Flat")
    data = np.random.default_rng(0).standard_normal((100, size)).astype(np.float32)
    index.train(data)
    index.add(data[:rows])
    faiss.write_index(index, str(path))
    return path


def test_a_report_of_an_index_has_its_rows_and_whether_search_works(tmp_path: Path) -> None:
    report = inspect_file(make_index(tmp_path / "anna.index"))
    assert (report.contents, report.version, report.index_type) == ("index", "v2", "IVFFlat (2 lists)")
    assert (report.rows, report.dimension, report.nprobe, report.search_works) == (100, 768, 1, True)
    assert report.faults == []
    assert "has no rows" in faults(make_index(tmp_path / "empty.index", rows=0))
    assert "rows of 17 features" in faults(make_index(tmp_path / "odd.index", size=17))
    assert "contains `trained`" in faults(make_index(tmp_path / "pretrained_x.index"))
    (tmp_path / "trained").mkdir()
    assert "the name of a parent folder" in faults(make_index(tmp_path / "trained" / "x.index"))
    (tmp_path / "text.index").write_text("nothing")
    assert "is not a FAISS index" in faults(tmp_path / "text.index")


def test_a_voice_is_extracted_from_each_kind_of_checkpoint(folder: Path, tmp_path: Path, changed: Any) -> None:
    [recovery] = (folder / "recovery").glob("*.pt")
    weights = weights_of(folder / "G_1.pth")
    renamed = {}
    for name, value in reversed(weights.items()):
        for old, new in SPELLINGS.items():
            name = name.replace(old, new)  # noqa: PLW2901
        renamed[name] = value
    for source in (folder / "G_1.pth", recovery, changed("G_1.pth", model=renamed)):
        made = extract(source, tmp_path / "out.pth", "bella")
        assert (str(made.identity), made.epoch, made.is_encoder_stated) == (
            "v2 40k weights with pitch of width 24",
            2,
            False,
        )
        assert inspect_file(tmp_path / "out.pth").faults == []
        extracted = read_voice(tmp_path / "out.pth").state_dict()
        assert all(torch.equal(value, weights[name].half().float()) for name, value in extracted.items())
    tree = torch.load(tmp_path / "out.pth", weights_only=True)
    assert (tree["info"], tree["sr"], tree["f0"], tree["version"], tree["model_name"], tree["step"]) == (
        "2epoch", "40k", 1, "v2", "bella", 1)  # fmt: skip


def test_the_encoder_is_the_one_that_the_runs_folder_names(folder: Path, tmp_path: Path) -> None:
    for run, write in (
        ("ours", lambda root: Workspace(root, "x").mark_done("content", "f", made_with="whisper-tiny")),
        ("applio", lambda root: (root / "model_info.json").write_text('{"embedder_model": "spin"}')),
    ):
        (tmp_path / run).mkdir()
        shutil.copy(folder / "G_1.pth", tmp_path / run)
        write(tmp_path / run)
        made = extract(tmp_path / run / "G_1.pth", tmp_path / "out.pth", "x")
        expected = {"ours": "whisper-tiny.en-l2l3", "applio": "spin"}[run]
        assert (made.encoder, made.is_encoder_stated) == (expected, True)
        assert (
            extract(tmp_path / run / "G_1.pth", tmp_path / "out.pth", "x", encoder="contentvec").encoder == "contentvec"
        )


def test_where_shapes_are_ambiguous_the_rate_must_be_given(tmp_path: Path) -> None:
    hparams = hparams_of(version="v1", sample_rate="48k", f0=False)
    weights = Synthesizer(hparams, with_posterior=False).state_dict()
    torch.save({"model": weights}, tmp_path / "G_9.pth")
    with pytest.raises(InvalidConfig, match="choose with --sample-rate 32k or 48k"):
        extract(tmp_path / "G_9.pth", tmp_path / "out.pth", "x")
    with pytest.raises(InvalidConfig, match="--sample-rate 40k is wrong"):
        extract(tmp_path / "G_9.pth", tmp_path / "out.pth", "x", sample_rate="40k")
    extract(tmp_path / "G_9.pth", tmp_path / "out.pth", "x", sample_rate="48k")
    assert inspect_file(tmp_path / "out.pth").sample_rate == "48k"


def test_files_that_are_no_generator_are_refused(folder: Path, tmp_path: Path, changed: Any) -> None:
    weights = weights_of(folder / "G_1.pth")
    del weights["dec.cond.bias"]
    for source, reason in (
        (folder / "D_1.pth", "it contains v2 discriminators of width 24; give the G_ file"),
        (folder / "anna.pth", "is already a voice file"),
        (changed("G_1.pth", model=weights), "dec.cond.bias is missing"),
    ):
        with pytest.raises(IncompatibleCheckpoint, match=reason):
            extract(source, tmp_path / "out.pth", "x")
    assert not (tmp_path / "out.pth").exists()


def _with_optimizer(tree: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**tree, "optimizer": {**tree["optimizer"], **changes}}


def _with_weight(tree: dict[str, Any], name: Any, value: torch.Tensor) -> dict[str, Any]:
    return {**tree, "model": {**tree["model"], name: value}}


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: _with_optimizer(tree, param_groups=[{}]),
        lambda tree: _with_optimizer(tree, param_groups=5),
        lambda tree: {**tree, "optimizer": {"state": tree["optimizer"]["state"]}},
        lambda tree: _with_optimizer(tree, state=[1]),
        lambda tree: _with_optimizer(tree, state=dict.fromkeys(tree["optimizer"]["state"], 3)),
        lambda tree: {**tree, "iteration": "x"},
        lambda tree: {**tree, "model": dict(enumerate(tree["model"].values()))},
        lambda tree: _with_weight(tree, "enc_p.emb_phone.weight", torch.zeros(2, 2, 2)),
        lambda tree: _with_weight(tree, "emb_g.weight", torch.zeros(109, 32).to_sparse()),
        lambda tree: _with_weight(tree, "emb_g.weight", torch.zeros(109, 32, device="meta")),
    ],
)
def test_malformed_files_crash_no_tool(folder: Path, tmp_path: Path, change: Any) -> None:
    """Each tool accepts the file or raises IncompatibleCheckpoint, nothing else."""
    odd = tmp_path / "G_1.pth"
    torch.save(change(torch.load(folder / "G_1.pth", weights_only=True)), odd)
    shutil.copy(odd, tmp_path / "D_1.pth")
    state = GanTrainState.build(hparams_of(), torch.device("cpu"), 1e-4)
    config = TrainingConfig.model_validate({"pretrained": "none", "width": 24})

    assert inspect_file(odd).contents != "voice"
    for use in (
        lambda: extract(odd, tmp_path / "out.pth", "x"),
        lambda: reorder_optimizer(odd, tmp_path / "out.pth", "applio"),
        lambda: resume(pairs_to_resume(tmp_path, None, str), state, config, str),
    ):
        with contextlib.suppress(IncompatibleCheckpoint):
            use()


def test_a_voice_with_invalid_metadata_is_reported(tmp_path: Path) -> None:
    voice = make_voice(tmp_path / "a.pth")
    tree = torch.load(voice, weights_only=True)
    torch.save({**tree, "version": 2, "embedder_model": ["contentvec"]}, voice)
    assert "has the unknown version '2'" in faults(voice)
    with pytest.raises(IncompatibleCheckpoint, match="not a voice file"):
        load_voice(voice, torch.device("cpu"))


def test_two_voices_are_mixed_by_the_ratio_in_float32(tmp_path: Path) -> None:
    one, other = make_voice(tmp_path / "a.pth", 1), make_voice(tmp_path / "b.pth", 2)
    made = merge(one, other, 0.3, tmp_path / "c.pth", "carla")
    a, b, c = weights_of(one), weights_of(other), weights_of(tmp_path / "c.pth")
    assert all(torch.equal(value, (0.3 * a[name].float() + 0.7 * b[name].float()).half()) for name, value in c.items())
    assert made.info == "0.3 of a.pth and 0.7 of b.pth"
    report = inspect_file(tmp_path / "c.pth")
    assert (report.info, report.name, report.epoch, report.faults) == (made.info, "carla", 20, [])


def test_of_speaker_embeddings_of_unlike_heights_the_common_rows_are_mixed(tmp_path: Path) -> None:
    one, other = make_voice(tmp_path / "a.pth", 1), make_voice(tmp_path / "b.pth", 2)
    tree = torch.load(other, weights_only=True)
    tree["weight"]["emb_g.weight"] = tree["weight"]["emb_g.weight"][:3]
    torch.save(tree, other)
    made = merge(one, other, 0.5, tmp_path / "c.pth", "c")
    assert (made.speakers, made.speakers_dropped) == (3, 106)
    assert read_voice(tmp_path / "c.pth").hparams.num_speakers == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "v1"}, "version v2 and v1"),
        ({"sample_rate": "48k"}, "sample rate 40k and 48k"),
        ({"f0": False}, "pitch with and without"),
        ({"embedder": "spin"}, "content encoder contentvec and spin"),
        ({"width": 48}, "width 24 and 48"),
    ],
)
def test_voices_of_different_kinds_are_not_mixed(folder: Path, tmp_path: Path, changes: Any, reason: str) -> None:
    other = make_voice(tmp_path / "b.pth", **changes)
    with pytest.raises(IncompatibleCheckpoint, match=reason):
        merge(folder / "anna.pth", other, 0.5, tmp_path / "c.pth", "c")


def test_the_command_line_reports_as_text_and_as_json(folder: Path, tmp_path: Path) -> None:
    def run(*words: object) -> Any:
        return CliRunner().invoke(app, [str(word) for word in words])

    voice, g = folder / "anna.pth", folder / "G_1.pth"
    text = run("inspect", voice, g)
    assert text.exit_code == 0
    assert "anna.pth: voice, v2 40k, with pitch" in text.output
    assert "G_1.pth: generator checkpoint" in text.output
    assert text.output.count("no faults") == 2
    rows = json.loads(run("inspect", "--json", voice, g).output)
    assert [row["contents"] for row in rows] == ["voice", "generator checkpoint"]
    (tmp_path / "bad.pth").write_bytes(b"bad")
    bad = run("inspect", tmp_path / "bad.pth")
    assert bad.exit_code == 1
    assert "fault:" in bad.output
    assert run("inspect", tmp_path / "missing.pth").exit_code == 2

    made = run("extract", g, "-o", tmp_path / "x.pth", "--name", "x")
    assert made.exit_code == 0, made.output
    assert "epoch 2, v2 40k weights with pitch" in made.output
    merged = run("merge", voice, tmp_path / "x.pth", "--ratio", "0.25", "-o", tmp_path / "y.pth")
    assert merged.exit_code == 0, merged.output
    assert "0.25 of anna.pth and 0.75 of x.pth" in merged.output
    assert run("merge", voice, voice, "--ratio", "2", "-o", tmp_path / "z.pth").exit_code == 2
    assert run("extract", folder / "D_1.pth", "-o", tmp_path / "z.pth").exit_code == 1
    assert list(describe(inspect_file(tmp_path / "y.pth")))[-1] == "  no faults"
