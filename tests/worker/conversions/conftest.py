"""A job with a small real voice, and conversions as the server puts them into the queue."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
from sqlmodel import select

from rvc_train.schemas.voices.conversions import ConversionOptions
from server.conversions.queue import ConversionQueue
from server.database.clock import database_clock, utc_now
from server.database.engine import read_session, write_session
from server.database.tables import Conversion, new_id
from tests.engine.conversion.voices import RATE, glide, make_voice


class Studio:
    """The shop's data folder with a voice, and queries for tests."""

    def __init__(self, shop: Any, voice: Path, script: list[list[object]]) -> None:
        self.shop = shop
        self.job_id = shop.submit(script)
        self.voice = shop.storage.workspace(self.job_id) / "weights" / "anna_best.pth"
        self.voice.parent.mkdir(parents=True)
        shutil.copy(voice, self.voice)
        self.queue = ConversionQueue(shop.engine, shop.storage, database_clock(shop.engine))

    def convert(self, *recordings: bytes, **options: object) -> str:
        """A conversion of these files, with the voice's best save."""
        conversion_id = new_id("cnv")
        folder = self.shop.storage.conversion_home(conversion_id) / "in"
        folder.mkdir(parents=True)
        inputs = []
        for number, content in enumerate(recordings):
            (folder / f"{number:06d}").write_bytes(content)
            path = (folder / f"{number:06d}").relative_to(self.shop.storage.root).as_posix()
            inputs.append({"name": f"in{number}", "output": f"out{number}.wav", "path": path, "bytes": len(content)})
        with write_session(self.shop.engine) as session:
            session.add(
                Conversion(
                    id=conversion_id,
                    owner="local",
                    voice="anna",
                    job_id=self.job_id,
                    save="best",
                    options=ConversionOptions.model_validate(options).model_dump(mode="json"),
                    max_seconds=60.0,
                    inputs=inputs,
                    size=0,
                    created_at=utc_now(),
                )
            )
        return conversion_id

    def get(self, conversion_id: str) -> Conversion:
        with read_session(self.shop.engine) as session:
            return session.exec(select(Conversion).where(Conversion.id == conversion_id)).one()

    def cancel(self, conversion_id: str) -> None:
        with write_session(self.shop.engine) as session:
            self.queue.cancel(session, session.exec(select(Conversion).where(Conversion.id == conversion_id)).one())

    def wait_for(self, conversion_id: str, *statuses: str, seconds: float = 120) -> Conversion:
        self.shop.wait_until(lambda: self.get(conversion_id).status in statuses, f"{statuses}", seconds)
        return self.get(conversion_id)

    def result(self, conversion_id: str, number: int = 0) -> Path:
        path: Path = self.shop.storage.resolve(self.get(conversion_id).results[number]["path"])
        return path

    def left_over(self, conversion_id: str) -> list[str]:
        """Names of all that the attempts left beside the results."""
        folder = self.shop.storage.conversion_home(conversion_id) / "out"
        results = {self.shop.storage.resolve(each["path"]) for each in self.get(conversion_id).results if each["path"]}
        return sorted(path.name for path in folder.rglob("*") if path.is_file() and path not in results)


@pytest.fixture(scope="session")
def small_voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_voice(tmp_path_factory.mktemp("voice") / "anna.pth", median_pitch={0: 100.0})


@pytest.fixture
def studio(shop: Any, small_voice: Path) -> Studio:
    """A job that trains for as long as a worker runs."""
    return Studio(shop, small_voice, [["train", 100_000, 0.05, 1000]])


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], bytes]:
    """`recording(seconds)`: a WAV file of a voice-like tone."""

    def make(seconds: float) -> bytes:
        path = tmp_path_factory.mktemp("recording") / "in.wav"
        soundfile.write(path, glide(seconds, 200, 200), RATE)
        return path.read_bytes()

    return make
