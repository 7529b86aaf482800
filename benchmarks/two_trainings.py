"""Training on a preprocessed folder, step by step: ours, and the reference's method with the same models.

The plain version of the reference is RVC WebUI's training on a GPU: clips and stored spectrograms read from files by
loader processes and copied to the device; float16 autocast with one gradient scaler (float32 on a CPU); separate
discriminator passes for real and fake segments, with autograd recording of the second pass over real ones; unused
weight gradients of the discriminators in the generator's backward pass; gradient norms read tensor by tensor; AdamW
with PyTorch's defaults.
"""

from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.utils.data import DataLoader, Dataset

from rvc_engine.audio.mel import log_mel, spectrogram
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.precision import Precision, use_tf32
from rvc_engine.compute.process_group import SINGLE_PROCESS
from rvc_engine.config import TrainingConfig
from rvc_engine.data.batch import Batch
from rvc_engine.data.clips import Clip, ClipFiles, epoch_batches, list_clips, load_clip
from rvc_engine.data.loader import pad
from rvc_engine.hyperparameters import BETAS, EPSILON, MEL_WEIGHT, WEIGHT_DECAY, Hyperparameters
from rvc_engine.models import losses
from rvc_engine.models.losses import mel_distance
from rvc_engine.models.synthesizer import Noise, cut_segments
from rvc_engine.reporting import StageReport
from rvc_engine.training.batch_sampler import BatchSampler, GlobalBatch
from rvc_engine.training.cuda_graphs import CudaGraphCapturer, GraphedSteps
from rvc_engine.training.metrics import AsyncMetricReader
from rvc_engine.training.step import BatchTotals, StepInputs, StepResult, draw_starts, training_step
from rvc_engine.workspace.layout import Workspace

LOSSES = StepResult.NAMES[:5]


@dataclass(frozen=True)
class Setting:
    """Settings of both trainings."""

    workspace: Workspace
    """Preprocessed: with slices, pitch and content features."""
    config: TrainingConfig
    device: torch.device
    num_loaders: int = 4
    """Loader processes of the plain version, as in RVC WebUI."""

    @property
    def hparams(self) -> Hyperparameters:
        """Hyperparameters of the models."""
        return Hyperparameters.from_config(self.config)

    def clips(self) -> list[ClipFiles]:
        """All clips of the workspace."""
        return list_clips(self.workspace, self.hparams)[0]


class OurTraining:
    """Steps of the train stage."""

    def __init__(self, setting: Setting, with_graphs: bool = True) -> None:
        self.setting, self.hparams = setting, setting.hparams
        config, device = setting.config, setting.device
        torch.manual_seed(config.seed)
        if device.type == "cuda":
            use_tf32(config.tf32)
        self.state = GanTrainState.build(
            self.hparams, device, config.learning_rate, Precision.choose(config.precision, device)
        )
        self.log: list[str] = []
        report = StageReport("train", lambda event: self.log.append(str(event)))
        self.batches = BatchSampler.from_config(setting.clips(), self.state, config, None, SINGLE_PROCESS, report)
        self.graphs: GraphedSteps | None = None
        if with_graphs and device.type == "cuda":
            batches, recorder = self.batches, CudaGraphCapturer(device)
            self.graphs = GraphedSteps(self.state, recorder, batches.max_frames, batches.batch_sizes)
            batches.micro_batcher.release = self.graphs.release
        self.readings = AsyncMetricReader(device)
        self._given, self._number = self._endless(), 0

    def _endless(self) -> Generator[GlobalBatch, None, None]:
        epoch = 0
        while True:
            epoch += 1
            yield from self.batches.epoch_batches(epoch, 0)

    def close(self) -> None:
        """Stop reading ahead."""
        self._given.close()

    def step(self) -> Tensor:
        """Take a step; returns the five losses, on the device."""
        given = next(self._given)
        assert given.batch is not None
        batch: Batch = given.batch
        seed = self.setting.config.seed * 2**31 + self._number
        rng = torch.Generator(self.setting.device).manual_seed(seed)
        starts = draw_starts(given.lengths, self.hparams.segment_frames, rng)
        noise = Noise.draw(self.hparams, len(given.clips), given.frames, rng)
        whole = BatchTotals(len(given.clips), given.num_frames)

        inputs, micro_batcher = StepInputs(batch, starts, noise), self.batches.micro_batcher
        result = self.graphs.replay(inputs, micro_batcher.limit) if self.graphs else None
        if result is None:
            with self.graphs.warm_up() if self.graphs else nullcontext():
                result = training_step(self.state, batch, starts, noise, whole, micro_batcher)
        self._number += 1
        self.readings.throttle()
        return result.stacked()[: len(LOSSES)]


class _StoredClips(Dataset[tuple[Clip, Tensor]]):
    """Clips with their stored spectrograms, read from files at every access."""

    def __init__(self, clips: list[ClipFiles], hparams: Hyperparameters, folder: Path) -> None:
        self._clips, self._folder = clips, folder
        folder.mkdir(parents=True, exist_ok=True)
        for number, files in enumerate(clips):
            if not self._path(number).is_file():
                wave = load_clip(files).wave.unsqueeze(0)
                torch.save(spectrogram(wave, hparams.n_fft, hparams.hop_length)[0], self._path(number))

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.spec.pt"

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, number: int) -> tuple[Clip, Tensor]:
        spec = torch.load(self._path(number), weights_only=True)
        return load_clip(self._clips[number]), spec[:, : self._clips[number].frames]


