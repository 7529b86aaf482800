"""The data folder where none is given: the present one, else the user's; and the one used last."""

import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from rvc_train.cli.data_folders import (
    default_data_folder,
    is_data_folder,
    last_data_folder,
    remember_data_folder,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty current folder, and a home of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.mark.parametrize("mark", ["instance.json", "rvc-train.db"])
def test_a_data_folder_here_is_taken(mark):
    Path("data").mkdir()
    (Path("data") / mark).touch()
    assert default_data_folder() == Path("data")


def test_a_folder_named_data_of_something_else_is_not_taken():
    Path("data").mkdir()
    (Path("data") / "measurements.csv").touch()
    assert default_data_folder() == Path(platformdirs.user_data_dir("rvc-train")) / "data"


def test_a_user_without_a_home_has_data_here(monkeypatch):
    monkeypatch.setattr("platformdirs.user_data_dir", lambda name: "~/.local/share/rvc-train")
    assert default_data_folder() == Path("data")


def test_the_folder_used_last_is_known_as_long_as_it_is_one(tmp_path):
    assert last_data_folder() is None
    used = tmp_path / "Анна 数据"
    used.mkdir()
    remember_data_folder(used)
    assert last_data_folder() is None
    (used / "instance.json").touch()
    assert last_data_folder() == used
    assert is_data_folder(used)


def test_a_config_folder_that_cannot_be_written_changes_nothing(tmp_path):
    (tmp_path / "config").write_text("a file")
    remember_data_folder(tmp_path)
    assert last_data_folder() is None


def test_the_other_programs_take_the_same_folder(tmp_path):
    environment = os.environ | {"XDG_DATA_HOME": str(tmp_path / "share"), "PYTHONPATH": str(ROOT)}
    environment.pop("RVC_TRAIN_DATA_FOLDER", None)
    command = [sys.executable, "-m", "rvc_train.cli.main", "admin", "token", "create", "anna"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert f"{Path(platformdirs.user_data_dir('rvc-train')) / 'data'} has no rvc-train.db" in done.stderr
