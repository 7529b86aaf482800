"""From upload to download with the client of openapi-python-client, as `mypy --strict` accepts it."""

import io
import os
import sys
import time
from pathlib import Path
from typing import TypeVar

from generated import AuthenticatedClient
from generated.api.datasets import datasets_upload
from generated.api.jobs import jobs_create, jobs_get, jobs_list
from generated.api.progress import jobs_get_log, jobs_list_events
from generated.api.results import jobs_download_artifact, jobs_list_artifacts
from generated.api.webhooks import webhooks_create, webhooks_update
from generated.models import (
    ArtifactList,
    Dataset,
    EventList,
    Job,
    JobCreate,
    JobList,
    Problem,
    StartedEvent,
    SucceededEvent,
    Webhook,
    WebhookCreate,
    WebhookPatch,
    WebhookSecret,
)
from generated.types import File

T = TypeVar("T")


def only(kind: type[T], answer: object) -> T:
    assert isinstance(answer, kind), answer
    return answer


client = AuthenticatedClient(base_url=os.environ["URL"], token=os.environ["TOKEN"])
body = File(payload=io.BytesIO(Path(sys.argv[1]).read_bytes()))
dataset = only(Dataset, datasets_upload.sync("generated", client=client, body=body))
request = JobCreate(name="generated", dataset_id=dataset.id)
job = only(Job, jobs_create.sync(client=client, body=request, idempotency_key="walk"))
again = only(Job, jobs_create.sync(client=client, body=request, idempotency_key="walk"))
assert again.id == job.id
while job.finished_at is None:
    time.sleep(0.1)
    job = only(Job, jobs_get.sync(job.id, client=client))
print(job.status)
for file in only(ArtifactList, jobs_list_artifacts.sync(job.id, client=client)).data:
    found = only(File, jobs_download_artifact.sync(job.id, file.name, client=client))
    print(file.kind, file.size_bytes, len(found.payload.read()))
print(len(only(str, jobs_get_log.sync(job.id, client=client))) > 0)
events = only(EventList, jobs_list_events.sync(job.id, client=client)).data
started = next(event for event in events if isinstance(event, StartedEvent))
print(started.data.device != "", isinstance(events[-1], SucceededEvent))
print(only(Problem, jobs_get.sync("nothing", client=client)).code)
page = only(JobList, jobs_list.sync(client=client, limit=1))
print(len(page.data), page.has_more is (page.next_cursor is not None))
webhook: WebhookSecret | Webhook
# A number, since there may be no name server; nothing is sent to it.
webhook = only(WebhookSecret, webhooks_create.sync(client=client, body=WebhookCreate(url="https://1.1.1.1/hook")))
webhook = only(Webhook, webhooks_update.sync(webhook.id, client=client, body=WebhookPatch(is_enabled=False)))
print(webhook.is_enabled)
change = WebhookPatch(url="https://1.1.1.1/other")
webhook = only(Webhook, webhooks_update.sync(webhook.id, client=client, body=change))
print(webhook.is_enabled, webhook.url)
