"""Conversions over HTTP: submitted, served by a worker, downloaded, cancelled, deleted; and every limit."""

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlmodel import select

from rvc_train.schemas.access import Quota
from rvc_train.schemas.voices.conversions import ConversionFailure
from server.conversions.queue import ResultFile
from server.database.engine import write_session
from server.database.tables import Conversion, Worker
from server.middleware.languages import translated_body
from tests.server.conversions.conftest import SOUND, Shop


def test_a_recording_is_converted_with_the_finished_voice_and_its_result_has_a_sha256(shop: Any) -> None:
    job = shop.finished()
    before = shop.http.get("/v1/me").json()["usage"]["bytes"]
    upload_id = shop.upload(name="我的 song.flac")
    made = shop.submitted(upload_id=upload_id, pitch_shift="auto", format="mp3")
    assert (made["status"], made["voice"], made["job_id"], made["save"]) == ("waiting", "anna", job.id, None)
    assert made["inputs"] == [{"name": "我的 song.flac", "size_bytes": len(SOUND)}]
    assert made["results"] == []
    assert shop.http.get("/v1/me").json()["usage"]["bytes"] == before + len(SOUND)
    gone = shop.http.head(f"/v1/uploads/{upload_id}", headers={"Tus-Resumable": "1.0.0"})
    assert gone.status_code == 404, "the upload's bytes are the conversion's now"
    audio = f"/v1/conversions/{made['id']}/audio"
    assert shop.http.get(audio).json()["detail"].startswith("the conversion is waiting; its result can be downloaded")

    lease = shop.claim()
    assert lease.files.voice.read_bytes() == f"voice of {job.id}".encode()
    assert lease.files.index.read_bytes() == f"index of {job.id}".encode()
    assert (lease.options.pitch_shift, lease.options.format, lease.max_seconds) == ("auto", "mp3", 600)
    assert [each.path.read_bytes() for each in lease.inputs] == [SOUND]
    assert shop.queue.beat(lease, 0.5) is False
    assert (shop.get(made["id"])["status"], shop.get(made["id"])["progress"]) == ("running", 0.5)
    shop.queue.finish(lease, [shop.result(lease)], "cpu", "no GPU here")

    done = shop.get(made["id"])
    sha256 = hashlib.sha256(b"converted").hexdigest()
    assert done["results"] == [
        {
            "name": "我的 song.mp3",
            "input": "我的 song.flac",
            "size_bytes": 9,
            "sha256": sha256,
            "seconds": 1.5,
            "pitch_shift": 3.0,
            "error": None,
        }
    ]
    assert (done["status"], done["device"], done["device_reason"]) == ("succeeded", "cpu", "no GPU here")
    assert done["size_bytes"] == len(SOUND) + 9
    answer = shop.http.get(audio, headers={"Range": "bytes=0-2"})
    assert (answer.status_code, answer.content, answer.headers["ETag"]) == (206, b"con", f'"{sha256}"')
    assert answer.headers["Content-Type"] == "audio/mpeg"
    assert shop.http.get(f"/v1/conversions/{made['id']}/recordings/1").content == SOUND
    assert shop.http.get(f"/v1/conversions/{made['id']}/recordings/2").status_code == 404
    shutil.rmtree(shop.server.context.storage.conversion_home(made["id"]))
    for gone in (audio, f"{audio}.zip", f"/v1/conversions/{made['id']}/recordings/1"):
        assert shop.http.get(gone).status_code == 410, gone


def test_one_recording_is_sent_as_the_body_with_the_options_in_the_query(shop: Any) -> None:
    shop.finished()
    address = "/v1/voices/anna/conversions/content"
    answer = shop.http.put(address, content=SOUND, params={"pitch_shift": 12, "format": "opus", "filename": "a/b.webm"})
    assert answer.status_code == 202, answer.text
    made = answer.json()
    assert answer.headers["Location"] == f"/v1/conversions/{made['id']}"
    assert (made["options"]["pitch_shift"], made["options"]["format"]) == (12, "opus")
    assert made["inputs"][0]["name"] == "b.webm"
    lease = shop.claim()
    assert lease.inputs[0].output == "b.opus"
    assert lease.inputs[0].path.read_bytes() == SOUND
    for query in ({"pitch_shift": "high"}, {"format": "exe"}, {"index_rate": 2}, {"nonsense": 1}):
        assert shop.http.put(address, content=SOUND, params=query).status_code == 422, query


