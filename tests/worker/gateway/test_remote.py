"""Workers on other machines: what a token, a key and a lease open, what hostile ones get, and what faults do."""

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.events import Warned
from rvc_engine.workspace.layout import Workspace
from rvc_train.schemas.access import Scope, TokenCreate
from rvc_train.schemas.jobs import JobStatus
from rvc_train.schemas.work.protocol import LEASE_KEY_HEADER, PROTOCOL, PROTOCOL_HEADER, WORKER_KEY_HEADER
from rvc_train.schemas.workers import Drain
from server.jobs.reaper import Reaper
from tests.server.conftest import Running
from tests.worker.gateway.conftest import gateway_to, serving, work_token
from tests.worker.gateway.test_promises import DESCRIPTION, artifact, claim, make_checkpoint
from worker.gateway.connection import Connection, Refused
from worker.gateway.errors import LeaseLost, SettingsRefused, Unavailable
from worker.gateway.remote import HttpGateway
from worker.gateway.remote_jobs import HttpJobLease

SHA = "0" * 64


@pytest.fixture
def server(shop: Any) -> Iterator[Running]:
    with serving(shop) as made:
        yield made


@pytest.fixture
def remote(shop: Any, server: Running) -> Iterator[HttpGateway]:
    made = gateway_to(server, shop)
    yield made
    made.close()


def held(shop: Any, gateway: HttpGateway) -> HttpJobLease:
    shop.submit([])
    lease = claim(gateway.register(DESCRIPTION))
    assert isinstance(lease, HttpJobLease)
    return lease


def bearer(server: Running, token: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}", PROTOCOL_HEADER: str(PROTOCOL)}
    return httpx.Client(base_url=server.url, headers=headers, timeout=20)


def test_a_token_for_work_opens_no_route_of_owners_and_no_lease_without_its_key(
    shop: Any, server: Running, remote: HttpGateway
) -> None:
    lease = held(shop, remote)
    with bearer(server, work_token(server)) as thief:
        document = server.server.config.app.openapi()
        for path, item in document["paths"].items():
            if path.startswith("/v1/shared/") or not path.startswith(("/v1/", "/metrics")):
                continue
            for method in item.keys() - {"parameters", "options"}:
                own = path.replace("{job_id}", lease.job_id).replace("{dataset_id}", shop.dataset_id)
                own = own.replace("{lease_id}", lease.lease_id).replace("{worker_id}", "wrk_1")
                own = own.replace("{sha256}", SHA).replace("{number}", "1").replace("{", "").replace("}", "")
                if own == "/v1/session" and method == "post":
                    continue
                keys = {LEASE_KEY_HEADER: SHA, WORKER_KEY_HEADER: SHA, "Tus-Resumable": "1.0.0"}
                answer = thief.request(method, own, headers=keys)
                if not path.startswith("/v1/worker/"):
                    assert answer.status_code == 403, (method, path)
                elif "{" in path:
                    assert answer.status_code in {404, 422}, (method, path, answer.text)
        token = thief.headers["Authorization"].removeprefix("Bearer ")
        assert thief.post("/v1/session", json={"token": token}).status_code == 401


def test_a_worker_whose_heartbeats_are_rarer_than_the_lease_allows_is_refused_for_good(remote: HttpGateway) -> None:
    with pytest.raises(SettingsRefused, match="RVC_TRAIN_HEARTBEAT_SECONDS"):
        remote.register(replace(DESCRIPTION, heartbeat_seconds=5000))


def test_the_key_of_one_lease_opens_no_other(shop: Any, server: Running, remote: HttpGateway) -> None:
    first, second = held(shop, remote), held(shop, remote)
    own = {LEASE_KEY_HEADER: first.key}
    with bearer(server, work_token(server)) as worker:
        assert worker.get(f"/v1/worker/leases/{first.lease_id}/inputs", headers=own).status_code == 200
        for path in ("inputs", "recordings/recordings.json", "checkpoints", f"files/{SHA}"):
            assert worker.get(f"/v1/worker/leases/{second.lease_id}/{path}", headers=own).status_code == 404, path
        later = first.lease_id.rpartition(".")[0] + ".2"
        assert worker.get(f"/v1/worker/leases/{later}/inputs", headers=own).status_code == 404
        with server.client() as others:
            refused = others.get("/v1/worker/server", headers={PROTOCOL_HEADER: str(PROTOCOL)})
            assert refused.status_code == 200  # the first token is an administrator's
        beat = {"lease": {"lease_id": second.lease_id, "key": first.key}}
        worker_id = server.context.jobs.get(first.job_id).worker_id
        key = {WORKER_KEY_HEADER: server.context.remote_workers.key_of(worker_id)}
        assert worker.post(f"/v1/worker/workers/{worker_id}/heartbeat", json=beat, headers=key).status_code == 404


