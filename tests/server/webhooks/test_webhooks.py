import contextlib
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import sqlalchemy as sa
from pydantic import ValidationError
from sqlmodel import col, select
from standardwebhooks.webhooks import Webhook as StandardWebhook

from rvc_engine.errors import FailureCode
from rvc_train.schemas.jobs import JobCreate
from rvc_train.schemas.webhooks import JobMessage, PingMessage
from server.database.engine import read_session, write_session
from server.database.tables import Delivery, Webhook
from server.errors import Refused, SettingsRefused
from server.settings import ServerSettings
from server.webhooks.delivery import MAX_IN_FLIGHT_PER_OWNER, Deliverer, _host_and_port
from server.webhooks.egress import check_url, is_allowed, is_public, resolve
from server.webhooks.service import signing_secrets


class Listener(BaseHTTPRequestHandler):
    """A server that receives webhook messages."""

    server: "Receiver"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.received.append((dict(self.headers), body))
        status = self.server.statuses.pop(0) if self.server.statuses else 204
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


class Receiver(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Listener)
        self.received: list[tuple[dict[str, str], str]] = []
        self.statuses: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield receiver
    receiver.shutdown()
    receiver.server_close()
    thread.join()


@pytest.fixture
def open_server(serve: Callable[..., Any], tmp_path: Path) -> Iterator[Any]:
    """A server that may call this machine."""
    with serve(tmp_path, outbound_networks="127.0.0.1", webhook_poll_seconds=0.02) as server:
        yield server


@pytest.fixture
def http(open_server: Any) -> Iterator[httpx.Client]:
    with open_server.client() as client:
        yield client


def finish(server: Any) -> str:
    bench = server.bench
    job = bench.job(name="anna")
    lease = bench.claim()
    bench.publish(lease)
    bench.jobs.succeed(lease)
    return job.id


def test_a_listener_hears_of_the_end_of_a_job_signed_as_the_standard_says(
    open_server: Any, http: httpx.Client, receiver: Receiver, eventually: Callable[..., None]
) -> None:
    webhook = http.post("/v1/webhooks", json={"url": receiver.url}).json()
    job_id = finish(open_server)
    eventually(lambda: receiver.received)
    headers, body = receiver.received[0]
    sent = StandardWebhook(webhook["secret"]).verify(body, {key.lower(): value for key, value in headers.items()})
    assert (sent["type"], sent["data"]["id"], sent["data"]["status"]) == ("job.succeeded", job_id, "succeeded")
    log = http.get(f"/v1/webhooks/{webhook['id']}/deliveries").json()["data"]
    eventually(lambda: http.get(f"/v1/webhooks/{webhook['id']}/deliveries").json()["data"][0]["status"] == "delivered")
    assert (log[0]["id"], log[0]["body"], len(receiver.received)) == (headers["webhook-id"], body, 1)


def test_a_message_has_times_as_the_interface_has_them_and_the_servers_address_where_it_is_known(
    serve: Callable[..., Any], tmp_path: Path, receiver: Receiver, eventually: Callable[..., None]
) -> None:
    settings = {"outbound_networks": "127.0.0.1", "webhook_poll_seconds": 0.02}
    with serve(tmp_path, **settings, public_url="https://voices.example/rvc/") as server, server.client() as http:
        webhook = http.post("/v1/webhooks", json={"url": receiver.url}).json()
        job_id = finish(server)
        eventually(lambda: receiver.received)
        headers, body = receiver.received[0]
        StandardWebhook(webhook["secret"]).verify(body, {key.lower(): value for key, value in headers.items()})
        message = json.loads(body)
        assert message["data"]["url"] == f"https://voices.example/rvc/v1/jobs/{job_id}"
        assert message["timestamp"].endswith("Z")
        JobMessage.model_validate(message)
        http.post(f"/v1/webhooks/{webhook['id']}/test")
        eventually(lambda: len(receiver.received) == 2)
        assert PingMessage.model_validate_json(receiver.received[1][1]).type == "ping"


def test_a_receiver_gets_only_the_events_it_subscribed_to(
    open_server: Any, http: httpx.Client, receiver: Receiver, eventually: Callable[..., None]
) -> None:
    http.post("/v1/webhooks", json={"url": receiver.url, "events": ["job.started", "job.failed"]})
    bench = open_server.bench
    bench.job(name="anna", max_attempts=1)
    lease = bench.claim()
    bench.jobs.fail(lease, FailureCode.DIVERGED, "it diverged")
    finish(open_server)
    eventually(lambda: len(receiver.received) == 3)
    received = sorted(json.loads(body)["type"] for _, body in receiver.received)
    assert received == ["job.failed", "job.started", "job.started"]
    failed = next(json.loads(body) for _, body in receiver.received if "job.failed" in body)
    assert failed["data"]["error"] == {"code": "diverged", "message": "it diverged"}


