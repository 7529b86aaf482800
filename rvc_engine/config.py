"""What a person may choose about a training run: one frozen object, carried whole and saved beside the checkpoint.

The same object is the `config` of a job over HTTP and the options of the command line. It says nothing about the
machine (devices, threads, folders): that is `rvc_engine.machine.Machine`. This module imports no torch.
"""

import re
import unicodedata
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Version = Literal["v1", "v2"]
SampleRate = Literal["32k", "40k", "48k"]
PitchEstimator = Literal["swift", "rmvpe", "fcpe", "crepe", "crepe-tiny", "dio", "harvest", "pm"]
ContentEncoder = Literal["contentvec", "spin", "spin-v2", "whisper-tiny", "local"]
Width = Literal[24, 48, 96, 192]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16"]
MAX_BATCH_SIZE = 256

MAX_NAME_LENGTH = 100
NUM_SPEAKERS = 109
"""Rows of the published speaker embedding."""

_PATH_SEPARATORS = frozenset("/\\|")
"""The bar separates the paths of a clip in RVC's `filelist.txt`."""


def check_voice_name(name: str) -> str:
    """Return the name in NFC, or raise ValueError with what is wrong with it.

    A voice's name becomes the stem of file names, so it may hold any letters, spaces, dots and quotes, but nothing that
    would make it a path: no slashes, no control characters, no leading dot or dash, no white space at either end.
    """
    name = unicodedata.normalize("NFC", name)
    if not name:
        raise ValueError("the name is empty; give the voice a name such as 'anna'")
    if len(name) > MAX_NAME_LENGTH or len(name.encode()) > 200:
        raise ValueError(f"the name is too long; use at most {MAX_NAME_LENGTH} characters (200 bytes in UTF-8)")
    if name != name.strip():
        raise ValueError("the name begins or ends with white space; take it away")
    if name[0] in ".-" or name[-1] == ".":
        raise ValueError("the name begins with a dot or a dash, or ends with a dot; choose another")
    bad = sorted(
        {c for c in name if c in _PATH_SEPARATORS or unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
    )
    if bad:
        raise ValueError(f"the name holds characters that file names cannot: {', '.join(map(repr, bad))}")
    return name


VoiceName = Annotated[str, AfterValidator(check_voice_name)]


def voice_file_stem(name: str) -> str:
    """The stem of a voice's file names: the name itself, but for what hides a file from RVC or Applio.

    RVC never lists an index with `trained` in its name, in capitals or not, and both rewrite the word in the path at
    conversion, so a voice called `pretrained_x` would lose its index; its files are called `pre-train-ed_x`. Applio
    takes a file whose name starts with `G_` or `D_` for a checkpoint: the files of a voice `D_x` are called `D-x`.
    """
    shown = re.sub("(train)(ed)", r"-\1-\2", name, flags=re.IGNORECASE).lstrip("-")  # a dash begins an option
    return re.sub("^([GD])_", r"\1-", shown)


def _check_batch_size(value: object) -> object:
    """One sentence for what would else be one fault for each of the two kinds."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_BATCH_SIZE
    if not (is_number or value == "auto"):
        raise ValueError(f"give a number of clips from 1 to {MAX_BATCH_SIZE}, or auto")
    return value


BatchSize = Annotated[
    Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE)] | Literal["auto"], BeforeValidator(_check_batch_size)
]


def _read_speakers(value: object) -> object:
    """`anna=0,bob=1` as a mapping, and one sentence for what would else be a fault for each of the kinds."""
    if isinstance(value, str) and "=" in value:
        pairs = [pair.rpartition("=") for pair in value.split(",")]
        value = {name.strip(): int(number) if number.strip().isdecimal() else number for name, _, number in pairs}
        if len(value) < len(pairs):
            raise ValueError("names a folder twice; name each once, such as anna=0,bob=1")
    if value in ("one", "folders"):
        return value
    if isinstance(value, dict) and value and all(_is_speaker(name, number) for name, number in value.items()):
        return value
    raise ValueError(
        'say one, or folders, or the number of each folder\'s speaker, such as anna=0,bob=1 (in JSON {"anna": 0}); '
        f"numbers go from 0 to {NUM_SPEAKERS - 1}"
    )


def _is_speaker(name: object, number: object) -> bool:
    is_number = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < NUM_SPEAKERS
    return is_number and isinstance(name, str) and bool(name) and "/" not in name


SpeakerChoice = Annotated[Literal["one", "folders"] | dict[str, int], BeforeValidator(_read_speakers)]


class TrainingConfig(BaseModel):
    """Every choice about a run. Defaults are the reference's where it has one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    version: Version = "v2"
    """Format of the voice: v2 reads 768 content features a frame, v1 256."""
    sample_rate: SampleRate = "40k"
    """Sample rate of the voice: 32k, 40k or 48k."""
    f0: bool = True
    """Whether the voice follows a pitch curve (needed for singing, better for speech)."""
    pitch: PitchEstimator = "swift"
    """Estimator of the pitch curve. swift: a small net that comes with the package, fast, robust. dio: no net, fast.
    harvest: no net, slow. After `rvc-engine weights fetch NAME`: rmvpe, RVC's own, a large net; fcpe, a fast one;
    crepe, very slow without a GPU; crepe-tiny. pm: Praat, for which the extra `pm` must be installed (GPL-3)."""
    content: ContentEncoder = "contentvec"
    """Encoder of what is said. contentvec is what RVC and Applio convert with. spin, spin-v2: Applio has them too (it
    must be told), RVC does not. whisper-tiny comes with the package and needs no download, but a voice made with it
    converts rightly only with `rvc-engine convert`. local: a HuBERT of your own, in the folder that whoever runs the
    machine names (--content-folder, RVC_TRAIN_CONTENT_FOLDER)."""
    pretrained: Literal["auto", "none"] = "auto"
    """Published base weights to start from: auto takes the pair for version, rate and f0; none trains from scratch,
    which needs far more recordings and time for a good voice."""
    batch_size: BatchSize = 4
    """Clips per GPU (or process) and micro-batch. A step learns from batch_size * accumulate_steps * GPUs clips. auto:
    the most that fit into the GPU's memory with room to spare, at most 32 and a quarter of all clips; 4 on a CPU."""
    accumulate_steps: int = Field(default=1, ge=1, le=256)
    """Micro-batches whose gradients are added up for one step: a larger batch in the memory of a small one. The result
    is that of the whole batch at once."""
    total_epochs: int = Field(default=300, ge=1, le=20_000)
    """Passes over the dataset; each clip comes once per epoch."""
    max_train_seconds: float | None = Field(default=None, gt=0, le=30 * 86_400)
    """Seconds of training after which it ends early, at the end of a step and not before 8 steps. The time counts over
    all attempts of a run. None: train all epochs."""
    save_every_epochs: int = Field(default=50, ge=1, le=20_000)
    """A G_/D_ pair in the reference's format is saved every so many epochs, and at the end."""
    save_only_latest: bool = False
    """Keep one G_/D_ pair (named 2333333, as the reference does) in place of one per save."""
    save_every_weights: bool = False
    """Also export a small `<name>_e<epoch>_s<step>.pth` at every save."""
    keep_saves: Literal["all", "latest", "best"] = "all"
    """Which saves stay in the run's folder once a newer one is safely on disk: all of them, only the latest, or the
    latest and the `num_best_saves` best by their evaluation. What an interrupted run goes on from stays in any case."""
    num_best_saves: int = Field(default=3, ge=1, le=100)
    """How many of the best saves keep_saves=best keeps."""
    evaluate: Literal["auto", "always", "never"] = "auto"
    """Whether saves are measured and rendered on clips held out from training (5 %, at most 8; none under 3 minutes of
    speech, where training clips serve instead). auto: not where it would take over 10 % of the training time; never:
    also hold nothing out."""
    evaluate_every_epochs: int | None = Field(default=None, ge=1, le=20_000)
    """Evaluate every so many epochs as well. None: only at saves."""
    precision: PrecisionChoice = "auto"
    """Number format of the nets' products and convolutions: fp32, bf16 or fp16 (scaled against underflow). auto: bf16
    where the device has it natively, else fp16 on a GPU and fp32 on a CPU. Weights, spectra and losses are fp32."""
    tf32: bool = True
    """Let a GPU (Ampere or newer) round the inputs of float32 products and convolutions to 10 bits: several times
    faster, and about 3 decimal digits of precision in them in place of 7, in the mel spectra of the losses too."""
    gradient_checkpointing: bool = False
    """Keep less of the generator's forward pass and compute it again going backward: less memory, more time (about a
    forward pass a step), the same gradients."""
    cache_data_on_device: bool = False
    """Keep every clip in the device's memory when the dataset fits into half of what is free (about 20 MB a minute). On
    a GPU this is tried in any case. Where it is asked for and does not fit, that is said; the clips are then brought
    one batch ahead."""
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    """A recovery checkpoint every so many steps. None: every 5 minutes, or less often where saving would cost more than
    3 % of the time."""
    learning_rate: float = Field(default=1e-4, gt=0, le=0.1)
    """AdamW's learning rate at the first epoch, for both nets."""
    lr_decay: float = Field(default=0.999875, gt=0, le=1)
    """Factor on the learning rate after each epoch."""
    seed: int = Field(default=1234, ge=0, le=2**32 - 1)
    """Seed of initial weights, clip order, segments and noise."""
    speaker_id: int = Field(default=0, ge=0, lt=NUM_SPEAKERS)
    """Row of the speaker embedding that this voice trains, where it has one speaker."""
    speakers: SpeakerChoice = "one"
    """Whose voices the recordings are. one: all are one speaker's, speaker_id. folders: each top-level folder of the
    dataset is a speaker; a folder whose name is a number is that speaker, the others are numbered by their names. Or
    the number of each folder's speaker: anna=0,bob=1. An index for each speaker is made too."""
    width: Width = 192
    """Channels of the generator's hidden layers; the rest of both nets scales with it. 192 is the published size and
    the only one that base weights fit. Smaller ones train fast and sound rough: for trying things out."""

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.version == "v1" and self.content not in {"contentvec", "local"}:
            raise ValueError(
                f"content={self.content} gives 768 features a frame and version=v1 takes 256; use version=v2"
            )
        if self.speakers != "one" and self.speaker_id != 0:
            raise ValueError("speaker_id is for speakers=one; with several, name them: speakers=anna=0,bob=1")
        if self.keep_saves == "best" and self.evaluate == "never":
            raise ValueError("keep_saves=best needs to know which save is the best; set evaluate=auto or always")
        if self.width != 192 and self.pretrained != "none":
            raise ValueError(f"no base weights exist for width={self.width}; set pretrained=none, or width=192")
        return self

    @property
    def sample_rate_hz(self) -> int:
        """Sample rate of the voice in Hz."""
        return {"32k": 32_000, "40k": 40_000, "48k": 48_000}[self.sample_rate]

    @property
    def feature_size(self) -> int:
        """Content features per frame."""
        return 256 if self.version == "v1" else 768