def test_a_token_with_another_scope_is_no_workers(server: Running, shop: Any) -> None:
    for scope in ("read", "submit"):
        token = server.context.tokens.create(TokenCreate(owner="bob", scopes=[Scope(scope)]))[1]
        gateway = gateway_to(server, shop, token)
        with pytest.raises(SettingsRefused, match="scope work"):
            gateway.open()
        gateway.close()


def test_names_from_a_worker_reach_no_other_file(shop: Any, server: Running, remote: HttpGateway) -> None:
    lease = held(shop, remote)
    folder = shop.storage.dataset_folder(shop.dataset_id)
    (folder / "link").symlink_to("/etc/passwd")
    headers, base = {LEASE_KEY_HEADER: lease.key}, f"/v1/worker/leases/{lease.lease_id}"
    with bearer(server, work_token(server)) as worker:
        for name in ("..", "%2e%2e%2frecordings.json", "link", "a%00b", "x" * 5000, "%2Fetc%2Fpasswd"):
            for kind in ("recordings", "start", "checkpoints"):
                answer = worker.get(f"{base}/{kind}/{name}", headers=headers)
                assert answer.status_code in {404, 405, 422}, (kind, name, answer.status_code)
        for name in ("..%2f..%2fx", "x" * 64, SHA.upper().replace("0", "A")):
            answer = worker.put(
                f"{base}/files/{name}?offset=0&size=1",
                content=b"x",
                headers=headers | {"Content-Type": "application/octet-stream"},
            )
            assert answer.status_code in {404, 415, 422}, (name, answer.text)
        for name in ("../voice.pth", "a\0b", "x" * 300, "", "a/b", "a\\b"):
            event = {"type": "artifact", "kind": "voice", "name": name, "path": SHA, "size": 1, "sha256": SHA}
            answer = worker.post(f"{base}/events", json={"number": 1, "events": [event]}, headers=headers)
            assert answer.status_code == 422, name
        commit = {"file": "../../x.pt", "step": 1, "epoch": 1, "size": 1, "sha256": SHA}
        answer = worker.post(f"{base}/checkpoints", json={"checkpoint": commit}, headers=headers)
        assert answer.status_code == 422
        too_long = worker.put(
            f"{base}/files/{SHA}?offset=0&size=4",
            content=b"longer than that",
            headers=headers | {"Content-Type": "application/octet-stream"},
        )
        assert too_long.status_code == 409
    assert shop.artifacts(lease.job_id) == []