@dataclass(frozen=True)
class _Collate:
    """Collate function: pads clips to the longest of them, with their stored spectrograms."""

    hparams: Hyperparameters

    def __call__(self, parts: list[tuple[Clip, Tensor]]) -> Batch:
        clips = [clip for clip, _ in parts]
        frames, hop = max(clip.frames for clip in clips), self.hparams.hop_length
        padded, first = pad(clips, frames, self.hparams), (self.hparams.n_fft - hop) // 2
        return Batch(
            features=padded.content_frames.repeat_interleave(2, dim=1)[:, :frames],
            coarse_f0=padded.coarse_f0,
            f0=padded.f0,
            spec=torch.stack([nn.functional.pad(spec, (0, frames - spec.shape[1])) for _, spec in parts]),
            wave=padded.wave[:, first : first + frames * hop],
            lengths=padded.lengths,
            speakers=padded.speakers,
        )


class PlainTraining:
    """The reference's training, with our models."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.hparams = setting, setting.hparams
        config, device = setting.config, setting.device
        torch.manual_seed(config.seed)
        self.precision = Precision("fp16" if device.type == "cuda" else "fp32", device.type)
        self.state = GanTrainState.build(self.hparams, device, config.learning_rate, self.precision)
        options = {"betas": BETAS, "eps": EPSILON, "weight_decay": WEIGHT_DECAY}
        rate = config.learning_rate
        self.generator_optimizer = torch.optim.AdamW(self.state.synthesizer.parameters(), rate, **options)  # type: ignore[arg-type]
        self.discriminator_optimizer = torch.optim.AdamW(self.state.discriminators.parameters(), rate, **options)  # type: ignore[arg-type]
        self.scaler = GradScaler(device.type, enabled=self.precision.name == "fp16")
        self.clips = setting.clips()
        self.stored = _StoredClips(self.clips, self.hparams, setting.workspace.root / "specs")
        self._given = self._endless()

    def _endless(self) -> Generator[Batch, None, None]:
        lengths, config = [clip.frames for clip in self.clips], self.setting.config
        assert isinstance(config.batch_size, int)
        epoch = 0
        while True:
            epoch += 1
            plan = epoch_batches(lengths, config.batch_size, config.seed, epoch)
            yield from DataLoader(
                self.stored, batch_sampler=plan, num_workers=self.setting.num_loaders, collate_fn=_Collate(self.hparams)
            )

    def close(self) -> None:
        """Stop the loader processes."""
        self._given.close()

    def step(self) -> Tensor:
        """Take a step; returns the five losses, on the device."""
        loaded = next(self._given)
        batch = Batch(*(None if part is None else part.to(self.setting.device) for part in vars(loaded).values()))  # type: ignore[arg-type]
        starts = draw_starts(batch.lengths, self.hparams.segment_frames, self._random())
        noise = Noise.draw(self.hparams, len(batch.lengths), batch.spec.shape[2], self._random())
        with self.precision.autocast():
            out = self.state.synthesizer(
                batch.features, batch.coarse_f0, batch.f0, batch.spec, batch.lengths, batch.speakers, starts, noise
            )
        real = cut_segments(batch.wave.unsqueeze(1), starts * self.hparams.hop_length, self.hparams.segment_samples)
        disc = self._teach_discriminators(real, out.wave.detach())
        target = log_mel(
            cut_segments(batch.spec, starts, self.hparams.segment_frames), self.hparams.sample_rate, self.hparams.n_mels
        )
        kl = losses.kl_sum(out.latent_prior, out.log_std, out.prior_mean, out.prior_log_std, out.mask) / out.mask.sum()
        mel = MEL_WEIGHT * mel_distance(self.hparams, out.wave, target)
        gen, fm = self._compare(real, out.wave)
        self.generator_optimizer.zero_grad()
        self.scaler.scale(gen + fm + mel + kl).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.generator_optimizer)
        _read_norms(self.state.synthesizer)
        self.scaler.step(self.generator_optimizer)
        self.scaler.update()
        return torch.stack([each.detach().float() for each in (disc, gen, fm, mel, kl)])

    def _random(self) -> torch.Generator:
        return torch.Generator(self.setting.device).manual_seed(int(torch.randint(2**31, ())))

    def _teach_discriminators(self, real: Tensor, fake: Tensor) -> Tensor:
        discriminators = self.state.discriminators
        with self.precision.autocast():
            pairs = list(zip(discriminators(real), discriminators(fake), strict=True))
        disc = losses.discriminator_loss([torch.cat([one[0], other[0]]) for one, other in pairs])
        self.discriminator_optimizer.zero_grad()
        self.scaler.scale(disc).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.discriminator_optimizer)
        _read_norms(discriminators)
        self.scaler.step(self.discriminator_optimizer)
        return disc

    def _compare(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        with self.precision.autocast():
            of_real, of_fake = self.state.discriminators(real), self.state.discriminators(fake)
        return losses.generator_loss(of_fake), losses.feature_loss(of_real, of_fake)


def _read_norms(model: nn.Module) -> float:
    return sum(float(p.grad.norm()) ** 2 for p in model.parameters() if p.grad is not None) ** 0.5


Training = OurTraining | PlainTraining
WAYS: dict[str, Callable[[Setting], Training]] = {
    "ours": OurTraining,
    "ours without graphs": lambda setting: OurTraining(setting, with_graphs=False),
    "reference": PlainTraining,
}