def test_a_batch_has_a_result_for_each_recording_and_one_that_fails_does_not_end_the_others(shop: Any) -> None:
    shop.finished()
    ids = [shop.upload(name=name) for name in ("a.wav", "A.flac", "silent.wav")]
    made = shop.submitted(upload_ids=ids, format="flac")
    lease = shop.claim()
    assert [each.output for each in lease.inputs] == ["a.flac", "A (2).flac", "silent.flac"]
    results = [shop.result(lease, 0, b"one"), shop.result(lease, 1, b"two"), ResultFile("silent.flac", error="silence")]
    assert shop.queue.finish(lease, results, "cpu", "") == "succeeded"
    assert [each["error"] for each in shop.get(made["id"])["results"]] == [None, None, "silence"]
    audio = f"/v1/conversions/{made['id']}/audio"
    assert shop.http.get(audio).status_code == 422
    assert shop.http.get(audio, params={"name": "A (2).flac"}).content == b"two"
    missing = shop.http.get(audio, params={"name": "silent.flac"})
    assert (missing.status_code, missing.json()["detail"]) == (404, "silent.flac was not made: silence")
    archive = zipfile.ZipFile(io.BytesIO(shop.http.get(f"{audio}.zip").content))
    assert {name: archive.read(name) for name in archive.namelist()} == {"a.flac": b"one", "A (2).flac": b"two"}


def test_a_conversion_none_of_whose_recordings_could_be_converted_has_failed_with_the_reason(shop: Any) -> None:
    shop.finished()
    made = shop.submitted()
    lease = shop.claim()
    reason = "in.wav is silent; record again"
    assert shop.queue.finish(lease, [ResultFile("in.wav", error=reason)], "cpu", "") == "failed"
    assert shop.get(made["id"])["error"] == {"code": "invalid_recording", "message": reason}
    answer = shop.http.get(f"/v1/conversions/{made['id']}/audio")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_save_of_a_running_job_converts_before_the_training_ends(shop: Any) -> None:
    job = shop.running()
    assert shop.convert().status_code == 404, "no version is finished"
    assert shop.convert(job_id=job.id).status_code == 409, "nor is this one"
    workspace = shop.server.context.storage.workspace(job.id)
    workspace.mkdir(parents=True)
    refused = shop.convert(save="latest")
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/save")
    (workspace / "G_20.pth").write_bytes(b"save 20")
    (workspace / "weights").mkdir()
    (workspace / "weights" / "anna_best.pth").write_bytes(b"best")
    wanted = {"latest": b"save 20", 20: b"save 20", "best": b"best"}
    for save, content in wanted.items():
        made = shop.submitted(save=save)
        assert (made["save"], made["job_id"]) == (save, job.id)
        lease = shop.claim()
        found = lease.files.voice or lease.files.checkpoint
        assert found.read_bytes() == content
        shop.queue.release(lease)
        shop.http.delete(f"/v1/conversions/{made['id']}").raise_for_status()
    refused = shop.convert(save=7)
    assert "it has these numbers: 20" in refused.json()["detail"]


def test_the_current_version_is_the_newest_that_succeeded_and_another_is_named_by_its_job(shop: Any) -> None:
    first, second = shop.finished(), shop.finished()
    shop.running()
    assert shop.submitted()["job_id"] == second.id
    assert shop.submitted(job_id=first.id)["job_id"] == first.id
    assert shop.convert(voice="nobody").status_code == 404
    other = shop.finished("bert")
    refused = shop.convert(job_id=other.id)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/job_id")


