"""Users of the soak: threads that upload, submit, steer, retry, delete and follow, and their record."""

import hashlib
import json
import random
import struct
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.soak.receivers import Receivers

MAX_WAIT_SECONDS = 90.0
"""Time for which a user repeats a request to a server that is being started again."""
TUS = {"Tus-Resumable": "1.0.0"}
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
MAX_JOBS_KEPT = 60
"""Ended jobs above which users delete more."""


@dataclass
class Record:
    """Answers that the users got, shared by their threads."""

    jobs: set[str] = field(default_factory=set)
    """Jobs whose submission was answered."""
    deleted: set[str] = field(default_factory=set)
    datasets: dict[str, bytes] = field(default_factory=dict)
    """Content of each dataset."""
    deleted_datasets: set[str] = field(default_factory=set)
    hooked: set[str] = field(default_factory=set)
    """Jobs with a webhook of their own at the good receiver."""
    followed: dict[str, int] = field(default_factory=dict)
    """Events of each stream that was followed to its end."""
    actions: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class User(threading.Thread):
    """One user. His choices depend on the seed and on what the server answers."""

    def __init__(self, url: str, token: str, seed: int, record: Record, receivers: Receivers) -> None:
        super().__init__(daemon=True)
        self.random = random.Random(seed)
        self.record, self.receivers = record, receivers
        self.stopping = threading.Event()
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30)
        self.followers: list[threading.Thread] = []
        self._number = seed * 1_000_000

    def run(self) -> None:
        """Act until stopped."""
        actions = [
            (self.submit, 10),
            (self.upload, 2),
            (self.upload_in_pieces, 2),
            (self.leave_an_upload, 1),
            (self.cancel, 3),
            (self.pause, 3),
            (self.resume, 4),
            (self.retry, 3),
            (self.delete, 5),
            (self.delete_dataset, 1),
            (self.follow, 4),
            (self.look, 12),
            (self.subscribe, 1),
        ]
        functions, weights = zip(*actions, strict=True)
        while not self.stopping.is_set():
            action = self.random.choices(functions, weights)[0]
            try:
                action()
                self.record.actions[action.__name__] += 1
            except Exception as error:  # noqa: BLE001 - it is the finding
                self.record.faults.append(f"{action.__name__}: {type(error).__name__}: {error}")
            self.stopping.wait(self.random.uniform(0.05, 0.6))

    def ask(self, method: str, path: str, *also: int, **more: Any) -> httpx.Response:
        """Send a request, again after lost connections and 503; any status of 400 and more but `also` is a fault."""
        deadline = time.monotonic() + MAX_WAIT_SECONDS
        while True:
            with suppress(httpx.TransportError):
                answer = self.http.request(method, path, **more)
                self.record.statuses[answer.status_code] += 1
                if answer.status_code not in {503, 429}:
                    break
            if time.monotonic() > deadline:
                raise TimeoutError(f"{method} {path}: no answer in {MAX_WAIT_SECONDS:.0f} s")
            time.sleep(0.3)
        if answer.status_code >= 400 and answer.status_code not in also:
            self.record.faults.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer

    def submit(self) -> None:
        """Submit a job, some with a webhook."""
        if (dataset := self._dataset()) is None:
            self.upload()
            return
        body: dict[str, Any] = {"name": f"voice {self._next()}", "dataset_id": dataset, "max_attempts": 3}
        hook = self.random.choice([None, None, self.receivers.good, self.receivers.bad, self.receivers.slow])
        if hook is not None:
            body["webhook"] = {"url": hook}
        answer = self.ask("POST", "/v1/jobs", 422, json=body, headers={"Idempotency-Key": body["name"]})
        self._submitted(answer)
        if answer.status_code == 202 and hook == self.receivers.good:
            self.record.hooked.add(answer.json()["id"])

    def upload(self) -> None:
        """Upload a recording in one request."""
        content = self._content()
        answer = self.ask("PUT", f"/v1/datasets/set-{self._next()}/content", content=content)
        self.record.datasets[answer.json()["id"]] = content

    def upload_in_pieces(self) -> None:
        """Upload in pieces, going on from where the server is after each."""
        content = self._content()
        address = self.ask("POST", "/v1/uploads", headers=TUS | {"Upload-Length": str(len(content))}).headers[
            "location"
        ]
        while (offset := int(self.ask("HEAD", address, headers=TUS).headers["upload-offset"])) < len(content):
            piece = content[offset : offset + 40_000]
            headers = TUS | {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
            with suppress(httpx.TransportError):  # it is asked where to go on
                self.http.patch(address, content=piece, headers=headers)
        body = {"name": f"set {self._next()}", "upload_id": address.rpartition("/")[2]}
        answer = self.ask("POST", "/v1/datasets", json=body)
        self.record.datasets[answer.json()["id"]] = content

    def leave_an_upload(self) -> None:
        """Begin an upload and let it expire, or delete it."""
        address = self.ask("POST", "/v1/uploads", headers=TUS | {"Upload-Length": "100000"}).headers["location"]
        headers = TUS | {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        with suppress(httpx.TransportError):
            self.http.patch(address, content=bytes(50_000), headers=headers)
        if self.random.random() < 0.7:
            self.ask("DELETE", address, 404, headers=TUS)

    def cancel(self) -> None:
        """Cancel a job."""
        self._steer("cancel")

    def pause(self) -> None:
        """Pause a job."""
        self._steer("pause")

    def resume(self) -> None:
        """Resume a paused job."""
        if (job := self._job("paused")) is not None:
            self.ask("POST", f"/v1/jobs/{job}/resume", 404, 409)

    def retry(self) -> None:
        """Retry a job that has ended, from its checkpoint or from the start."""
        if (job := self._job(*TERMINAL)) is not None:
            body = {"from": self.random.choice(["start", "checkpoint"])}
            headers = {"Idempotency-Key": f"retry {self._next()}"}
            self._submitted(self.ask("POST", f"/v1/jobs/{job}/retry", 404, 409, 422, json=body, headers=headers))

    def delete(self) -> None:
        """Delete a job that has ended; several when there are many."""
        many = max(0, len(self.record.jobs) - len(self.record.deleted) - MAX_JOBS_KEPT)
        for _ in range(1 + min(10, many)):
            if (job := self._job(*TERMINAL)) is not None:
                answer = self.ask("DELETE", f"/v1/jobs/{job}", 404, 409)
                if answer.status_code in {204, 404}:  # 404: another user's, or one's own whose answer was lost
                    self.record.deleted.add(job)

    def delete_dataset(self) -> None:
        """Delete a dataset, unless a job needs it."""
        if len(self.record.datasets) <= 5 or (dataset := self._dataset()) is None:
            return
        if self.ask("DELETE", f"/v1/datasets/{dataset}", 404, 409).status_code in {204, 404}:
            self.record.deleted_datasets.add(dataset)

    def look(self) -> None:
        """Read what a page reads, and download what a job made."""
        jobs = self.ask("GET", "/v1/jobs", params={"limit": 50}).json()["data"]
        self.ask("GET", "/v1/queue")
        if not jobs:
            return
        job = self.random.choice(jobs)["id"]
        for path in ("", "/events", "/metrics", "/logs?tail=20", "/checkpoints", "/previews"):
            self.ask("GET", f"/v1/jobs/{job}{path}", 404)
        listed = self.ask("GET", f"/v1/jobs/{job}/artifacts", 404)
        for each in listed.json()["data"] if listed.status_code == 200 else ():
            file = self.ask("GET", each["url"], 404, 410)
            if file.status_code == 200 and hashlib.sha256(file.content).hexdigest() != each["sha256"]:
                self.record.faults.append(f"{each['url']}: the file is not what its sha256 says")
            if file.status_code == 410 and self.ask("GET", f"/v1/jobs/{job}", 404).status_code == 200:
                self.record.faults.append(f"{each['url']}: 410 of a job that is there")

    def subscribe(self) -> None:
        """Create a webhook for all jobs, or delete one when there are some."""
        found = self.ask("GET", "/v1/webhooks", params={"limit": 100}).json()["data"]
        hooks = [hook for hook in found if hook["job_id"] is None]
        if len(hooks) > 4:
            self.ask("DELETE", f"/v1/webhooks/{self.random.choice(hooks)['id']}", 404)
        else:
            url = self.random.choice([self.receivers.good, self.receivers.bad, self.receivers.slow])
            self.ask("POST", "/v1/webhooks", json={"url": url})

    def follow(self) -> None:
        """Follow a job in a thread of its own, over lost connections, to its end."""
        alive = [each for each in self.followers if each.is_alive()]
        job = self._job("queued", "running", "validating", "paused")
        if job is not None and len(alive) < 4 and job not in self.record.followed:
            thread = threading.Thread(target=self._follow, args=(job,), daemon=True)
            thread.start()
            self.followers = [*alive, thread]

    def _follow(self, job: str) -> None:
        seen = 0
        while True:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(seen)}
            with (
                suppress(httpx.TransportError),
                self.http.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as s,
            ):
                if s.status_code in {204, 404}:
                    break
                if s.status_code != 200:
                    if s.status_code not in {429, 503}:
                        self.record.faults.append(f"following {job} from {seen}: {s.status_code} {s.read()[:200]!r}")
                        break
                    continue
                kind = ""
                for line in s.iter_lines():
                    if line.startswith("event: "):
                        kind = line
                    elif line.startswith("data: ") and kind == "event: end":
                        self.record.followed[job] = seen
                        return
                    elif line.startswith("data: "):
                        number = json.loads(line.removeprefix("data: "))["seq"]
                        if number != seen + 1:
                            self.record.faults.append(f"following {job}: event {number} came after {seen}")
                        seen = number
            time.sleep(0.3)

    def _steer(self, verb: str) -> None:
        if (job := self._job("queued", "running", "validating")) is not None:
            self.ask("POST", f"/v1/jobs/{job}/{verb}", 404, 409)

    def _submitted(self, answer: httpx.Response) -> None:
        if answer.status_code == 202:
            self.record.jobs.add(answer.json()["id"])

    def _job(self, *statuses: str) -> str | None:
        answer = self.ask("GET", "/v1/jobs", params={"status": list(statuses), "limit": 50})
        jobs = [job["id"] for job in answer.json()["data"]]
        return self.random.choice(jobs) if jobs else None

    def _dataset(self) -> str | None:
        present = sorted(self.record.datasets.keys() - self.record.deleted_datasets)
        return self.random.choice(present) if present else None

    def _content(self) -> bytes:
        body = self.random.randbytes(self.random.choice([1000, 50_000, 200_000]))
        return b"RIFF" + struct.pack("<I", len(body)) + body

    def _next(self) -> int:
        self._number += 1
        return self._number
