"""`rvc-train setup`: published weights for a good voice from folders, files, mirrors and hubs."""

import hashlib
import json
import sys
import threading

import pytest
from typer.testing import CliRunner

from rvc_engine.weights import catalogue
from rvc_engine.weights.catalogue import Equivalent, PublishedFile, Weights
from rvc_train.cli.commands.setup import prepare
from rvc_train.cli.main import app
from rvc_train.cli.output import Output
from tests.engine.weights.test_download import Hub

REPOSITORY = "lj1995/VoiceConversionWebUI"
PATHS = {
    "hubert_base/pytorch_model.bin": "hubert",
    "rmvpe.pt": "rmvpe",
    "pretrained_v2/f0G40k.pth": "pretrained-v2-40k",
    "pretrained_v2/f0D40k.pth": "pretrained-v2-40k",
    "pretrained/f0G48k.pth": "pretrained-v1-48k",
    "pretrained/f0D48k.pth": "pretrained-v1-48k",
}
CONTENT = {path: f"the weights {path} ".encode() * 500 for path in PATHS}
NEEDED = {"hubert/pytorch_model.bin", "rmvpe/rmvpe.pt", "pretrained-v2-40k/f0G40k.pth", "pretrained-v2-40k/f0D40k.pth"}
RVC = {
    "hubert_base/pytorch_model.bin": "assets/hubert/hubert_base/pytorch_model.bin",
    "rmvpe.pt": "assets/rmvpe/rmvpe.pt",
    "pretrained_v2/f0G40k.pth": "assets/pretrained_v2/f0G40k.pth",
    "pretrained_v2/f0D40k.pth": "assets/pretrained_v2/f0D40k.pth",
}
APPLIO = {
    "hubert_base/pytorch_model.bin": "rvc/models/embedders/contentvec/pytorch_model.bin",
    "rmvpe.pt": "rvc/models/predictors/rmvpe.pt",
    "pretrained_v2/f0G40k.pth": "rvc/models/pretraineds/hifi-gan/f0G40k.pth",
    "pretrained_v2/f0D40k.pth": "rvc/models/pretraineds/hifi-gan/f0D40k.pth",
}


FLOAT32 = b"the encoder as Applio has it, in float32" * 900


@pytest.fixture(autouse=True)
def small_catalogue(monkeypatch, tmp_path):
    """Small files in place of the published ones, and no weights folder of the user's."""
    files = tuple(
        PublishedFile(
            id=name,
            repo=REPOSITORY,
            path=path,
            size=len(CONTENT[path]),
            sha256=hashlib.sha256(CONTENT[path]).hexdigest(),
            equivalents=(Equivalent(size=len(FLOAT32), sha256=hashlib.sha256(FLOAT32).hexdigest()),)
            if name == "hubert"
            else (),
        )
        for path, name in PATHS.items()
    )
    monkeypatch.setattr(catalogue, "published_files", lambda: files)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RVC_TRAIN_WEIGHTS_FOLDER", raising=False)


@pytest.fixture
def hub():
    made = Hub()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def run(tmp_path, *words, **more):
    done = CliRunner().invoke(app, ["setup", "--data", str(tmp_path / "data"), *map(str, words)], **more)
    return done.exit_code, done.output


def present(tmp_path):
    folder = tmp_path / "data" / "weights"
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def put(folder, paths):
    for source, target in paths.items():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        (folder / target).write_bytes(CONTENT[source])
    return folder


def test_without_a_source_it_says_what_is_missing_how_much_and_what_for_and_fetches_nothing(tmp_path):
    code, output = run(tmp_path)
    assert code == 0
    for words in ("hubert, ", "rmvpe, ", "pretrained-v2-40k, ", "kB", "--yes", "whisper-tiny"):
        assert words in output
    assert "v1-48k" not in output
    assert present(tmp_path) == set()


@pytest.mark.parametrize("layout", [RVC, APPLIO], ids=["RVC", "Applio"])
def test_a_folder_of_rvc_or_applio_gives_all_of_it(tmp_path, layout):
    code, output = run(tmp_path, "--from", put(tmp_path / "installation", layout))
    assert code == 0
    assert present(tmp_path) == NEEDED
    assert "all of it is in" in output


def test_applios_own_publication_of_the_encoder_serves_as_well(tmp_path):
    folder = put(tmp_path / "Applio", APPLIO)
    (folder / APPLIO["hubert_base/pytorch_model.bin"]).write_bytes(FLOAT32)
    code, output = run(tmp_path, "--from", folder)
    assert (code, present(tmp_path)) == (0, NEEDED), output
    weights = Weights(tmp_path / "data" / "weights")
    (file,) = weights.files_of("hubert")
    assert weights.verify(file, again=True) == "verified"
    assert weights.checksum_of(file) == hashlib.sha256(FLOAT32).hexdigest(), "features of it are not taken for others'"


