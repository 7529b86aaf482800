"""The queue of conversions with many workers: one lease for each, and what happens to those of lost workers."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from rvc_train.schemas.voices.conversions import ConversionFailure
from server.database.tables import Conversion
from server.errors import LeaseLost
from server.jobs.reaper import Reaper


def test_each_conversion_is_claimed_once_oldest_first_by_many_workers_at_once(shop: Any) -> None:
    shop.finished()
    ids = [shop.submitted()["id"] for _ in range(12)]
    workers = [shop.worker() for _ in range(6)]

    def claim_all(worker_id: str) -> list[str]:
        claimed = []
        while (lease := shop.queue.claim(worker_id)) is not None:
            claimed.append(lease.conversion_id)
        return claimed

    with ThreadPoolExecutor(len(workers)) as pool:
        claimed = list(pool.map(claim_all, workers))
    assert sorted(each for part in claimed for each in part) == ids
    assert all(part == sorted(part) for part in claimed)
    assert shop.queue.claim(workers[0]) is None


def test_the_owner_with_the_least_gpu_time_goes_first(shop: Any) -> None:
    shop.finished()
    ids = [shop.submitted()["id"] for _ in range(3)]
    with shop.server.context.engine.begin() as connection:
        another = sa.update(Conversion).where(Conversion.id == ids[-1]).values(owner="another")
        connection.execute(another)
    worker = shop.worker()
    leases = [shop.queue.claim(worker) for _ in ids]
    found = [lease.conversion_id for lease in leases]
    assert found == [ids[2], ids[0], ids[1]], "the training of the voice counts"
    for lease in leases:
        shop.queue.fail(lease, ConversionFailure.INTERNAL, "a test")


def test_a_draining_or_unknown_worker_claims_nothing(shop: Any) -> None:
    shop.finished()
    shop.submitted()
    worker_id = shop.worker()
    shop.http.post(f"/v1/workers/{worker_id}/drain").raise_for_status()
    assert shop.queue.claim(worker_id) is None
    assert shop.queue.claim("wrk_unknown") is None


def test_a_lost_workers_conversion_waits_again_once_and_then_fails(shop: Any) -> None:
    shop.finished()
    made = shop.submitted()
    now = [0.0]
    reaper = Reaper(shop.queue, 60, lambda: now[0], max_gap=1000)
    first = shop.claim()
    reaper.sweep()
    now[0] = 59
    shop.queue.beat(first)
    reaper.sweep()
    now[0] = 70
    assert reaper.sweep() == 0, "it had a heartbeat"
    now[0] = 120
    assert reaper.sweep() == 1
    assert (shop.get(made["id"])["status"], shop.get(made["id"])["progress"]) == ("waiting", 0)
    with pytest.raises(LeaseLost):
        shop.queue.beat(first)
    second = shop.claim()
    assert second.token > first.token
    assert second.output_folder != first.output_folder
    with pytest.raises(LeaseLost):
        shop.queue.finish(first, [shop.result(first)], "cpu", "")
    reaper.sweep()
    now[0] = 300
    assert reaper.sweep() == 1
    failed = shop.get(made["id"])
    assert (failed["status"], failed["error"]["code"]) == ("failed", "worker_lost")


def test_the_second_worker_succeeds_after_the_first_was_lost_and_only_its_files_stay(shop: Any) -> None:
    shop.finished()
    made = shop.submitted()
    first = shop.claim()
    shop.result(first)
    assert shop.queue.requeue_worker(first.worker_id) == [made["id"]]
    second = shop.claim()
    shop.queue.finish(second, [shop.result(second, content=b"by the second")], "cuda:0", "")
    assert shop.http.get(f"/v1/conversions/{made['id']}/audio").content == b"by the second"
    assert not first.output_folder.exists()


def test_a_released_conversion_counts_no_loss(shop: Any) -> None:
    shop.finished()
    made = shop.submitted()
    for _ in range(3):
        shop.queue.release(shop.claim())
    lease = shop.claim()
    shop.queue.finish(lease, [shop.result(lease)], "cpu", "")
    assert shop.get(made["id"])["status"] == "succeeded"
