"""The page of the server: what a keeper sees and does there, and what others do not."""

import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect


class Hub(BaseHTTPRequestHandler):
    """A hub of weights that has none."""

    def do_GET(self) -> None:
        self.send_error(404)

    def do_HEAD(self) -> None:
        self.send_error(404)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def house(
    open_station: Callable[..., Any], token: str, hub: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A server that may call this machine's webhooks, with a worker; its hub of weights has none."""
    station = open_station(tmp_path_factory.mktemp("house"), token)
    station.environment |= {
        "RVC_TRAIN_OUTBOUND_NETWORKS": "127.0.0.1",
        "HF_ENDPOINT": hub,
        "RVC_TRAIN_WEBHOOK_POLL_SECONDS": "0.1",
    }
    station.follow_script(["train", 400, 0.1, 50], *station.MAKE_VOICE)
    station.start_server()
    station.start_worker()
    yield station
    station.close()


@pytest.fixture
def receiver() -> Iterator[Any]:
    """Somebody who is told: the messages' types, in order."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    told: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.told = told  # type: ignore[attr-defined]
    yield server
    server.shutdown()
    server.server_close()


def opens(house: Any, secret: str) -> bool:
    return httpx.get(f"{house.url}/v1/me", headers={"Authorization": f"Bearer {secret}"}).status_code == 200


def test_a_token_is_told_once_opens_the_server_and_opens_nothing_once_it_is_revoked(house: Any, visit: Any) -> None:
    visitor = visit(house)
    page = visitor.page
    visitor.open("/server")
    form = page.locator("#token-form")
    form.get_by_label("Owner").fill("Carla")
    form.get_by_role("button", name="Create token").click()
    assert form.get_by_label("Owner").evaluate("(field) => field.validity.patternMismatch")
    form.get_by_label("Owner").fill("carla")
    form.get_by_label("Purpose").fill("her phone")
    form.get_by_label("Scope").select_option("read")
    form.get_by_role("button", name="Create token").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("it is shown only once")
    secret = dialog.locator("#secret-value").inner_text()
    assert opens(house, secret)
    dialog.get_by_role("button", name="Done").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#secret-value")).to_have_text("")  # in the event after the click
    assert secret not in page.content()
    row = page.get_by_role("row").filter(has_text="her phone")
    expect(row).to_contain_text("read only")
    expect(page.locator("#owners-list li").filter(has_text="carla")).to_be_visible()
    row.get_by_role("button", name=re.compile("Revoke")).click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row).to_contain_text("revoked")
    assert not opens(house, secret)


def test_a_webhook_is_made_tried_and_its_message_sent_again(house: Any, visit: Any, receiver: Any) -> None:
    visitor = visit(house)
    page = visitor.page
    visitor.open("/server")
    form = page.locator("#webhook-form")
    address = f"http://127.0.0.1:{receiver.server_port}/told"
    form.get_by_label("Address").fill(address)
    form.get_by_label("starts").check()
    form.get_by_role("button", name="Create webhook").click()
    expect(page.locator("#secret-value")).to_contain_text("whsec_")
    page.get_by_role("dialog").get_by_role("button", name="Done").click()
    item = page.locator("#webhooks-list > li").filter(has_text=address)
    expect(item).to_contain_text("starts · succeeds · fails · is cancelled")
    item.get_by_role("button", name="New secret").click()
    page.get_by_role("dialog").get_by_role("button", name="New secret").click()
    expect(page.locator("#secret-value")).to_contain_text("whsec_")
    page.get_by_role("dialog").get_by_role("button", name="Done").click()
    item.get_by_role("button", name="Send a test").click()
    message = item.locator("details li").first
    expect(message).to_contain_text("delivered")
    message.get_by_role("button", name="Send again").click()
    house.wait_until(lambda: len(receiver.told) == 2, "the message's second coming")
    assert receiver.told[0] == receiver.told[1]
    item.get_by_role("button", name="Disable").click()
    expect(item).to_contain_text("disabled")
    item.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(item).to_have_count(0)


def test_what_the_server_refuses_is_said_in_the_form(house: Any, visit: Any) -> None:
    visitor = visit(house)
    visitor.forgive("422")
    visitor.open("/server")
    form = visitor.page.locator("#webhook-form")
    form.get_by_label("Address").fill("https://name.invalid/")
    form.get_by_role("button", name="Create webhook").click()
    expect(form.get_by_role("alert")).to_contain_text("name.invalid")


def test_an_owner_gets_a_quota_and_gives_it_back(house: Any, visit: Any) -> None:
    house.http.post("/v1/tokens", json={"owner": "dana"})

    def quota() -> Any:
        return next(one for one in house.http.get("/v1/owners").json()["data"] if one["owner"] == "dana")["quota"]

    visitor = visit(house)
    visitor.open("/server")
    owner = visitor.page.locator("#owners-list li").filter(has_text="dana")
    owner.locator("summary").click()
    owner.get_by_label("Unfinished jobs").and_(owner.locator("input")).fill("7")
    owner.get_by_label("Storage, GB").fill("2.5")
    owner.get_by_role("button", name="Save quota").click()
    expect(owner).to_contain_text("of 2.5 GB")
    assert quota() == {"max_jobs": 7, "max_bytes": 2_500_000_000, "max_gpu_hours": None}
    owner.get_by_role("button", name="Use the server's quota").click()
    expect(owner).not_to_contain_text("of 2.5 GB")
    assert quota()["max_jobs"] is None


def test_retention_is_tried_before_anything_goes(house: Any, visit: Any, recording: Any) -> None:
    job = house.submit(house.upload(recording), name="old")
    house.client.cancel(job.id)
    house.wait_for(job, "cancelled")
    visitor = visit(house)
    page = visitor.page
    visitor.open("/server")
    form = page.locator("#retention-form")
    form.get_by_label("Keep finished jobs for (days)").fill("0")
    form.get_by_role("button", name="Dry run").click()
    expect(page.locator("#retention-plan li").filter(has_text="old")).to_be_visible()
    assert house.http.get("/v1/retention").json()["policy"]["keep_days"] is None
    form.get_by_role("button", name="Save and delete now").click()
    page.get_by_role("dialog").get_by_role("button", name="Back").click()
    assert house.http.get("/v1/retention").json()["policy"]["keep_days"] is None
    form.get_by_role("button", name="Save and delete now").click()
    page.get_by_role("dialog").get_by_role("button", name="Save and delete now").click()
    expect(page.locator("#retention-summary")).to_contain_text("nothing")
    assert house.http.get(f"/v1/jobs/{job.id}").status_code == 404
    house.http.put("/v1/retention", json={})


def test_the_queue_and_the_workers_move_without_a_reload_and_a_worker_is_drained(
    house: Any, visit: Any, recording: Any
) -> None:
    visitor = visit(house)
    page = visitor.page
    visitor.open("/server")
    expect(page.locator("#queue-summary")).to_contain_text("No jobs are running")
    expect(page.locator("#workers-list li")).to_have_count(1)
    job = house.submit(house.upload(recording), name="moving")
    expect(page.locator("#queue-list li").filter(has_text="moving")).to_contain_text("Running")
    expect(page.locator("#workers-list li")).to_contain_text("busy")
    other = house.start_worker()
    idle = page.locator("#workers-list li").filter(has_text="idle")
    expect(idle).to_have_count(1)
    idle.get_by_role("button").click()
    expect(page.get_by_role("dialog")).not_to_contain_text("only worker")
    page.get_by_role("dialog").get_by_role("button", name="Drain it").click()
    assert other.wait(20) == 0
    expect(page.locator("#workers-list li")).to_have_count(1)
    busy = page.locator("#workers-list li")
    busy.get_by_role("button").click()
    expect(page.get_by_role("dialog")).to_contain_text("What should happen to its current job")
    expect(page.get_by_role("dialog")).to_contain_text("no job will start until you start another one")
    page.get_by_role("dialog").get_by_role("button", name="Back").click()
    house.client.cancel(job.id)
    house.wait_for(job, "cancelled")


def test_weights_are_fetched_by_a_press_and_a_hub_without_them_is_told(house: Any, visit: Any) -> None:
    visitor = visit(house)
    visitor.open("/server")
    line = visitor.page.locator("#weights-list li").filter(has_text="rmvpe")
    expect(line).to_contain_text("missing")
    for weights, name in (("hubert", "ContentVec"), ("pretrained-v2-40k", "base voice v2 40k")):  # as New voice says
        expect(visitor.page.locator("#weights-list li").filter(has_text=weights)).to_contain_text(name)
    line.get_by_role("button", name="Download rmvpe").click()
    expect(line.locator(".fault")).to_contain_text("download failed", timeout=30_000)


def test_the_trail_tells_who_did_what_and_can_be_narrowed(house: Any, visit: Any) -> None:
    visitor = visit(house)
    page = visitor.page
    visitor.open("/server")
    rows = page.locator("#audit-list tr")
    expect(rows.first).to_contain_text("session.opened")
    page.get_by_placeholder("Action").fill("token.created")
    page.get_by_placeholder("Action").press("Enter")
    expect(rows.filter(has_text="session.opened")).to_have_count(0)
    expect(rows.first).to_contain_text("token.created")


def test_who_only_reads_sees_no_button_and_nothing_of_the_keepers(house: Any, visit: Any) -> None:
    made = house.http.post("/v1/tokens", json={"owner": "reader", "scopes": ["read"]}).json()
    visitor = visit(house, signed_in=False)
    visitor.sign_in(made["secret"])
    visitor.open("/server")
    page = visitor.page
    expect(page.locator("#workers-list li")).to_have_count(1)
    for part in ("#weights", "#webhooks", "#tokens", "#owners", "#retention", "#audit", "#webhook-form"):
        expect(page.locator(part)).to_be_hidden()
        expect(page.locator(f".jumps a[href='{part}']")).to_be_hidden()
    expect(page.locator("main").get_by_role("button")).to_have_count(0)


def test_an_address_of_a_section_arrives_there_though_the_sections_above_fill_later(house: Any, visit: Any) -> None:
    visitor = visit(house)
    visitor.open("/server#tokens")
    expect(visitor.page.locator("#weights-list li").first).to_be_attached()
    top = "document.querySelector('#tokens').getBoundingClientRect().top"
    visitor.page.wait_for_function(f"() => {top} >= 0 && {top} < 100")


def test_an_address_without_a_page_is_told_on_a_page_and_to_programs_as_a_problem(house: Any, visit: Any) -> None:
    visitor = visit(house)
    visitor.forgive("404")
    visitor.open("/nope")
    expect(visitor.page.locator("h1")).to_have_text("There is no such page")
    visitor.page.get_by_role("main").get_by_role("link", name="Voices").click()
    expect(visitor.page.locator("h1")).to_have_text("Voices")
    assert house.http.get("/nope").json()["code"] == "not_found"
