"""`rvc-train` in Chinese against a real server, whose messages are English."""

import json
import sys

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="the language of Windows' own settings counts there, not LANG")
def test_a_failure_is_explained_in_chinese_and_is_english_in_json(station) -> None:
    station.environment |= {"LANG": "zh_CN.UTF-8", "LC_ALL": "", "LANGUAGE": ""}
    station.start_server()
    failed = station.cli("show", "job_1")
    assert (failed.returncode, failed.stderr) == (2, "错误：没有任务 job_1；列出全部：rvc-train jobs\n")
    refused = station.cli("dataset", "show", "ds_0123456789abcdef0123456789abcdef")
    assert refused.stderr == "错误：没有数据集 ds_0123456789abcdef0123456789abcdef；列出全部：rvc-train dataset list\n"
    plain = station.cli("show", "job_1", "--json")
    assert json.loads(plain.stdout)["error"] == "there is no job job_1; list all with: rvc-train jobs"
    assert station.cli("show", "job_1", "--lang", "en").stderr.startswith("error: there is no job job_1")
    assert station.cli("jobs").stdout == "没有任务；提交一个：rvc-train submit DATASET --name VOICE\n"
