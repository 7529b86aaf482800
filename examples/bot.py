"""A chat bot that trains voices: many jobs at once, a message at each stage, the files at the end.

Here the chat is the terminal: `python examples/bot.py`, then lines such as `train anna recordings/anna.zip`,
`stop anna` and `bye`. In a bot for Discord, `on_message` calls `Bot.read` and `Post` is `message.channel.send`.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from rvc_train import AsyncClient, connect_async
from rvc_train.errors import ClientError
from rvc_train.schemas.events import EventType
from rvc_train.schemas.jobs import JobCreate, JobStatus

Post = Callable[[str], Awaitable[None]]
"""Function that posts a message to the chat."""


class Bot:
    """Trains a voice for each request, at most one of a name at a time."""

    def __init__(self, client: AsyncClient, folder: Path) -> None:
        """`folder`: where the finished voices are put."""
        self._client = client
        self._folder = folder
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def read(self, text: str, post: Post) -> None:
        """React to a message: `train NAME FILE` or `stop NAME`. Returns at once; training goes on."""
        match text.split():
            case ["train", name, file] if name not in self._tasks:
                self._tasks[name] = task = asyncio.create_task(self._train(name, Path(file), post))
                task.add_done_callback(lambda _: self._tasks.pop(name))
            case ["train", name, _]:
                await post(f"{name} is in training")
            case ["stop", name] if name in self._tasks:
                self._tasks[name].cancel()
            case _:
                await post("train NAME FILE, or stop NAME")

    async def finish(self) -> None:
        """Wait until no voice is in training."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _train(self, name: str, file: Path, post: Post) -> None:
        try:
            dataset = await self._client.upload_dataset([file])
            job = await self._client.submit(JobCreate(name=name, dataset_id=dataset.id))
            try:
                async for event in self._client.follow_events(job.id):
                    if event.type in {EventType.STAGE_CHANGED, EventType.WARNING}:
                        await post(f"{name}: {event.message}")
            except asyncio.CancelledError:
                await self._client.cancel(job.id)
                await post(f"{name}: stopped")
                raise
            job = await self._client.job(job.id)
            if job.status is not JobStatus.SUCCEEDED:
                await post(f"{name}: {job.error.message if job.error else job.status}")
                return
            for artifact in await self._client.artifacts(job.id):
                if artifact.kind in {"voice", "index"}:
                    await post(f"{name}: {await self._client.download_artifact(artifact, self._folder / job.id)}")
        except ClientError as error:  # a sentence for people
            await post(f"{name}: {error}")


async def main() -> None:
    """Read messages from the terminal until `bye`, then wait for the voices in training."""

    async def post(text: str) -> None:
        print(text, flush=True)

    server = connect_async(
        os.environ.get("RVC_TRAIN_SERVER", "http://127.0.0.1:8000"), os.environ.get("RVC_TRAIN_TOKEN")
    )
    async with AsyncClient(server) as client:
        bot = Bot(client, Path("voices"))
        while (line := await asyncio.to_thread(sys.stdin.readline)) and line.strip() != "bye":
            await bot.read(line, post)
        await bot.finish()


if __name__ == "__main__":
    asyncio.run(main())