def test_a_worker_of_another_version_is_told_which_go_together(
    shop: Any, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = work_token(server)
    for version, is_let_in in ((PROTOCOL - 1, True), (PROTOCOL + 1, True), (PROTOCOL + 2, False)):
        monkeypatch.setattr("worker.gateway.connection.PROTOCOL", version)
        gateway = gateway_to(server, shop, token)
        if is_let_in:
            assert gateway.open() is not None
        else:
            with pytest.raises(SettingsRefused, match=r"version 3.*version 1.*Install rvc-train"):
                gateway.open()
        gateway.close()


def test_an_upload_that_was_cut_off_goes_on_where_it_was(
    shop: Any, server: Running, remote: HttpGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, content = held(shop, remote), bytes(range(256)) * 4096
    source, sha256 = tmp_path / "voice", hashlib.sha256(content).hexdigest()
    source.write_bytes(content)
    headers = {LEASE_KEY_HEADER: lease.key, "Content-Type": "application/octet-stream"}
    address = f"/v1/worker/leases/{lease.lease_id}/files/{sha256}"
    with bearer(server, work_token(server)) as worker:
        size = len(content)
        begun = worker.put(f"{address}?offset=0&size={size}", content=content[:100_000], headers=headers)
        assert begun.json() == {"received_bytes": 100_000, "is_complete": False}
        wrong = worker.put(f"{address}?offset=7&size={size}", content=b"x", headers=headers)
        assert (wrong.status_code, wrong.json()["code"]) == (409, "offset_mismatch")
    offsets = []
    send = Connection.send

    def counted(self: Connection, method: str, *more: Any, **given: Any) -> httpx.Response:
        offsets.extend([given["parameters"]["offset"]] if method == "PUT" else [])
        return send(self, method, *more, **given)

    monkeypatch.setattr(Connection, "send", counted)
    lease.record([artifact(source, content)], 1)
    assert offsets == [100_000]
    (row,) = shop.artifacts(lease.job_id)
    assert (shop.storage.resolve(row.path).read_bytes(), row.sha256) == (content, sha256)


def test_a_damaged_upload_is_sent_again_and_another_content_never_published(
    shop: Any, server: Running, remote: HttpGateway, tmp_path: Path
) -> None:
    lease = held(shop, remote)
    sha256 = hashlib.sha256(b"a voice").hexdigest()
    headers = {LEASE_KEY_HEADER: lease.key, "Content-Type": "application/octet-stream"}
    address = f"/v1/worker/leases/{lease.lease_id}/files/{sha256}?offset=0&size=7"
    with bearer(server, work_token(server)) as worker:
        assert worker.put(address, content=b"a vOice", headers=headers).status_code == 460
    (tmp_path / "voice").write_bytes(b"a voice")
    lease.record([artifact(tmp_path / "voice")], 1)
    assert [row.sha256 for row in shop.artifacts(lease.job_id)] == [sha256]


def test_lines_of_the_log_that_are_repeated_count_once(shop: Any, server: Running, remote: HttpGateway) -> None:
    lease = held(shop, remote)
    headers, address = {LEASE_KEY_HEADER: lease.key}, f"/v1/worker/leases/{lease.lease_id}/log"
    with bearer(server, work_token(server)) as worker:
        for offset, text in ((0, "one\n"), (0, "one\n"), (4, "two\n"), (4, "two\n"), (0, "one\n"), (8, "three\n")):
            assert worker.post(address, json={"offset": offset, "text": text}, headers=headers).status_code == 204
    assert shop.log(lease.job_id) == "one\ntwo\nthree\n"


def test_lines_wait_for_a_server_that_is_away_and_come_in_their_order(
    shop: Any, remote: HttpGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.gateway.remote_log.SEND_SECONDS", 0.02)
    lease = held(shop, remote)
    send, failures = Connection.send, [True, True]

    def failing(self: Connection, method: str, path: str, *more: Any, **given: Any) -> httpx.Response:
        answer = send(self, method, path, *more, **given)
        if path.endswith("/log") and failures:
            failures.pop()
            raise Unavailable("its answer was lost")
        return answer

    monkeypatch.setattr(Connection, "send", failing)
    log = lease.open_log()
    for number in range(20):
        log.write(f"line {number}\n")
        time.sleep(0.01)
    log.close()
    assert shop.log(lease.job_id) == "".join(f"line {number}\n" for number in range(20))


def test_a_worker_that_was_cut_off_gets_its_lease_back_unless_another_has_the_job(
    shop: Any, remote: HttpGateway
) -> None:
    worker = remote.register(DESCRIPTION)
    shop.submit([])
    lease = claim(worker)
    clock = iter([0.0, 0.0, 61.0, 61.0])
    reaper = Reaper(shop.jobs, 60, lambda: next(clock), max_gap=1000)
    reaper.sweep()
    assert reaper.sweep() == 1  # a lease without a heartbeat
    assert shop.job(lease.job_id).status == JobStatus.QUEUED
    lease.record([Warned(message="from the time away", stage="train")], 1)
    job = shop.job(lease.job_id)
    assert (job.status, job.token, job.claims, job.recoveries) == (JobStatus.RUNNING, lease.token, 1, 0)
    assert worker.heartbeat(lease).lost is None
    assert shop.event_types(lease.job_id).count("warning") == 1
    shop.jobs.requeue_lost(shop.jobs.active_leases()[0])
    successor = claim(remote.register(DESCRIPTION))
    assert worker.heartbeat(lease).lost is not None
    with pytest.raises(LeaseLost):
        lease.record([Warned(message="late", stage="train")], 2)
    successor.renew()


def test_a_lease_that_was_handed_back_does_not_come_back(shop: Any, remote: HttpGateway) -> None:
    worker = remote.register(DESCRIPTION)
    shop.submit([])
    lease = claim(worker)
    assert remote.requeue_worker(worker.worker_id) == [lease.job_id]
    assert worker.heartbeat(lease).lost is not None
    assert shop.job(lease.job_id).status == JobStatus.QUEUED


def test_a_claim_waits_for_a_job_and_ends_when_the_worker_stops(shop: Any, server: Running) -> None:
    stop = threading.Event()
    folder = shop.folder.parent / "elsewhere"
    settings = shop.settings(data_folder=folder, scratch_folder=folder, claim_wait_seconds=20)
    gateway = HttpGateway(settings, Connection(server.url, work_token(server)), stop)
    worker = gateway.register(DESCRIPTION)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(worker.claim(is_repeated=False, job_id=None)))
    begun = time.monotonic()
    thread.start()
    time.sleep(0.3)
    job_id = shop.submit([])
    thread.join(10)
    assert found[0].job_id == job_id
    assert time.monotonic() - begun < 8
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(Unavailable, match="stops"):
        worker.claim(is_repeated=False, job_id=None)
    shop.wait_until(lambda: not server.context.waiting_for_jobs.number, "the server to notice", 5)
    assert worker.claim_conversion() is None
    shop.jobs.drain_worker(worker.worker_id, Drain.FINISH)
    gateway.close()


def test_a_full_disk_of_the_server_is_told_as_one(
    shop: Any, server: Running, remote: HttpGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = held(shop, remote)
    (tmp_path / "voice").write_bytes(b"a voice")
    monkeypatch.setattr(type(server.context.storage), "free_bytes", lambda self: -1)
    with pytest.raises(OSError, match="disk is full") as caught:
        lease.record([artifact(tmp_path / "voice")], 1)
    assert caught.value.errno == 28
    monkeypatch.undo()
    lease.record([artifact(tmp_path / "voice")], 1)
    assert len(shop.artifacts(lease.job_id)) == 1


def test_a_checkpoint_that_was_damaged_on_the_server_is_not_restored(
    shop: Any, remote: HttpGateway, tmp_path: Path
) -> None:
    lease = held(shop, remote)
    here = Workspace(tmp_path / "here", "anna")
    entry = make_checkpoint(here)
    here.best_file.parent.mkdir(parents=True)
    here.best_file.write_bytes(b"the best")
    lease.store_checkpoint(here)
    stored = shop.storage.checkpoints(lease.job_id, lease.token)
    assert {path.name for path in stored.iterdir()} == {entry.file, "manifest.json", "best.pth"}
    elsewhere = Workspace(tmp_path / "elsewhere", "anna")
    lease.restore_checkpoint(elsewhere)
    assert elsewhere.best_file.read_bytes() == b"the best"
    (stored / entry.file).write_bytes(b"NETS")
    with pytest.raises(IncompatibleCheckpoint, match="damaged"):
        lease.restore_checkpoint(Workspace(tmp_path / "third", "anna"))


def test_an_event_with_files_stands_alone(shop: Any, remote: HttpGateway, tmp_path: Path) -> None:
    lease = held(shop, remote)
    (tmp_path / "voice").write_bytes(b"a voice")
    both = [artifact(tmp_path / "voice"), Warned(message="and another", stage="train")]
    with pytest.raises(Refused, match="alone"):
        lease.record(both, 1)


def test_recordings_are_brought_whole_and_only_once(
    shop: Any, remote: HttpGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shop.storage.dataset_folder(shop.dataset_id)
    (folder / "000001.wav").write_bytes(b"sound" * 1000)
    (folder / "recordings.json").write_bytes(b"[]")
    lease = held(shop, remote)
    inputs = lease.inputs()
    assert {path.name: path.read_bytes() for path in inputs.recordings.iterdir()} == {
        "000001.wav": b"sound" * 1000,
        "recordings.json": b"[]",
    }
    (inputs.recordings / "000001.wav").write_bytes(b"damaged")
    (inputs.recordings / "another.wav").write_bytes(b"not of this job")
    partial = inputs.recordings / f".000001.wav.{hashlib.sha256(b'sound' * 1000).hexdigest()[:16]}.part"
    partial.write_bytes(b"sound" * 500)
    again = lease.inputs()
    assert (again.recordings / "000001.wav").read_bytes() == b"sound" * 1000
    assert {path.name for path in again.recordings.iterdir()} == {"000001.wav", "recordings.json"}
