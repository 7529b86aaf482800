"""The manifest of a bundle, the zip in which a voice moves to another server: what its files are, and their hashes.

    manifest.json            `Manifest`
    files/<name>             artifacts: the voice, its index, its card
    saves/G_<number>.pth     the last save, with which another training can begin; and D_<number>.pth
    previews/<name>          clips converted with the voice, their pictures, the recorded clips
    recordings.zip           the recordings, where they were asked for

A bundle is not compressed: nothing in it would become smaller, and what is larger than the bundle cannot be in it.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rvc_engine.config import VoiceName
from rvc_engine.names.voices import check_dataset_name, storable
from rvc_train.schemas.jobs import MAX_LABELS, LabelKey, LabelValue
from rvc_train.schemas.voices.voices import Notes

FORMAT = 1
MANIFEST = "manifest.json"
RECORDINGS = "recordings.zip"
MAX_FILES = 20_000
"""Files of a bundle."""
MAX_MANIFEST_BYTES = 16 << 20
NO_HASH = "0" * 64
"""In place of a hash until the file is read."""

_NUMBER = Field(ge=0, lt=2**53)
_Number = Annotated[int, _NUMBER]


def _check_file_name(name: str) -> str:
    if name != storable(name) or len(name.encode()) > 250:
        raise ValueError(f"{name!r} is not the name of a file")
    return name


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC) if time.tzinfo is not None else time.replace(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError("this time is in no year from 1 to 9999 in UTC") from error


_Time = Annotated[datetime, AfterValidator(_in_utc)]
FileName = Annotated[str, AfterValidator(_check_file_name)]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=MAX_LABELS)]
_Text = Annotated[str, Field(max_length=300, pattern=r"^[^\x00]*$")]
_Scores = Annotated[dict[_Text, Annotated[float, Field(allow_inf_nan=False)]], Field(max_length=100)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)  # fields of a newer version are passed over


class BundledFile(_Part):
    """A file of a bundle."""

    path: str = Field(max_length=300)
    """Its name in the zip."""
    size: _Number
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class BundledArtifact(_Part):
    """A file for download."""

    kind: str = Field(pattern="^[a-z][a-z_]{0,29}$")
    name: FileName
    file: BundledFile


class BundledSave(_Part):
    """The last save."""

    number: Annotated[int, Field(ge=0, lt=10**9)]
    generator: BundledFile
    discriminator: BundledFile


class BundledEvaluation(_Part):
    """An evaluated save."""

    step: _Number
    epoch: _Number
    values: _Scores
    held_out: bool
    num_clips: _Number
    is_best: bool
    created_at: _Time


class BundledPreview(_Part):
    """A clip converted at a save."""

    step: _Number
    epoch: _Number
    clip: Annotated[int, Field(ge=0, lt=10**9)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    scores: _Scores
    audio: BundledFile
    picture: BundledFile
    recording: BundledFile
    created_at: _Time


class BundledVoice(_Part):
    """Settings of the voice by people."""

    name: VoiceName
    notes: Notes
    labels: Labels


class BundledStart(_Part):
    """The save of an earlier job, on the server of the training, that this one began with."""

    job_id: str = Field(max_length=64)
    voice: _Text
    save: _Number | None = None


class BundledVersion(_Part):
    """The version, and the job that it was."""

    number: _Number
    job_id: str = Field(max_length=64, pattern="^job_[0-9a-f]{32}$")
    config: dict[str, Any] = Field(max_length=200)
    labels: Labels
    epoch: _Number | None
    total_epochs: _Number | None
    step: _Number | None
    total_steps: _Number | None
    start_from: BundledStart | None
    created_at: _Time
    finished_at: _Time | None


class BundledDataset(_Part):
    """The dataset that the voice was trained on."""

    name: Annotated[str, AfterValidator(check_dataset_name)]
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    num_files: _Number
    recordings: BundledFile | None
    """The zip of the recordings, where they are in the bundle."""


class Manifest(_Part):
    """The manifest."""

    format: Literal[1]
    software: _Text
    """Version of rvc-train that made the bundle."""
    made_at: _Time
    voice: BundledVoice
    version: BundledVersion
    dataset: BundledDataset
    artifacts: list[BundledArtifact] = Field(max_length=1000)
    save: BundledSave | None
    evaluations: list[BundledEvaluation] = Field(max_length=20_000)
    previews: list[BundledPreview] = Field(max_length=MAX_FILES)

    def files(self) -> dict[str, BundledFile]:
        """All files but the manifest, by name. Files of previews are shared. Raises ValueError for two of one name."""
        found: dict[str, BundledFile] = {}
        saves = [] if self.save is None else [self.save.generator, self.save.discriminator]
        clips = [file for each in self.previews for file in (each.audio, each.picture, each.recording)]
        recordings = [] if self.dataset.recordings is None else [self.dataset.recordings]
        for file in [*(each.file for each in self.artifacts), *saves, *clips, *recordings]:
            if found.setdefault(file.path, file) != file or file.path == MANIFEST:
                raise ValueError(f"{file.path!r} stands for two files")
        return found

    def voice_file(self) -> BundledArtifact:
        """The voice itself."""
        return next(each for each in self.artifacts if each.kind == "voice")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(each.kind == "voice" for each in self.artifacts):
            raise ValueError("there is no file of the kind `voice`")
        for what, keys in (
            ("artifacts", [each.name for each in self.artifacts]),
            ("evaluations", [each.step for each in self.evaluations]),
            ("previews", [(each.step, each.clip) for each in self.previews]),
        ):
            if len(set(keys)) != len(keys):
                raise ValueError(f"two of the {what} are the same")
        if sum(each.is_best for each in self.evaluations) > 1:
            raise ValueError("two saves are the best")
        self.files()
        return self