def test_a_jobs_own_listener_hears_of_that_job_alone(
    open_server: Any, http: httpx.Client, receiver: Receiver, eventually: Callable[..., None]
) -> None:
    bench = open_server.bench
    request = {"name": "bella", "dataset_id": bench.dataset(), "webhook": {"url": receiver.url}, "priority": -1}
    mine = http.post("/v1/jobs", json=request).json()["id"]
    finish(open_server)
    bench.publish(lease := bench.claim())
    bench.jobs.succeed(lease)
    eventually(lambda: receiver.received)
    assert [json.loads(body)["data"]["id"] for _, body in receiver.received] == [mine]


def test_a_message_that_is_not_taken_is_sent_again_and_each_try_is_told(
    open_server: Any,
    http: httpx.Client,
    receiver: Receiver,
    eventually: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.webhooks.delivery.RETRY_SECONDS", (0.01, 0.01))
    webhook = http.post("/v1/webhooks", json={"url": receiver.url}).json()
    receiver.statuses = [500, 302]
    finish(open_server)
    log = f"/v1/webhooks/{webhook['id']}/deliveries"
    eventually(lambda: http.get(log).json()["data"][0]["status"] == "delivered")
    assert http.get(log).json()["data"][0]["num_tries"] == 3
    assert len({headers["webhook-id"] for headers, _ in receiver.received}) == 1  # so the receiver recognises it
    receiver.statuses = [500] * 3
    finish(open_server)
    eventually(lambda: http.get(log).json()["data"][0]["status"] == "failed")
    last = http.get(log).json()["data"][0]
    assert (last["last_status"], last["last_error"]) == (500, "returned 500 Internal Server Error")
    again = http.post(f"{log}/{last['id']}/redeliver")
    assert (again.status_code, again.json()["status"]) == (202, "pending")
    eventually(lambda: http.get(log).json()["data"][0]["status"] == "delivered")


def test_an_address_that_is_gone_for_good_is_left_alone(
    open_server: Any, http: httpx.Client, receiver: Receiver, eventually: Callable[..., None]
) -> None:
    webhook = http.post("/v1/webhooks", json={"url": receiver.url}).json()
    address = f"/v1/webhooks/{webhook['id']}"
    receiver.statuses = [410]
    assert http.post(f"{address}/test").json()["event"] == "ping"
    eventually(lambda: not http.get(address).json()["is_enabled"])
    assert "410" in http.get(address).json()["disabled_reason"]
    finish(open_server)
    assert http.patch(address, json={"is_enabled": True}).json()["disabled_reason"] is None
    assert [json.loads(body)["type"] for _, body in receiver.received] == ["ping"]


def test_messages_to_an_address_that_is_gone_have_failed(
    open_server: Any, http: httpx.Client, receiver: Receiver, eventually: Callable[..., None]
) -> None:
    webhook = http.post("/v1/webhooks", json={"url": receiver.url}).json()
    address = f"/v1/webhooks/{webhook['id']}"
    receiver.statuses = [500, 410]
    http.post(f"{address}/test")
    eventually(lambda: http.get(f"{address}/deliveries").json()["data"][0]["num_tries"] == 1)
    http.post(f"{address}/test")
    eventually(lambda: not http.get(address).json()["is_enabled"])
    assert {each["status"] for each in http.get(f"{address}/deliveries").json()["data"]} == {"failed"}


def send_pings(http: httpx.Client, receiver: Receiver, address: str, statuses: list[int], eventually: Any) -> None:
    """Send a message for each of the statuses that the receiver answers with, and wait for their attempts."""
    for status in statuses:
        receiver.statuses = [status]
        sent = http.post(f"{address}/test").json()["id"]

        def is_tried(sent: str = sent) -> bool:
            log = http.get(f"{address}/deliveries").json()["data"]
            return next(each["num_tries"] for each in log if each["id"] == sent) == 1

        eventually(is_tried)


def test_a_webhook_that_failed_for_three_days_is_disabled_until_it_is_enabled(
    open_server: Any, http: httpx.Client, receiver: Receiver, eventually: Callable[..., None]
) -> None:
    webhook_id = http.post("/v1/webhooks", json={"url": receiver.url}).json()["id"]
    address = f"/v1/webhooks/{webhook_id}"

    def fail_since(**age: float) -> None:
        with write_session(open_server.context.engine) as session:
            session.get_one(Webhook, webhook_id).failing_since = datetime.now(UTC) - timedelta(**age)

    send_pings(http, receiver, address, [500], eventually)
    assert http.get(address).json()["failing_since"] is not None
    fail_since(days=5)
    send_pings(http, receiver, address, [204], eventually)
    assert http.get(address).json()["failing_since"] is None  # one accepted message is enough
    fail_since(days=2.9)
    send_pings(http, receiver, address, [500], eventually)
    assert http.get(address).json()["is_enabled"]
    fail_since(days=3)
    send_pings(http, receiver, address, [500], eventually)
    shown = http.get(address).json()
    assert not shown["is_enabled"]
    assert "accepted no message for 3 days" in shown["disabled_reason"]
    assert shown["disabled_at"] > shown["failing_since"]
    assert {each["status"] for each in http.get(f"{address}/deliveries").json()["data"]} == {"failed", "delivered"}
    assert http.post(f"{address}/test").status_code == 409
    enabled = http.patch(address, json={"is_enabled": True}).json()
    assert [enabled[name] for name in ("is_enabled", "disabled_reason", "disabled_at", "failing_since")] == [True] + [
        None
    ] * 3
    send_pings(http, receiver, address, [500], eventually)
    assert http.get(address).json()["is_enabled"]


def test_a_secret_is_shown_when_it_is_made_and_never_again(http: httpx.Client, receiver: Receiver) -> None:
    made = http.post("/v1/webhooks", json={"url": receiver.url}).json()
    address = f"/v1/webhooks/{made['id']}"
    rotated = http.post(f"{address}/rotate-secret").json()
    assert rotated["secret"] != made["secret"]
    assert http.get(f"{address}/secret").status_code == 404
    shown = [http.get(path).text for path in (address, "/v1/webhooks", "/v1/audit")]
    shown += [http.patch(address, json={"events": ["job.failed"]}).text, http.post(f"{address}/test").text]
    assert not any("whsec_" in text for text in shown)
    assert [each["action"] for each in http.get("/v1/audit", params={"target": made["id"]}).json()["data"]] == [
        "webhook.changed",
        "webhook.secret_rotated",
        "webhook.created",
    ]


def test_for_a_day_after_a_rotation_the_old_secret_signs_too(
    open_server: Any, http: httpx.Client, receiver: Receiver, eventually: Any
) -> None:
    made = http.post("/v1/webhooks", json={"url": receiver.url}).json()
    own = "whsec_" + "QUJD" * 8
    secrets = [made["secret"]]
    secrets += [
        http.post(f"/v1/webhooks/{made['id']}/rotate-secret", json=body).json()["secret"]
        for body in ({}, {"secret": own})
    ]
    assert secrets[-1] == own
    http.post(f"/v1/webhooks/{made['id']}/test")
    eventually(lambda: receiver.received)
    headers, body = receiver.received[0]
    for secret in secrets:
        StandardWebhook(secret).verify(body, {key.lower(): value for key, value in headers.items()})
    webhook = open_server.context.webhooks.get(None, made["id"])
    assert signing_secrets(webhook, datetime.now(UTC) + timedelta(hours=23)) == [own, *secrets[:2]]
    assert signing_secrets(webhook, datetime.now(UTC) + timedelta(hours=25)) == [own]
    refused = http.post(f"/v1/webhooks/{made['id']}/rotate-secret", json={"secret": "short"})
    assert refused.status_code == 422


def test_messages_to_one_host_are_sent_one_at_a_time_and_one_owner_leaves_room_for_others(engine: sa.Engine) -> None:
    deliverer = Deliverer(engine, ServerSettings(), lambda: datetime.now(UTC))
    urls = ["http://A.example/x", "http://a.example:80/y", "https://a.example/", "http://b.example/"]
    assert len({_host_and_port(url) for url in urls}) == 3
    deliverer._in_flight = {f"host-{number}": "anna" for number in range(MAX_IN_FLIGHT_PER_OWNER)}
    assert not deliverer._has_room("new", "anna")
    assert not deliverer._has_room("host-1", "bob")
    assert deliverer._has_room("new", "bob")


class Trickle(socketserver.BaseRequestHandler):
    """A peer that never gets done with its headers."""

    def handle(self) -> None:
        self.request.recv(65536)
        with contextlib.suppress(OSError):
            self.request.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                self.request.sendall(b"a")
                time.sleep(0.05)


def test_a_peer_that_never_gets_done_keeps_nobody_waiting_and_not_the_servers_end_either(
    serve: Any, tmp_path: Path, receiver: Receiver, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.webhooks.delivery.TIMEOUT_SECONDS", 3.0)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Trickle) as slow:
        slow.daemon_threads = True
        threading.Thread(target=slow.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        with (
            serve(tmp_path, outbound_networks="127.0.0.1", webhook_poll_seconds=0.02) as server,
            server.client() as http,
        ):
            url = f"http://127.0.0.1:{slow.server_address[1]}/"
            webhooks = [http.post("/v1/webhooks", json={"url": url}).json()["id"] for _ in range(10)]
            for webhook in webhooks:
                http.post(f"/v1/webhooks/{webhook}/test")
            good = http.post("/v1/webhooks", json={"url": receiver.url}).json()["id"]
            sent = time.monotonic()
            http.post(f"/v1/webhooks/{good}/test")
            eventually(lambda: receiver.received)
            assert time.monotonic() - sent < 2
            log = f"/v1/webhooks/{webhooks[0]}/deliveries"
            eventually(lambda: "no response in 3 s" in (http.get(log).json()["data"][0]["last_error"] or ""))
            ended = time.monotonic()
        assert time.monotonic() - ended < 3
        slow.shutdown()


def test_name_servers_that_hang_keep_no_request_waiting(
    live: Any, monkeypatch: pytest.MonkeyPatch, authorized: dict[str, str]
) -> None:
    release = threading.Event()
    real = socket.getaddrinfo

    def hanging(host: str, *args: Any, **more: Any) -> Any:
        return release.wait(20) and [] if host == "slow.example" else real(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    address = live.url

    def create() -> None:
        with contextlib.suppress(httpx.HTTPError):
            hook = {"url": "http://slow.example/"}
            httpx.post(f"{address}/v1/webhooks", json=hook, timeout=2, headers=authorized)

    callers = [threading.Thread(target=create) for _ in range(50)]
    for caller in callers:
        caller.start()
    time.sleep(0.3)
    with live.client() as http:
        began = time.monotonic()
        assert http.get("/v1/jobs").status_code == 200
        assert time.monotonic() - began < 1.5
    for caller in callers:
        caller.join()
    release.set()


def test_a_deleted_webhook_hears_nothing(open_server: Any, http: httpx.Client, receiver: Receiver) -> None:
    webhook = http.post("/v1/webhooks", json={"url": receiver.url}).json()
    assert http.delete(f"/v1/webhooks/{webhook['id']}").status_code == 204
    finish(open_server)
    assert http.get(f"/v1/webhooks/{webhook['id']}").status_code == 404
    assert receiver.received == []


def test_messages_outlive_a_restart(
    serve: Callable[..., Any], tmp_path: Path, receiver: Receiver, eventually: Any
) -> None:
    with serve(tmp_path, outbound_networks="127.0.0.1", webhook_poll_seconds=60) as server, server.client() as http:
        http.post("/v1/webhooks", json={"url": receiver.url})
        finish(server)
    with serve(tmp_path, outbound_networks="127.0.0.1", webhook_poll_seconds=0.02):
        eventually(lambda: receiver.received)


def test_an_address_inside_the_network_is_refused(live: Any) -> None:
    with live.client() as http:
        for url in ("http://127.0.0.1:9/x", "http://localhost/x", "http://169.254.169.254/", "http://[::1]/"):
            answer = http.post("/v1/webhooks", json={"url": url})
            assert (answer.status_code, answer.json()["code"]) == (422, "refused"), url
            assert "RVC_TRAIN_OUTBOUND_NETWORKS" in answer.json()["detail"]
        request = {"name": "a", "dataset_id": live.bench.dataset(), "webhook": {"url": "http://10.0.0.1/"}}
        assert http.post("/v1/jobs", json=request).status_code == 422


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),  # noqa: S104
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("2606:4700::1111", True),
        ("fec0::1", False),
        ("::127.0.0.1", False),
        ("64:ff9b:1::1", False),
        ("64:ff9b::808:808", True),
        ("2001:db8::1", False),
        ("2001:10::1", False),
        ("3fff::1", False),
        ("5f00::1", False),
        ("192.0.0.192", False),  # metadata of Oracle's cloud
        ("168.63.129.16", False),  # Azure's
        ("64:ff9b::a83f:8110", False),  # the same by NAT64
        ("192.88.99.1", False),
    ],
)
def test_only_the_open_internet_is_public(address: str, expected: bool) -> None:
    assert is_public(ip_address(address)) is expected


def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(2, 1, 6, "", ("8.8.8.8", 80)), (2, 1, 6, "", ("192.168.1.1", 80))]
    monkeypatch.setattr("server.webhooks.egress.socket.getaddrinfo", lambda *args, **more: found)
    with pytest.raises(Refused, match="not public") as refused:
        anyio.run(resolve, "two.example", 80, ())
    assert "192.168" not in str(refused.value)
    with pytest.raises(Refused, match="not public"):
        anyio.run(resolve, "two.example", 80, (ip_network("192.168.2.0/24"),))
    assert anyio.run(resolve, "two.example", 80, (ip_network("192.168.1.0/24"),)) == "8.8.8.8"


