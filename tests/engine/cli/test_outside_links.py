"""`-o` with `--skip-index`: an existing index is linked, and a missing one causes a warning."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rvc_engine.cli import pipeline_script
from rvc_engine.events import EXIT_SUCCEEDED

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
