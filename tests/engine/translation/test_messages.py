"""English messages are translated by their templates, and only what a console shows is."""

import json
import os
import time
from pathlib import Path

import pytest

from rvc_engine.cli.console import LogFile
from rvc_engine.errors import FailureCode
from rvc_engine.events import Failed, StageChanged, format_event
from rvc_engine.translation.messages import available, environment_languages, translated, translated_word, use_language

FAILURE = "the disk of /data is full; free some space and start again"


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LANGUAGE", "")  # restored at the end
    use_language("zh")
    yield
    use_language("en")


@pytest.mark.parametrize(
    ("message", "translation"),
    [
        ("stage slice finished after 0.4 s", "阶段“切片”完成，用时 0.4 秒"),
        ("stage pitch started", "阶段“音高”开始"),
        (FAILURE, "/data 所在的磁盘已满；请腾出空间再重新开始"),
        (f"paused after a failure: {FAILURE}", "失败后已暂停：/data 所在的磁盘已满；请腾出空间再重新开始"),
        (
            "-pg: there is no file a b.pth; give the path of a G_ or D_ file, or leave the option out; "
            "-pd: there is no file c.pth; give the path of a G_ or D_ file, or leave the option out",
            "-pg：没有文件 a b.pth；请写 G_ 或 D_ 文件的路径，或者去掉这个选项；"
            "-pd：没有文件 c.pth；请写 G_ 或 D_ 文件的路径，或者去掉这个选项",
        ),
        (
            "epoch 2, step 20 on 8 held-out clips: mel 1.20, pitch off by 20 cents, the best so far (2.1 s)",
            "第 2 轮，第 20 步，用 8 个未参与训练的片段评估：mel 1.20，音高误差 20 音分，目前最好（2.1 秒）",
        ),
        ("a.wav: left out: it cannot be opened: Permission denied", "a.wav：未使用：无法打开：没有权限"),
        ("-bs: give a number of clips from 1 to 256, or auto", "-bs：请写 1 到 256 之间的片段数，或 auto"),
        ("/name: Field required (and 2 more)", "/name：必须填写（另有 2 处）"),
        (
            "/config/version: Input should be 'v1' or 'v2' (and 1 more)",
            "/config/version：应为 'v1' 或 'v2'（另有 1 处）",
        ),
        ("there is no job train; list all with: rvc-train jobs", "没有任务 train；列出全部：rvc-train jobs"),
    ],
)
def test_a_message_is_translated_with_those_inside_and_beside_it(chinese, message: str, translation: str) -> None:
    assert translated(message) == translation


@pytest.mark.parametrize(
    "text", ["", "hello world: a, b; c", "anna", "Anna (two of them)", "{name}", "train", "/home/anna/is a folder"]
)
def test_a_text_that_is_no_message_stays_as_it_is(chinese, text: str) -> None:
    assert translated(text) == text


def test_a_long_list_of_names_takes_no_time(chinese) -> None:
    names = ", ".join(f"{number}.wav" for number in range(5000))
    assert translated(names) == names


def test_a_text_written_to_be_matched_for_ever_takes_no_time(chinese) -> None:
    """A server translates what strangers write: the name of a parameter stands in the message that there is none."""
    began = time.monotonic()
    for text in ("  needs  , but the disk of   has   left; ", " files in  have rows of  numbers, but a  voice needs "):
        translated(text * 25)
    assert time.monotonic() - began < 2


def test_a_word_is_translated_by_its_kind_alone(chinese) -> None:
    assert (translated_word("stage", "train"), translated_word("status", "train")) == ("训练", "train")


def test_the_log_and_the_json_lines_stay_english(chinese, tmp_path: Path) -> None:
    failed = Failed(code=FailureCode.DISK_FULL, message=FAILURE)
    log = LogFile(tmp_path / "train.log")
    log(failed)
    log(StageChanged(stage="slice", state="started"))
    log.close()
    assert f"ERROR   failed (disk_full): {FAILURE}" in (tmp_path / "train.log").read_text()
    assert "stage slice started" in (tmp_path / "train.log").read_text()
    assert json.loads(format_event(failed))["message"] == FAILURE


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, None),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, None),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "en_US.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:en"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en_GB:zh"}, "en"),
        ({"LC_ALL": "C", "LANGUAGE": "zh_CN"}, "en"),
    ],
)
def test_the_language_is_that_of_the_environment(environment: dict[str, str], language: str | None) -> None:
    found = [available(name) for name in environment_languages(environment)]
    assert next((name for name in found if name), None) == language


def test_without_a_language_messages_are_english(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANGUAGE", "")
    use_language(None)
    assert translated(FAILURE) == FAILURE
    assert os.environ["LANGUAGE"] == "C"
