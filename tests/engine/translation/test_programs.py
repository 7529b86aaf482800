"""The programs follow LANG and `--lang`: help, usage errors and failures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.rich_utils  # noqa: F401 - its words are fixed at its import, for the other tests in English

from rvc_engine.cli import main as engine
from rvc_engine.cli import pipeline_script
from rvc_engine.translation.messages import use_language
from rvc_engine.translation.programs import take_language

ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run an entry point in this process; returns the exit code and standard error."""

    def call(main, *words: str, lang: str = "zh_CN.UTF-8") -> tuple[int, str]:
        monkeypatch.delenv("LC_ALL", raising=False)
        monkeypatch.setenv("LANGUAGE", "")
        monkeypatch.setenv("LANG", lang)
        monkeypatch.setattr(sys, "argv", ["program", *words])
        with pytest.raises(SystemExit) as exit_:
            main()
        return int(exit_.value.code or 0), capsys.readouterr().err

    yield call
    use_language("en")


@pytest.mark.parametrize("command", [["rvc_training_pipeline.py"], ["-m", "rvc_train.cli.main"], ["-m", "rvc_engine"]])
def test_the_help_is_chinese_where_lang_is(command: list[str]) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in {"LC_ALL", "LANGUAGE"}}
    environment |= {"LANG": "zh_CN.UTF-8", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert "用法：" in done.stdout
    assert "─ 选项 ─" in done.stdout
    assert "显示帮助并退出。" in done.stdout
    assert "Show" not in done.stdout
    assert "…" not in done.stdout.replace("--if_cache_data_in_…", "")  # nothing is cut off


def test_wrong_options_of_the_pipeline_command_are_explained_in_chinese(run) -> None:
    code, errors = run(pipeline_script.main, "-e", "anna", "-bs", "0", "-te", "0")
    assert (code, errors) == (
        2,
        "错误：-bs/--batch_size：请写 1 到 256 之间的片段数，或 auto；"
        "-te/--total_epoch：请给出 1 到 20000 的轮数，或 auto\n",
    )


def test_a_missing_option_is_explained_in_chinese(run) -> None:
    code, errors = run(pipeline_script.main)
    assert code == 2
    assert "缺少选项 '" in errors


def test_a_failure_of_the_engine_is_explained_in_chinese(run, tmp_path: Path) -> None:
    file = tmp_path / "voice.pth"
    file.write_bytes(b"no voice")
    code, errors = run(engine.main, "extract", str(file), "-o", str(tmp_path / "out.pth"))
    assert code == 1
    assert errors.startswith(f"错误：{file} 不是只含张量和普通数值的文件")


def test_the_option_precedes_the_environment(run) -> None:
    words = ("-e", "anna", "-bs", "0")
    assert run(pipeline_script.main, *words, "--lang", "en")[1].startswith("error: -bs/--batch_size: give a number")
    assert run(pipeline_script.main, *words, "--lang=zh_CN", lang="C")[1].startswith("错误：-bs/--batch_size：请写")


def test_a_language_without_messages_is_refused(run) -> None:
    code, errors = run(pipeline_script.main, "-e", "anna", "--lang", "xx")
    assert (code, errors) == (2, "error: --lang: there are no messages in the language 'xx'; use en or zh\n")


def test_an_output_that_cannot_show_chinese_is_english() -> None:
    environment = os.environ | {"LC_ALL": "zh_CN.UTF-8", "LANGUAGE": "", "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        [sys.executable, "-m", "rvc_train.cli.main", "jobs", "--limit", "x"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, b"Invalid value" in done.stderr) == (2, True)


def test_what_follows_two_dashes_is_no_option() -> None:
    words = ["a", "--lang", "zh", "--", "--lang", "en"]
    assert take_language(words) == "zh"
    assert words == ["a", "--", "--lang", "en"]