def test_what_a_waiting_conversion_waits_for_is_said_in_words(shop: Any) -> None:
    shop.finished()
    made = shop.submitted()
    assert made["waiting_for"].startswith("no worker that converts recordings is running")
    shop.worker()
    assert shop.get(made["id"])["waiting_for"] is None
    assert [each["serves_conversions"] for each in shop.http.get("/v1/workers").json()["data"]].count(True) == 1
    later = shop.submitted()
    assert later["waiting_for"] == "conversions before it: 1"
    with write_session(shop.server.context.engine) as session:
        session.execute(sa.update(Worker).values(is_draining=True))
    assert shop.get(made["id"])["waiting_for"].startswith("no worker")


def test_a_cancelled_or_deleted_conversion_stops_its_worker_and_publishes_nothing(shop: Any) -> None:
    shop.finished()
    for command in ("cancel", "delete"):
        made = shop.submitted()
        lease = shop.claim()
        address = f"/v1/conversions/{made['id']}"
        if command == "cancel":
            assert shop.http.post(f"{address}/cancel").json()["status"] == "cancelled"
            assert shop.http.post(f"{address}/cancel").status_code == 200, "once more"
        else:
            assert shop.http.delete(address).status_code == 204
            assert shop.http.get(address).status_code == 404
            assert not shop.server.context.storage.conversion_home(made["id"]).exists()
        assert shop.queue.beat(lease) is True
        with pytest.raises(Exception, match="has ended or was replaced"):
            shop.queue.fail(lease, ConversionFailure.INTERNAL, "too late")
    done = shop.submitted()
    lease = shop.claim()
    shop.queue.finish(lease, [shop.result(lease)], "cpu", "")
    assert shop.http.post(f"/v1/conversions/{done['id']}/cancel").status_code == 409


def test_a_jobs_conversions_go_with_it(shop: Any) -> None:
    job = shop.finished()
    made = shop.submitted()
    lease = shop.claim()
    home = shop.server.context.storage.conversion_home(made["id"])
    assert home.is_dir()
    assert shop.http.delete(f"/v1/jobs/{job.id}").status_code == 204
    assert not home.exists()
    assert shop.http.get(f"/v1/conversions/{made['id']}").status_code == 404
    assert shop.queue.beat(lease) is True


def test_a_day_after_its_end_a_conversion_is_deleted_with_its_files(shop: Any) -> None:
    shop.finished()
    ended, waiting = shop.submitted(), shop.submitted()
    lease = shop.claim()
    shop.queue.finish(lease, [shop.result(lease)], "cpu", "")
    service = shop.server.context.conversions
    assert service.expire() == 0
    assert shop.get(ended["id"])["expires_at"] is not None
    with write_session(shop.server.context.engine) as session:
        (row,) = session.exec(select(Conversion).where(Conversion.id == ended["id"])).all()
        row.finished_at -= timedelta(hours=25)
    assert service.expire() == 1
    assert shop.http.get(f"/v1/conversions/{ended['id']}").status_code == 404
    assert not shop.server.context.storage.conversion_home(ended["id"]).exists()
    assert shop.get(waiting["id"])["status"] == "waiting"


def test_events_are_a_list_and_a_stream_that_ends(shop: Any) -> None:
    shop.finished()
    made = shop.submitted()
    address = f"/v1/conversions/{made['id']}/events"
    lease = shop.claim()
    shop.queue.beat(lease, 0.25)
    with shop.http.stream("GET", address, headers={"Accept": "text/event-stream"}) as stream:
        lines = stream.iter_lines()
        seen = ""
        while '"progress"' not in seen:
            seen += next(lines)
        shop.queue.finish(lease, [shop.result(lease)], "cpu", "")
        seen += "".join(lines)
    assert "created" in seen
    assert '"progress":0.25' in seen
    assert seen.endswith('event: enddata: {"status": "succeeded"}')
    page = shop.http.get(address).json()
    assert [(event["seq"], event["type"]) for event in page["data"]] == [
        (1, "created"),
        (2, "started"),
        (3, "succeeded"),
    ]
    assert shop.http.get(address, params={"after": 2}).json()["data"] == page["data"][2:]
    again = {"Accept": "text/event-stream", "Last-Event-ID": "3"}
    assert shop.http.get(address, headers=again).status_code == 204


