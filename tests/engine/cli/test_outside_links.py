"""`-o` with `--skip-index`: an existing index is linked, and a missing one causes a warning."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rvc_engine.cli import pipeline_script
from rvc_engine.events import EXIT_SUCCEEDED
from rvc_engine.index.build import link_outside
from rvc_engine.workspace.layout import Workspace

WORDS = ["-e", "anna", "--skip-index", "--pretrained", "none", "--set", "width=24"]


@pytest.fixture(autouse=True)
def trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rvc_engine.pipeline.process.run_engine", lambda *_, **__: EXIT_SUCCEEDED)


def test_an_index_of_an_earlier_run_is_linked(tmp_path: Path) -> None:
    index = tmp_path / "logs" / "anna" / "added_IVF1_Flat_nprobe_1_anna_v2.index"
    index.parent.mkdir(parents=True)
    index.write_bytes(b"index")
    done = CliRunner().invoke(
        pipeline_script.app, [*WORDS, "--logs", str(tmp_path / "logs"), "-o", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    assert [path.resolve().read_bytes() for path in (tmp_path / "out").iterdir()] == [b"index"]


def test_without_one_it_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        pipeline_script.app, [*WORDS, "--logs", str(tmp_path / "logs"), "-o", str(tmp_path / "out")]
    )
    assert (done.exit_code, "there is no index yet" in done.output) == (0, True)


def test_the_newest_index_is_linked_and_a_file_in_the_place_of_the_link_is_kept(tmp_path: Path) -> None:
    root = tmp_path / "logs" / "anna"
    root.mkdir(parents=True)
    for lists, written in ((50, 1e9), (1, 2e9), (7, 1.5e9)):
        path = root / f"added_IVF{lists}_Flat_nprobe_1_anna_v2.index"
        path.write_bytes(b"index %d" % lists)
        os.utime(path, (written, written))
    link = tmp_path / "out" / "anna_added_IVF1_Flat_nprobe_1_anna_v2.index"
    link.parent.mkdir()
    link.write_bytes(b"a copy by hand")
    for _ in range(2):  # a link is replaced
        assert link_outside(Workspace(root, "anna"), link.parent) == link
    assert link.read_bytes() == b"index 1"
    assert {path.name for path in link.parent.iterdir()} == {link.name, f"{link.name}.bak"}
    assert link.with_name(f"{link.name}.bak").read_bytes() == b"a copy by hand"