def test_the_operator_names_the_networks_that_are_called_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RVC_TRAIN_OUTBOUND_NETWORKS", "10.1.0.0/16, fd00::/8")
    networks = ServerSettings().outbound_networks
    allowed = {"10.1.2.3", "::ffff:10.1.2.3", "fd12::1", "8.8.8.8"}
    refused = {"10.2.0.1", "127.0.0.1", "169.254.169.254", "fe80::1"}
    assert {each for each in allowed | refused if is_allowed(ip_address(each), networks)} == allowed
    monkeypatch.setenv("RVC_TRAIN_OUTBOUND_NETWORKS", "10.1.2.3/16")
    with pytest.raises(ValidationError, match="has host bits set"):
        ServerSettings()


@pytest.mark.parametrize("value", ["true", "false"])
def test_the_old_setting_of_private_addresses_refuses_to_start_and_names_the_new_one(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("RVC_TRAIN_WEBHOOK_ALLOW_PRIVATE", value)
    with pytest.raises(SettingsRefused, match="RVC_TRAIN_OUTBOUND_NETWORKS"):
        ServerSettings()


@pytest.mark.parametrize("url", ["ftp://a/b", "http://", "http://user:word@a/", "http://[::1", "http://a:99999/"])
def test_what_is_no_address_for_a_webhook_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        check_url(url)


@pytest.mark.parametrize("secret", ["whsec_short", "whsec_" + "A" * 33 + "!", "x" * 40, "whsec_" + "A" * 33])
def test_a_secret_that_is_none_is_refused(http: httpx.Client, receiver: Receiver, secret: str) -> None:
    assert http.post("/v1/webhooks", json={"url": receiver.url, "secret": secret}).status_code == 422


def test_the_log_of_messages_is_kept_for_some_days(
    open_server: Any, http: httpx.Client, receiver: Receiver, eventually: Any
) -> None:
    webhook = http.post("/v1/webhooks", json={"url": receiver.url}).json()
    finish(open_server)
    log = f"/v1/webhooks/{webhook['id']}/deliveries"
    eventually(lambda: http.get(log).json()["data"][0]["status"] == "delivered")
    context = open_server.context
    later = Deliverer(context.engine, context.settings, lambda: datetime.now(UTC) + timedelta(days=29))
    later.delete_old()
    assert len(http.get(log).json()["data"]) == 1
    later = Deliverer(context.engine, context.settings, lambda: datetime.now(UTC) + timedelta(days=31))
    later.delete_old()
    assert http.get(log).json()["data"] == []


def test_a_message_is_written_only_if_its_event_is(job_service: Any, bench: Any) -> None:
    """The transaction that fails takes its message with it."""
    job = bench.job()
    with job_service.engine.begin() as connection:
        row = {"id": "whk_1", "owner": "local", "url": "http://a", "secret": "whsec_", "events": ["job.cancelled"]}
        row |= {"is_enabled": True, "created_at": datetime.now(UTC)}
        connection.execute(sa.insert(Webhook), [row])
    job_service.cancel(job.id)
    job_service.cancel(job.id)  # changes nothing, and sends nothing
    with read_session(job_service.engine) as session:
        assert [each.job_id for each in session.exec(select(Delivery).order_by(col(Delivery.id)))] == [job.id]


def test_a_jobs_webhook_is_part_of_what_an_idempotency_key_stands_for(
    http: httpx.Client, open_server: Any, receiver: Receiver
) -> None:
    request = {"name": "a", "dataset_id": open_server.bench.dataset()}
    JobCreate.model_validate(request)
    headers = {"Idempotency-Key": "k"}
    assert http.post("/v1/jobs", json=request, headers=headers).status_code == 202
    assert http.post("/v1/jobs", json=request | {"webhook": {"url": receiver.url}}, headers=headers).status_code == 422