def test_files_given_by_hand_are_recognized_by_content_whatever_their_names(tmp_path):
    put(tmp_path, {"rmvpe.pt": "download (3)", "pretrained_v2/f0G40k.pth": "g.pth"})
    code, output = run(tmp_path, "--from", tmp_path / "download (3)", "--from", tmp_path / "g.pth", "--json")
    found = json.loads(output)
    assert code == 0
    assert present(tmp_path) == set(found["imported"]) == {"rmvpe/rmvpe.pt", "pretrained-v2-40k/f0G40k.pth"}
    assert set(found["missing"]) == NEEDED - present(tmp_path)


def test_a_file_that_is_cut_off_or_of_another_format_is_named(tmp_path):
    folder = tmp_path / "RVC" / "assets"
    folder.mkdir(parents=True)
    (folder / "rmvpe.pt").write_bytes(CONTENT["rmvpe.pt"][:100])
    (folder / "hubert_base.pt").write_bytes(b"fairseq")
    (folder / "f0G40k.pth").symlink_to("nowhere")
    code, output = run(tmp_path, "--from", tmp_path / "RVC")
    assert code == 0
    assert "rmvpe.pt is not the published rmvpe/rmvpe.pt: it has 100 B" in output.replace("\n", "")
    assert "hubert_base.pt is in fairseq's format" in output.replace("\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="no variable moves the user's folder there")
def test_weights_in_the_users_own_folder_are_taken_without_a_download(tmp_path):
    put(tmp_path / "home" / "rvc-train" / "weights", {path: f"{name}/{path}" for path, name in PATHS.items()})
    assert run(tmp_path)[0] == 0
    assert present(tmp_path) >= NEEDED


@pytest.mark.parametrize(
    "layout",
    [
        lambda path: f"/hub/{REPOSITORY}/resolve/main/{path}",
        lambda path: f"/hub/{path}",
        lambda path: f"/hub/{PATHS[path]}/{path.rpartition('/')[2]}",
    ],
    ids=["hub", "repository", "weights folder"],
)
def test_a_mirror_may_have_any_of_the_known_layouts(tmp_path, hub, layout):
    hub.files = {layout(path): content for path, content in CONTENT.items()}
    code, output = run(tmp_path, "--from", f"{hub.url}/hub/")
    assert (code, present(tmp_path)) == (0, NEEDED), output


def test_an_interrupted_download_goes_on_and_a_second_call_fetches_nothing(tmp_path, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.files = {f"/{REPOSITORY}/resolve/main/{path}": content for path, content in CONTENT.items()}
    hub.break_after = [1000]
    assert run(tmp_path, "--yes")[0] == 0
    assert present(tmp_path) == NEEDED
    assert "bytes=1000-" in {requested_range for _, requested_range in hub.requests}
    hub.requests.clear()
    assert run(tmp_path, "--yes")[0] == 0
    assert hub.requests == []


def test_wrong_bytes_of_a_mirror_are_never_kept(tmp_path, hub):
    hub.files = {f"/{path}": bytes(len(content)) for path, content in CONTENT.items()}
    code, output = run(tmp_path, "--from", hub.url)
    assert code == 1
    assert "sha256" in output
    assert present(tmp_path) == set()


def test_a_mirror_without_the_files_is_an_error_that_names_what_was_tried(tmp_path, hub):
    hub.files = {}
    code, output = run(tmp_path, "--from", hub.url)
    assert code == 1
    assert "does not offer hubert/pytorch_model.bin" in output
    assert "hubert_base/pytorch_model.bin" in output


def test_other_rates_and_versions_on_request(tmp_path, hub):
    hub.files = {f"/{path}": content for path, content in CONTENT.items()}
    assert run(tmp_path, "--from", hub.url, "--rate", "48k", "--version", "v1")[0] == 0
    assert {key for key in present(tmp_path) if "pretrained" in key} == {
        "pretrained-v1-48k/f0G48k.pth",
        "pretrained-v1-48k/f0D48k.pth",
    }
    assert run(tmp_path, "--from", hub.url, "--all")[0] == 0
    assert present(tmp_path) >= NEEDED


def test_up_with_setup_fetches_and_without_says_what_is_missing(tmp_path, hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    prepare(Output(as_json=False), tmp_path / "data", fetches=False)
    assert "rvc-train setup" in capsys.readouterr().out
    assert hub.requests == []
    hub.files = {f"/{REPOSITORY}/resolve/main/{path}": content for path, content in CONTENT.items()}
    prepare(Output(as_json=False), tmp_path / "data", fetches=True)
    assert present(tmp_path) == NEEDED
    capsys.readouterr()
    prepare(Output(as_json=False), tmp_path / "data", fetches=False)
    assert capsys.readouterr().out == ""


def test_up_starts_without_what_could_not_be_fetched(tmp_path, hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.files = {}
    prepare(Output(as_json=False), tmp_path / "data", fetches=True)
    assert "cannot download" in capsys.readouterr().err.replace("\n", " ")
