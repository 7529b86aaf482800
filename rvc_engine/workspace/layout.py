"""The paths of a workspace, its stage markers and its lock."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock

from rvc_engine.config import Version
from rvc_engine.environment.files import unlink
from rvc_engine.errors import WorkspaceBusy
from rvc_engine.events import Stage
from rvc_engine.names.voices import voice_file_stem
from rvc_engine.workspace.atomic_files import write_atomically

SECONDS_FOR_TRAINER_TO_END = 30.0
"""Time for the training process to end after its engine was killed; it ends at once unless the machine is busy."""


def fingerprint_of(*parts: object) -> str:
    """A short stable hash of JSON-like values, which identifies the inputs of a stage."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Workspace:
    """The folder of one run."""

    root: Path
    voice: str
    """The voice's name, as `check_voice_name` allows it."""
    version: Version = "v2"

    @property
    def stem(self) -> str:
        """Stem of the voice's file names."""
        return voice_file_stem(self.voice)

    def _existing(self, name: str, applio_name: str) -> Path:
        """A folder by RVC's name, or by Applio's where the workspace has only that."""
        rvc, applio = self.root / name, self.root / applio_name
        return applio if applio.is_dir() and not rvc.is_dir() else rvc

    @property
    def slices(self) -> Path:
        """`<i>_<j>.wav`, mono float32 at the voice's rate."""
        return self._existing("0_gt_wavs", "sliced_audios")

    @property
    def slices_16k(self) -> Path:
        """The same slices at 16 kHz, mono float32."""
        return self._existing("1_16k_wavs", "sliced_audios_16k")

    @property
    def slicing_result(self) -> Path:
        """`slicing/result.json`: the time that was kept and dropped of each recording."""
        return self.root / "slicing" / "result.json"

    @property
    def speakers(self) -> Path:
        """`speakers.json`: the folder of each recording, which determines its speaker."""
        return self.root / "speakers.json"

    @property
    def coarse_f0(self) -> Path:
        """`<i>_<j>.wav.npy`: pitch bins 1..255, one per 10 ms."""
        return self._existing("2a_f0", "f0")

    @property
    def f0_hz(self) -> Path:
        """`<i>_<j>.wav.npy`: pitch in Hz, one per 10 ms, gaps interpolated."""
        return self._existing("2b-f0nsf", "f0_voiced")

    @property
    def features(self) -> Path:
        """`<i>_<j>.npy`: content features, float32, one row per 20 ms."""
        return self._existing("3_feature256" if self.version == "v1" else "3_feature768", "extracted")

    @property
    def mute_features(self) -> Path:
        """Content features of 3.0 s of silence, from the run's own encoder."""
        return self.root / "mute" / "mute.npy"

    @property
    def filelist(self) -> Path:
        """`filelist.txt`: one line per clip, in the format of RVC's trainer."""
        return self.root / "filelist.txt"

    @property
    def hyperparameters(self) -> Path:
        """`config.json`: hyperparameters of the model and the data, in RVC's format."""
        return self.root / "config.json"

    @property
    def base_weights_choice(self) -> Path:
        """`base_weights.json`: base weights of the user's own, or the choice where published ones were missing."""
        return self.root / "base_weights.json"

    @property
    def recovery(self) -> Path:
        """Recovery checkpoints and their manifest."""
        return self.root / "recovery"

    @property
    def previews(self) -> Path:
        """Previews of the voice at its saves: `e<epoch>_s<step>_<n>.flac` and `.png`, `recording_<n>.flac`."""
        return self.root / "previews"

    @property
    def weights(self) -> Path:
        """The exported files: `<voice>.pth`, `<voice>.index`."""
        return self.root / "weights"

    @property
    def voice_file(self) -> Path:
        """The exported voice."""
        return self.weights / f"{self.stem}.pth"

    @property
    def best_file(self) -> Path:
        """The voice at its best save. RVC and Applio pair no index with this name automatically."""
        return self.weights / f"{self.stem}_best.pth"

    @property
    def index_file(self) -> Path:
        """The exported index."""
        return self.weights / f"{self.stem}.index"

    @property
    def card_json(self) -> Path:
        """The model card, for programs."""
        return self.weights / "card.json"

    @property
    def card_page(self) -> Path:
        """The model card, in Markdown."""
        return self.weights / "card.md"

    def speaker_index_files(self) -> list[Path]:
        """The exported index of each speaker, where the voice has several: `<voice>-<speaker>.index`."""
        return sorted(path for path in self.weights.glob("*.index") if path.name.startswith(f"{self.stem}-"))

    @property
    def total_features(self) -> Path:
        """All content features in one array."""
        return self.root / "total_fea.npy"

    @property
    def log(self) -> Path:
        """The full log of the run."""
        return self.root / "train.log"

    def _marker(self, stage: Stage) -> Path:
        return self.root / "stages" / f"{stage}.json"

    def is_done(self, stage: Stage, fingerprint: str) -> bool:
        """Whether the stage was completed with these inputs."""
        return self._marked(stage, "fingerprint") == fingerprint

    def fingerprint(self, stage: Stage) -> str | None:
        """The fingerprint of the inputs that the stage was completed with; None when it was not."""
        return self._marked(stage, "fingerprint")

    def made_with(self, stage: Stage) -> str | None:
        """The `made_with` that was passed to `mark_done`; None when the stage was not completed."""
        return self._marked(stage, "made_with")

    def _marked(self, stage: Stage, key: str) -> str | None:
        try:
            value = json.loads(self._marker(stage).read_text(encoding="utf-8"))[key]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return value if isinstance(value, str) else None

    def mark_done(self, stage: Stage, fingerprint: str, made_with: str = "") -> None:
        """Mark the stage as complete. Call after its last file is on disk."""
        marks = {"fingerprint": fingerprint, "made_with": made_with}
        write_atomically(self._marker(stage), json.dumps(marks).encode())

    def mark_undone(self, stage: Stage) -> None:
        """Remove the mark that the stage is complete. Call before changing its files."""
        unlink(self._marker(stage))

    @contextlib.contextmanager
    def lock(self, wait_seconds: float = 0) -> Iterator[None]:
        """Lock the workspace for this process; the operating system releases the lock when the process dies.

        Raises WorkspaceBusy when another engine still holds the lock after `wait_seconds`.
        """
        with self._locked(".lock", wait_seconds):
            self._remove_temporary_files()
            yield

    def training_lock(self) -> contextlib.AbstractContextManager[None]:
        """Lock for the training process, which may be a child of the one that holds `lock` and may outlive it briefly.

        Raises WorkspaceBusy when an earlier training process does not end.
        """
        return self._locked(".training.lock", SECONDS_FOR_TRAINER_TO_END)

    @contextlib.contextmanager
    def _locked(self, name: str, wait_seconds: float) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.root / name, timeout=wait_seconds)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise WorkspaceBusy(
                f"another engine is running in {self.root}; wait for it to end, or stop it, then start again"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _remove_temporary_files(self) -> None:
        """Delete half-written files of an engine that was killed; a checkpoint's can be a gigabyte."""
        for folder in (self.root, self.recovery, self.weights, self.previews):
            for path in folder.glob(".*.tmp"):
                path.unlink(missing_ok=True)

    def empty(self, folder: Path) -> None:
        """Delete a stage's folder and create it empty."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
