"""RVC's `configs/<version>/<rate>.json`, written for the user and copied into a new run."""

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rvc_engine.cli.main import app
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import InvalidConfig
from rvc_engine.workspace.layout import Workspace
from rvc_engine.workspace.rvc_files.templates import copy_template, find_template

RVC_FILES = {
    "v1/32k": "67254575ca1ed589",
    "v1/40k": "681ffe7e5b52490c",
    "v1/48k": "e164efabcb7eee7a",
    "v2/32k": "03ecfa0cf80cd1b0",
    "v2/40k": "681ffe7e5b52490c",  # RVC reads v1's
    "v2/48k": "17a7fd8aaf8bdbc5",
}
"""sha256 of the values of RVC WebUI's own files of 2024, as JSON with sorted keys: its first 16 digits."""


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    done = CliRunner().invoke(app, ["configs", "--write", str(folder)])
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "logs" / "anna", "anna")


def edit(path: Path, **values: object) -> None:
    tree = json.loads(path.read_text())
    tree["train"] |= values
    path.write_text(json.dumps(tree))


def test_the_files_hold_rvcs_values(configs: Path) -> None:
    found = {
        name: hashlib.sha256(
            json.dumps(json.loads((configs / f"{name}.json").read_text()), sort_keys=True).encode()
        ).hexdigest()[:16]
        for name in RVC_FILES
    }
    assert found == RVC_FILES


def test_a_file_that_is_there_is_never_replaced(configs: Path) -> None:
    (configs / "v2" / "48k.json").write_text("mine")
    (configs / "v1" / "32k.json").unlink()
    done = CliRunner().invoke(app, ["configs", "--write", str(configs)])
    assert (configs / "v2" / "48k.json").read_text() == "mine"
    assert done.stdout.count("kept as it is") == 5
    assert done.stdout.count("written") == 1


def test_an_edited_file_is_copied_into_a_new_run_and_an_untouched_one_is_not(configs: Path, run: Workspace) -> None:
    config = TrainingConfig(sample_rate="48k")
    path = configs / "v2" / "48k.json"
    assert copy_template(configs, run, config) is None
    edit(path, fp16_run=False)  # as RVC itself does on a machine without it
    assert copy_template(configs, run, config) is None
    edit(path, learning_rate=3e-5)
    assert copy_template(configs, run, config) == path
    assert run.hyperparameters.read_bytes() == path.read_bytes()
    edit(path, learning_rate=5e-5)
    assert copy_template(configs, run, config) is None  # the run's own goes before it
    assert json.loads(run.hyperparameters.read_text())["train"]["learning_rate"] == 3e-5


def test_the_file_is_looked_for_where_rvc_has_it(configs: Path) -> None:
    assert find_template(configs, "v2", "40k") == configs / "v2" / "40k.json"
    (configs / "v2" / "40k.json").unlink()
    assert find_template(configs, "v2", "40k") == configs / "v1" / "40k.json"
    (configs / "v2" / "48k.json").unlink()
    assert find_template(configs, "v2", "48k") is None
    (configs / "v1" / "48k.json").rename(configs / "48k.json")
    assert find_template(configs, "v1", "48k") == configs / "48k.json"
    inuse = configs / "inuse" / "v1" / "40k.json"
    inuse.parent.mkdir(parents=True)
    inuse.write_text("{}")
    assert find_template(configs, "v1", "40k") == inuse


def test_a_broken_file_is_refused_in_words(configs: Path, run: Workspace) -> None:
    (configs / "v2" / "32k.json").write_text("{")
    with pytest.raises(InvalidConfig, match=r"32k\.json cannot be read .*correct it"):
        copy_template(configs, run, TrainingConfig(sample_rate="32k"))
