"""A voice that needs a certain worker: what is asked for in "New voice", and what the pages say while nobody has it."""

from typing import Any

from playwright.sync_api import expect

from rvc_train.schemas.jobs import Resources

LACKING = "no running worker has it"


def test_a_voice_asks_for_a_worker_and_the_pages_say_that_there_is_none(open_house: Any, visit: Any) -> None:
    dataset = open_house.upload(open_house.samples / "vm-review.flac", name="anna")
    visitor = visit(open_house)
    page = visitor.page
    visitor.open(f"/new?dataset={dataset.id}")
    order = page.locator("details:has([name=worker_labels])")
    order.locator("summary").click()
    page.locator("[name=name]").fill("anna")
    page.locator("[name=worker_labels]").fill("pool=nightly")
    page.locator("[name=gpu_memory]").fill("24")
    expect(page.locator("#warnings")).to_contain_text("the label pool=nightly")
    page.locator("#submit").click()
    page.wait_for_url("**/jobs/job_*")
    job = open_house.client.job(page.url.rsplit("/", 1)[1])
    assert job.resources.model_dump() == {"gpus": 1, "gpu_memory_bytes": 24 * 10**9, "labels": {"pool": "nightly"}}
    # Without the downloads that the form's own settings need.
    waiting = open_house.submit(dataset, name="waiting", resources=Resources(labels={"pool": "nightly"}))
    visitor.open(f"/jobs/{waiting.id}")
    expect(page.locator("#facts")).to_contain_text(LACKING)
    visitor.open("/server")
    expect(page.locator("#queue-list .fault")).to_contain_text(LACKING)
    visitor.open(f"/new?clone={job.id}")
    expect(page.locator("[name=worker_labels]")).to_have_value("pool=nightly")
    expect(page.locator("[name=gpu_memory]")).to_have_value("24")
    open_house.client.cancel(waiting.id)