def test_lists_are_filtered_and_paged_and_an_unchanged_conversion_is_not_sent_again(shop: Any) -> None:
    shop.finished()
    shop.finished("bert")
    ids = [shop.submitted(voice=voice)["id"] for voice in ("anna", "bert", "anna")]
    page = shop.http.get("/v1/conversions", params={"limit": 2}).json()
    assert [each["id"] for each in page["data"]] == ids[:0:-1]
    rest = shop.http.get("/v1/conversions", params={"after": page["next_cursor"]}).json()
    assert [each["id"] for each in rest["data"]] == ids[:1]
    of_bert = shop.http.get("/v1/conversions", params={"voice": "bert", "status": "waiting"}).json()
    assert [each["id"] for each in of_bert["data"]] == [ids[1]]
    assert shop.http.get("/v1/conversions", params={"status": "failed"}).json()["data"] == []
    etag = shop.http.get(f"/v1/conversions/{ids[0]}").headers["ETag"]
    again = shop.http.get(f"/v1/conversions/{ids[0]}", headers={"If-None-Match": etag})
    assert again.status_code == 304


def test_the_same_key_makes_one_conversion(shop: Any) -> None:
    shop.finished()
    body, key = {"upload_id": shop.upload()}, {"Idempotency-Key": "once"}
    first, second = (shop.http.post("/v1/voices/anna/conversions", json=body, headers=key) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] == second.json()["id"]


def test_every_limit_is_said(serve: Callable[..., Any], tmp_path: Path) -> None:
    limits = {"max_conversion_bytes": 100, "max_waiting_conversions": 1, "max_conversion_minutes": 2}
    (tmp_path / "files").mkdir()
    with serve(tmp_path / "data", **limits) as server, server.client() as http:
        shop = Shop(server, http, tmp_path / "files")
        shop.finished()
        large = shop.convert(upload_id=shop.upload(b"x" * 101))
        assert (large.status_code, large.json()["code"]) == (413, "upload_too_large")
        content = shop.http.put("/v1/voices/anna/conversions/content", content=b"x" * 101)
        assert content.status_code == 413
        shop.submitted()
        many = shop.convert()
        assert (many.status_code, many.json()["code"]) == (429, "quota_exceeded")
        assert int(many.headers["Retry-After"]) > 0
        assert shop.claim().max_seconds == 120
        shown = http.get("/v1/system").json()["limits"]
        assert (shown["max_conversion_bytes"], shown["max_conversion_seconds"]) == (100, 120)
        server.context.quotas.set("local", Quota(max_gpu_hours=0))
        assert "GPU hours" in shop.convert().json()["detail"]
        twice = shop.upload()
        assert shop.convert(upload_ids=[twice, twice]).status_code == 422
        assert shop.convert(upload_ids=[twice] * 101).status_code == 422
        both = shop.convert(upload_id=twice, upload_ids=[twice])
        assert both.status_code == 422


def test_another_owners_conversion_is_not_found_nor_is_their_voice(shop: Any) -> None:
    shop.finished()
    made = shop.submitted()
    token = shop.http.post("/v1/tokens", json={"owner": "eve", "scopes": ["read", "submit"]}).json()["secret"]
    with httpx.Client(base_url=shop.server.url, headers={"Authorization": f"Bearer {token}"}, timeout=120) as eve:
        address = f"/v1/conversions/{made['id']}"
        for path in (address, f"{address}/audio", f"{address}/events", f"{address}/recordings/1"):
            assert eve.get(path).status_code == 404, path
        assert eve.delete(address).status_code == 404
        assert eve.post(f"{address}/cancel").status_code == 404
        assert eve.get("/v1/conversions").json()["data"] == []
        stolen = shop.upload()
        assert eve.post("/v1/voices/anna/conversions", json={"upload_id": stolen}).status_code == 404
        assert eve.put("/v1/voices/anna/conversions/content", content=SOUND).status_code == 404


def test_the_sentence_is_translated_and_the_codes_of_jobs_that_wait_are_not() -> None:
    answer = {"waiting_for": ["weights"], "data": [{"waiting_for": "would delete 3 items now"}]}
    shown = json.loads(translated_body(json.dumps(answer).encode(), "zh"))
    assert shown == {"waiting_for": ["weights"], "data": [{"waiting_for": "现在会删除 3 项"}]}
