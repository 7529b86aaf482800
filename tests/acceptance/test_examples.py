"""The programs in `examples/` do what they are for, with a real server."""

import asyncio
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from examples.bot import Bot
from rvc_train import AsyncClient, connect_async
from rvc_train.cli.services import free_port

ROOT = Path(__file__).parents[2]
SECRET = "whsec_bWFrZSAzMiByYW5kb20gYnl0ZXMgZm9yIHlvdXJzZWxm"


@pytest.fixture(autouse=True)
def long_leases(station):
    """A worker that is late on a busy machine keeps its job."""
    station.environment["RVC_TRAIN_LEASE_SECONDS"] = "30"


async def chat(station, folder: Path, *messages: str) -> list[str]:
    """The bot's messages."""
    said: list[str] = []

    async def post(text: str) -> None:
        said.append(text)

    async with AsyncClient(connect_async(station.url, station.token), folder / "memory") as client:
        bot = Bot(client, folder / "voices")
        for message in messages:
            await bot.read(message, post)
        await bot.finish()
    return said


def test_the_bot_trains_several_voices_at_once_and_delivers_their_files(station, recording, tmp_path):
    station.follow_script(["stage", "train", 0.1], *station.MAKE_VOICE)
    station.start_server()
    station.start_worker()
    wishes = [f"train {name} {recording}" for name in ("anna", "bob", "carla")]
    said = asyncio.run(chat(station, tmp_path, *wishes, "train anna other.wav", "train dora nothing.wav", "hello"))
    assert "anna is in training" in said
    assert "train NAME FILE, or stop NAME" in said
    assert [text for text in said if text.startswith("dora")] == [
        "dora: cannot upload nothing.wav: there is no such file or folder"
    ]
    voices = {path.name for path in (tmp_path / "voices").rglob("*.pth")}
    assert voices == {"anna.pth", "bob.pth", "carla.pth"}, said


def test_stopping_the_bots_job_cancels_it_on_the_server(station, recording, tmp_path):
    station.follow_script(["stage", "train", 0.1], ["train", 2000, 0.1, 10])
    station.start_server()
    station.start_worker()

    async def run() -> list[str]:
        said: list[str] = []
        is_training = asyncio.Event()

        async def post(text: str) -> None:
            said.append(text)
            is_training.set()

        async with AsyncClient(connect_async(station.url, station.token), tmp_path / "memory") as client:
            bot = Bot(client, tmp_path)
            await bot.read(f"train anna {recording}", post)
            await asyncio.wait_for(is_training.wait(), 90)
            await bot.read("stop anna", post)
            await bot.finish()
        return said

    assert "anna: stopped" in asyncio.run(run())
    (job,) = station.client.jobs()
    station.wait_for(job, "cancelled", seconds=60)


@pytest.fixture
def backend(station):
    """Address of the web backend."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    environment = station.environment | {
        "RVC_TRAIN_SERVER": station.url,
        "WEBHOOK_URL": f"{address}/hook",
        "WEBHOOK_SECRET": SECRET,
    }
    command = [sys.executable, "-m", "uvicorn", "examples.web_backend:app", "--port", str(port)]
    with (station.folder / "backend.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:

        def is_up() -> bool:
            try:
                return httpx.get(f"{address}/voices/none").is_success
            except httpx.TransportError:
                return False

        station.wait_until(is_up, "the backend", 90)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def test_the_web_backend_knows_of_the_end_by_a_signed_webhook_and_refuses_another(station, recording, request):
    station.follow_script(*station.MAKE_VOICE)
    station.environment |= {"RVC_TRAIN_OUTBOUND_NETWORKS": "127.0.0.1", "RVC_TRAIN_WEBHOOK_POLL_SECONDS": "0.1"}
    station.start_server()
    station.start_worker()
    backend = request.getfixturevalue("backend")
    answer = httpx.post(f"{backend}/voices/anna", content=recording.read_bytes(), timeout=60)
    assert answer.status_code == 202, answer.text
    address = f"{backend}/voices/{answer.json()['id']}"
    forged = {"type": "job.succeeded", "data": {"id": answer.json()["id"], "status": "succeeded"}}
    signature = {"webhook-id": "1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
    assert httpx.post(f"{backend}/hook", json=forged, headers=signature).status_code == 400
    station.wait_until(lambda: httpx.get(address).json()["status"] == "succeeded", "the webhook", 60)
    assert httpx.get(address).json()["name"] == "anna"
