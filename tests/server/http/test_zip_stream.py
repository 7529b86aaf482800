import io
import zipfile
from collections.abc import Callable
from typing import Any

import httpx


def test_all_files_come_in_one_zip_of_the_announced_length(
    http: httpx.Client, live: Any, finished: Callable[..., str]
) -> None:
    content = bytes(range(256)) * 4000
    job_id = finished(content, "анна b")
    answer = http.get(f"/v1/jobs/{job_id}/artifacts.zip")
    assert answer.headers["content-type"] == "application/zip"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert "filename*=UTF-8''%D0%B0%D0%BD%D0%BD%D0%B0%20b.zip" in answer.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.read("анна b.pth") == content


def test_a_job_without_files_has_no_zip(http: httpx.Client, live: Any) -> None:
    job = live.bench.job(name="young")
    assert http.get(f"/v1/jobs/{job.id}/artifacts.zip").status_code == 404
