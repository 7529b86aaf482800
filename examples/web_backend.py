"""A web backend that trains voices for its users; the training server reports the end of a job by a signed webhook.

    RVC_TRAIN_SERVER=http://127.0.0.1:8000 WEBHOOK_URL=http://127.0.0.1:9000/hook \
    WEBHOOK_SECRET=whsec_... uvicorn examples.web_backend:app --port 9000

Needs `fastapi`, `uvicorn` and `standardwebhooks`. A training server sends to private addresses, such as this one,
only if `RVC_TRAIN_OUTBOUND_NETWORKS` of its settings names them.
"""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from fastapi import FastAPI, HTTPException, Request
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from rvc_train import AsyncClient, connect_async
from rvc_train.errors import ApiError, ClientError
from rvc_train.schemas.jobs import JobCreate
from rvc_train.schemas.webhooks import JobMessage, WebhookCreate


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open one client for all requests, and close it at the end."""
    address = connect_async(os.environ["RVC_TRAIN_SERVER"], os.environ.get("RVC_TRAIN_TOKEN"))
    async with AsyncClient(address) as client:
        app.state.client = client
        app.state.voices = {}  # in place of a database: what the webhook reported of each job
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/voices/{name}", status_code=202)
async def train(name: str, request: Request) -> dict[str, str]:
    """Train a voice on the recording, or zip of recordings, in the body."""
    client: AsyncClient = request.app.state.client
    webhook = WebhookCreate(url=os.environ["WEBHOOK_URL"], secret=os.environ["WEBHOOK_SECRET"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recordings"
        async with await anyio.open_file(file, "wb") as target:
            async for chunk in request.stream():
                await target.write(chunk)
        try:
            dataset = await client.upload_dataset([file], name)
            job = await client.submit(JobCreate(name=name, dataset_id=dataset.id, webhook=webhook))
        except ApiError as error:
            raise HTTPException(error.problem.status, str(error)) from error
        except ClientError as error:
            raise HTTPException(503, str(error)) from error
    return {"id": job.id, "status": job.status}


@app.post("/hook", status_code=204)
async def hook(request: Request) -> None:
    """Accept a message of the training server: signed with our secret, and not older than five minutes."""
    body = await request.body()
    try:
        Webhook(os.environ["WEBHOOK_SECRET"]).verify(body, dict(request.headers))
    except WebhookVerificationError as error:
        raise HTTPException(400, "the signature is not ours") from error
    message = JobMessage.model_validate_json(body)
    request.app.state.voices[message.data.id] = message.data.model_dump()  # a message that comes twice changes nothing


@app.get("/voices/{job_id}")
async def voice(job_id: str, request: Request) -> dict[str, Any]:
    """What the webhook reported of a job; `running` before that."""
    found: dict[str, Any] = request.app.state.voices.get(job_id, {"id": job_id, "status": "running"})
    return found
