"""Configuration of a training run: one frozen object, passed on whole and saved beside the checkpoint.

The same object is the `config` of a job over HTTP and the options of the command line. Devices, threads and folders are
not part of it: see `rvc_engine.machine.Machine`. This module imports no torch.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from rvc_engine.names.base_weights import PRETRAINED_WORDS, check_base_weights
from rvc_engine.names.voices import check_voice_name

Version = Literal["v1", "v2"]
SampleRate = Literal["32k", "40k", "48k"]
PitchEstimator = Literal["swift", "rmvpe", "fcpe", "crepe", "crepe-tiny", "dio", "harvest", "pm"]
ContentEncoder = Literal["contentvec", "spin", "spin-v2", "whisper-tiny", "local"]
Width = Literal[24, 48, 96, 192]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16"]
MAX_BATCH_SIZE = 256
MAX_EPOCHS = 20_000

NUM_SPEAKERS = 109
"""Rows of the published speaker embedding."""

VoiceName = Annotated[str, AfterValidator(check_voice_name), Field(json_schema_extra={"minLength": 1})]


def _check_batch_size(value: object) -> object:
    """Raise one error instead of pydantic's one per type of the union."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_BATCH_SIZE
    if not (is_number or value == "auto"):
        raise ValueError(f"give a number of clips from 1 to {MAX_BATCH_SIZE}, or auto")
    return value


BatchSize = Annotated[
    Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE)] | Literal["auto"], BeforeValidator(_check_batch_size)
]


def _check_total_epochs(value: object) -> object:
    """Raise one error instead of pydantic's one per type of the union."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_EPOCHS
    if not (is_number or value == "auto"):
        raise ValueError(f"give a number of epochs from 1 to {MAX_EPOCHS}, or auto")
    return value


TotalEpochs = Annotated[
    Annotated[int, Field(ge=1, le=MAX_EPOCHS)] | Literal["auto"], BeforeValidator(_check_total_epochs)
]


def _read_speakers(value: object) -> object:
    """Parse `anna=0,bob=1` into a mapping, and raise one error instead of pydantic's one per type."""
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
        'set one, or folders, or the number of each folder\'s speaker, such as anna=0,bob=1 (in JSON {"anna": 0}); '
        f"numbers range from 0 to {NUM_SPEAKERS - 1}"
    )


def _is_speaker(name: object, number: object) -> bool:
    is_number = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < NUM_SPEAKERS
    return is_number and isinstance(name, str) and bool(name) and "/" not in name


SpeakerChoice = Annotated[Literal["one", "folders"] | dict[str, int], BeforeValidator(_read_speakers)]


Pretrained = Annotated[
    Annotated[str, AfterValidator(check_base_weights)],
    Field(json_schema_extra={"examples": ["auto", "none"], "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$"}),
]


