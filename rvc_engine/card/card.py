"""The model card of a voice, as data: `card.json`. No torch."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from rvc_engine.card.provenance import Consent, EarlierSave
from rvc_engine.config import TrainingConfig
from rvc_engine.events import EndReason

_SHOWN_APART = frozenset({"version", "sample_rate", "f0", "pitch", "content", "pretrained", "width"})


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class CardFile(_Part):
    """File of the voice."""

    name: str
    kind: str
    """As of the artifact: `voice`, `index`, `speaker_index`, `best`."""
    size_bytes: int
    sha256: str


class CardModel(_Part):
    """The network."""

    version: str
    sample_rate: str
    f0: bool
    """Whether it follows a pitch curve."""
    width: int
    """Hidden channels; 192 is the published size."""
    encoder: str
    """Content encoder; conversion must use the same."""
    encoder_note: str | None
    """Programs that convert correctly with it; null: all do."""
    pitch_estimator: str
    """Estimator of the pitch curves in training."""
    speakers: dict[int, str]
    """Names of the speakers by id, where there are several."""


class CardData(_Part):
    """The recordings."""

    dataset: str | None
    """Name of the dataset on the server."""
    recordings: int | None
    """Number of files; null for a folder that another program prepared."""
    seconds: float
    """Duration without silence."""
    recordings_sha256: str | None
    """Hash over the contents of all recordings."""
    upload_sha256: str | None
    """Hash of the uploaded bytes."""


class CardBaseFile(_Part):
    """File of base weights."""

    name: str
    sha256: str
    """The first 12 digits where the file was no longer there."""


class CardBase(_Part):
    """Start of training."""

    kind: Literal["published", "own", "save", "pair", "none"]
    """published: base weights that RVC publishes. own: the user's own. save: the save of an earlier job. pair: a G_/D_
    pair that was in the folder. none: from scratch."""
    description: str
    files: list[CardBaseFile] = []
    start_from: EarlierSave | None = None


class CardEnd(_Part):
    """End of a training that ended by itself (`total_epochs=auto`); the voice is then the best save."""

    reason: EndReason
    epochs: int
    """Epochs trained until then."""
    steps: int


class CardTraining(_Part):
    """The training."""

    epochs: int
    """Epochs of the save that is the voice."""
    steps: int
    seconds: float
    """Training time over all attempts."""
    device: str
    """Device of the attempt that finished."""
    settings: dict[str, Any]
    """Training options that differ from the defaults, besides those shown elsewhere."""
    end: CardEnd | None = None
    """Null unless total_epochs=auto."""


class CardScores(_Part):
    """Scores of a save."""

    step: int
    epoch: int
    values: dict[str, float]
    """By metric, as in evaluations: `eval/mel`, `eval/f0_cents`, ..., and `quality/...` of conversions (as in the event
    `quality_scored`)."""


class CardEvaluation(_Part):
    """Evaluation of the saves."""

    held_out: bool
    """Whether it was on clips that were not trained on."""
    best: CardScores | None
    last: CardScores | None
    curve: list[tuple[int, float]] = []
    """Step and `eval/mel` of each evaluation, for total_epochs=auto."""


class Card(_Part):
    """Model card of a voice."""

    format: Literal[1] = 1
    voice: str
    job_id: str | None
    made_at: datetime
    software: str
    files: list[CardFile]
    model: CardModel
    data: CardData
    base: CardBase
    training: CardTraining
    evaluation: CardEvaluation | None
    """Null where no save was evaluated."""
    consent: Consent | None
    """Consent of the speaker; null where none was recorded."""

    def to_json(self) -> str:
        """Contents of `card.json`."""
        return self.model_dump_json(indent=2) + "\n"


def differing_settings(config: TrainingConfig) -> dict[str, Any]:
    """Training options that differ from the defaults and have no place of their own in a card."""
    chosen, usual = config.model_dump(mode="json"), TrainingConfig().model_dump(mode="json")
    return {name: value for name, value in chosen.items() if value != usual[name] and name not in _SHOWN_APART}


def software_name() -> str:
    """Name and version of this software."""
    return f"rvc-train {version('rvc-train')}"


def now() -> datetime:
    """The present time in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def base_description(kind: str, origin: str | None, files: Sequence[CardBaseFile]) -> str:
    """The start of training in words."""
    match kind:
        case "none":
            return "from scratch, without base weights"
        case "pair":
            return "a G_/D_ pair that was in the run's folder"
        case "published":
            return "published base weights"
    return origin or f"base weights of the user's own: {', '.join(file.name for file in files)}"