class TrainingConfig(BaseModel):
    """Every setting of a run. Defaults are the reference's where it has one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    version: Version = "v2"
    """Format of the voice: v2 has 768 content features per frame, v1 256."""
    sample_rate: SampleRate = "40k"
    """Sample rate of the voice: 32k, 40k or 48k."""
    f0: bool = True
    """Whether the voice follows a pitch curve (needed for singing, better for speech)."""
    slicing: Literal["auto", "fixed", "none"] = "auto"
    """Cutting of recordings into clips. auto: at pauses, as RVC does, without the silence, into clips of at most 4 s.
    fixed: every slice_seconds, whether there is a pause or not. none: each recording is one clip, for datasets that
    were cut before; of at most 15 s."""
    slice_seconds: float = Field(default=3.0, ge=0.5, le=10)
    """Length of the clips with slicing=fixed."""
    slice_overlap_seconds: float = Field(default=0.3, ge=0, le=2)
    """Time that neighbouring clips share with slicing=fixed; less than half of slice_seconds."""
    normalize: bool = True
    """Whether each clip is brought near to a common loudness, as RVC does. Without it clips keep their loudness, for
    recordings that were mastered before; loud and quiet ones then differ in the voice too."""
    pitch: PitchEstimator = "swift"
    """Estimator of the pitch curve. swift: a small, fast and robust model that comes with the package. dio: without a
    model, fast. harvest: without a model, slow. After `rvc-engine weights fetch NAME`: rmvpe, RVC's default, a large
    model; fcpe, a fast one; crepe, very slow without a GPU; crepe-tiny. pm: Praat; needs the extra `pm` (GPL-3)."""
    content: ContentEncoder = "contentvec"
    """Encoder of the speech content. contentvec: the one that RVC and Applio convert with. spin, spin-v2: in Applio too
    (select the encoder there), not in RVC. whisper-tiny comes with the package and needs no download, but a voice made
    with it converts correctly only with `rvc-engine convert`. local: a HuBERT of your own, in the folder that the
    machine's administrator sets (--content-folder, RVC_TRAIN_CONTENT_FOLDER)."""
    pretrained: Pretrained = "auto"
    """Base weights to start from: auto uses the published pair for version, rate and f0; none trains from scratch,
    which needs far more recordings and time for a good voice; or the name of base weights of your own."""
    batch_size: BatchSize = 4
    """Clips per GPU (or process) and micro-batch. A step uses batch_size * accumulate_steps * GPUs clips. auto: as many
    as fit into the GPU's memory with room to spare, at most 32 and at most a quarter of all clips; 4 on a CPU."""
    accumulate_steps: int = Field(default=1, ge=1, le=256)
    """Micro-batches whose gradients are accumulated for one step: a larger batch in the memory of a small one, with the
    same result."""
    total_epochs: TotalEpochs = 300
    """Passes over the dataset; each clip is used once per epoch. auto: until saves no longer improve on held-out clips
    (see stop_share and max_epochs); the voice is then the best save and not the last."""
    stop_share: float = Field(default=0.3, ge=0.05, le=0.9)
    """With total_epochs=auto, training ends once this share of all its steps has brought no better save: with 0.3 at
    step 1000 if the best was at step 700. Scores are smoothed, and at least 8 evaluations are made."""
    max_epochs: int = Field(default=1000, ge=1, le=MAX_EPOCHS)
    """Most epochs with total_epochs=auto, whatever the scores."""
    max_train_seconds: float | None = Field(default=None, gt=0, le=30 * 86_400)
    """Time limit of training in seconds, summed over all attempts of a run; training ends after the current step, and
    not before 8 steps. None: train all epochs."""
    save_every_epochs: int = Field(default=50, ge=1, le=20_000)
    """Epochs between saves of a G_/D_ pair in the reference's format; one more is saved at the end."""
    save_only_latest: bool = False
    """Keep one G_/D_ pair (named 2333333, as in the reference) instead of one per save."""
    save_every_weights: bool = False
    """Also export a small `<name>_e<epoch>_s<step>.pth` at every save."""
    keep_saves: Literal["all", "latest", "best"] = "all"
    """Saves kept in the run's folder once a newer one is safely on disk: all, only the latest, or the latest and the
    `num_best_saves` best by evaluation. Checkpoints that an interrupted run resumes from are kept in any case."""
    num_best_saves: int = Field(default=3, ge=1, le=100)
    """Number of best saves kept with keep_saves=best."""
    evaluate: Literal["auto", "always", "never"] = "auto"
    """Whether saves are evaluated on clips held out from training (5 %, at most 8; with less than 3 minutes of speech
    none are held out, and training clips are used). auto: unless that takes over 10 % of the training time, which
    total_epochs=auto does not heed. never: no clips are held out either."""
    evaluate_every_epochs: int | None = Field(default=None, ge=1, le=20_000)
    """Epochs between evaluations, in addition to those at saves. None: only at saves,
    and with total_epochs=auto about every twentieth of the steps so far."""
    precision: PrecisionChoice = "auto"
    """Number format of matrix products and convolutions: fp32, bf16 or fp16 (with loss scaling). auto: fp16 on NVIDIA's
    GPUs with tensor cores, else bf16 where it is native, else fp32. Weights, spectra and losses are fp32."""
    tf32: bool = True
    """Allow TF32 on a GPU (Ampere or newer): the inputs of float32 products and convolutions, mel spectra of the losses
    included, are rounded to 10 bits, about 3 decimal digits instead of 7; several times faster."""
    graphs: Literal["auto", "off"] = "auto"
    """Whether steps run as CUDA graphs. auto: on an NVIDIA GPU, one launch a step instead of thousands; where that
    fails, the engine starts again without them. off: one kernel after another, for a driver that does not bear them."""
    compile: bool = False
    """Compile decoder and discriminators with torch.compile for training: fewer kernels in a step, for minutes of
    compiling at the start of a run, the same results but for rounding. It needs a compiler on the machine: Triton and a
    C compiler for a GPU, a C++ compiler for a CPU; without one, training goes on as if off, with a warning."""
    gradient_checkpointing: bool = False
    """Recompute activations of the generator in the backward pass instead of storing them: less memory, more time
    (about one forward pass per step), the same gradients."""
    cache_data_on_device: bool = False
    """Keep all clips in the device's memory if they fit into half of what is free (about 20 MB per minute). On a GPU
    this is always tried; with this setting, a failure is reported. Clips that do not fit are loaded one batch ahead."""
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    """Steps between recovery checkpoints. None: every 5 minutes, or less often where saving would take over 3 % of the
    time."""
    learning_rate: float = Field(default=1e-4, gt=0, le=0.1)
    """Learning rate of AdamW in the first epoch, for generator and discriminator."""
    lr_decay: float = Field(default=0.999875, gt=0, le=1)
    """Factor on the learning rate after each epoch."""
    seed: int = Field(default=1234, ge=0, le=2**32 - 1)
    """Seed of initial weights, clip order, segments and noise."""
    speaker_id: int = Field(default=0, ge=0, lt=NUM_SPEAKERS)
    """Row of the speaker embedding to train, for a voice with one speaker."""
    speakers: SpeakerChoice = "one"
    """Speakers of the recordings. one: a single speaker, speaker_id. folders: each top-level folder of the dataset is a
    speaker; a folder named by a number has that number, the others are numbered in the order of their names. Or the
    number of each folder's speaker: anna=0,bob=1. With several speakers, an index for each is also built."""
    width: Width = 192
    """Hidden channels of the generator; the other layers of both models scale with it. 192 is the published size and
    the only one with published base weights. Smaller sizes train fast and sound rough: for trials."""

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.version == "v1" and self.content not in {"contentvec", "local"}:
            raise ValueError(
                f"content={self.content} gives 768 features per frame, and version=v1 takes 256; use version=v2"
            )
        if self.slicing != "fixed" and (self.slice_seconds, self.slice_overlap_seconds) != (3.0, 0.3):
            raise ValueError(
                "slice_seconds and slice_overlap_seconds are for slicing=fixed; set that, or leave them out"
            )
        if self.slice_overlap_seconds > self.slice_seconds / 2:
            raise ValueError(
                f"slice_overlap_seconds={self.slice_overlap_seconds:g} is more than half of slice_seconds="
                f"{self.slice_seconds:g}; use a shorter overlap"
            )
        if self.speakers != "one" and self.speaker_id != 0:
            raise ValueError("speaker_id is for speakers=one; with several, name them: speakers=anna=0,bob=1")
        if self.total_epochs == "auto" and self.evaluate == "never":
            raise ValueError("total_epochs=auto needs evaluations; set evaluate=auto or always")
        if self.total_epochs != "auto" and (self.stop_share, self.max_epochs) != (0.3, 1000):
            raise ValueError("stop_share and max_epochs are for total_epochs=auto; set that, or leave them out")
        if self.keep_saves == "best" and self.evaluate == "never":
            raise ValueError("keep_saves=best needs evaluations; set evaluate=auto or always")
        if self.width != 192 and self.pretrained == "auto":
            raise ValueError(f"no base weights exist for width={self.width}; set pretrained=none, or width=192")
        return self

    @property
    def epoch_limit(self) -> int:
        """Epochs of training, at most."""
        return self.max_epochs if self.total_epochs == "auto" else self.total_epochs

    @property
    def uses_published_weights(self) -> bool:
        """Whether training starts from published weights, as far as there are no files of the user's own."""
        return self.pretrained != "none" and self.width == 192

    @property
    def own_base_weights(self) -> str | None:
        """Name of the user's own base weights; None for published ones, or none."""
        return None if self.pretrained in PRETRAINED_WORDS else self.pretrained

    @property
    def sample_rate_hz(self) -> int:
        """Sample rate of the voice in Hz."""
        return {"32k": 32_000, "40k": 40_000, "48k": 48_000}[self.sample_rate]

    @property
    def feature_size(self) -> int:
        """Content features per frame."""
        return 256 if self.version == "v1" else 768
