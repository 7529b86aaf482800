"""State in a checkpoint: models with their optimizers and scalers, and the progress of training."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import AdamW

from rvc_engine.compute.compilation import Compiler
from rvc_engine.compute.precision import Precision
from rvc_engine.hyperparameters import PUBLISHED_WIDTH, WEIGHT_DECAY, Hyperparameters
from rvc_engine.models.activation_checkpointing import set_activation_checkpointing
from rvc_engine.models.discriminators import DiscriminatorOutput, Discriminators
from rvc_engine.models.synthesizer import Synthesizer


@dataclass(frozen=True)
class TrainProgress:
    """Progress of a run."""

    step: int
    """Optimizer steps done."""
    epoch: int
    """Epoch of the next batch, from 1."""
    batch: int
    """Batches of that epoch done."""
    seconds: float
    """Training time so far, over all attempts."""
    batch_size: int
    """Clips per step, over all micro-batches and ranks."""
    num_clips: int
    learning_rate_scale: float = 1.0
    """Factor, lowered at each rollback after divergence."""
    num_rollbacks: int = 0
    is_full_precision: bool = False
    """Whether the run fell back to float32 after diverging in a 16-bit format."""

    @property
    def last_epoch(self) -> int:
        """Epoch of the last step done, as shown to users."""
        return self.epoch - 1 if self.batch == 0 and self.step else self.epoch


def completed_epochs(progress: TrainProgress) -> int:
    """Completed epochs; at least 1, because loaders display the number."""
    return max(1, progress.epoch - 1)


@dataclass
class GanTrainState:
    """Synthesizer and discriminators with their optimizers and gradient scalers, on one device."""

    hparams: Hyperparameters
    synthesizer: Synthesizer
    discriminators: Discriminators
    generator_optimizer: AdamW
    discriminator_optimizer: AdamW
    precision: Precision
    generator_scaler: GradScaler = field(init=False)
    discriminator_scaler: GradScaler = field(init=False)
    discriminate: Callable[[Tensor], list[DiscriminatorOutput]] = field(init=False)
    """The discriminators, or what `compile` made of them."""

    def __post_init__(self) -> None:
        self.discriminate = self.discriminators
        self.set_precision(self.precision)

    @classmethod
    def build(
        cls,
        hparams: Hyperparameters,
        device: torch.device,
        learning_rate: float,
        precision: Precision | None = None,
        gradient_checkpointing: bool = False,
    ) -> "GanTrainState":
        """Fresh models, initialised from PyTorch's global random state; in float32 unless `precision` is given."""
        synthesizer = Synthesizer(hparams).to(device)
        set_activation_checkpointing(synthesizer, gradient_checkpointing)
        scale = hparams.hidden_channels / PUBLISHED_WIDTH
        discriminators = Discriminators(hparams.version, scale).to(device)
        return cls(
            hparams,
            synthesizer,
            discriminators,
            _adamw(synthesizer, hparams, learning_rate),
            _adamw(discriminators, hparams, learning_rate),
            precision or Precision("fp32", device.type),
        )

    def compile(self, compiler: Compiler) -> None:
        """Have steps run a compiled decoder and compiled discriminators: their inputs are segments of one length.

        The modules stay as they are, and so do the names of their weights. With activation checkpointing the decoder is
        left out: its blocks are computed again one by one.
        """
        if not self.checkpoints_activations:
            self.synthesizer.decode = compiler.compile(self.synthesizer.dec.forward, "decoder")
        self.discriminate = compiler.compile(self.discriminators.forward, "discriminators")

    def set_precision(self, precision: Precision) -> None:
        """Set the number format, with a fresh scaler for each model: an overflow in one is none in the other."""
        self.precision = precision
        self.generator_scaler, self.discriminator_scaler = precision.scaler(), precision.scaler()

    @property
    def device(self) -> torch.device:
        """The device of the models."""
        return self.synthesizer.emb_g.weight.device

    @property
    def checkpoints_activations(self) -> bool:
        """Whether blocks of the synthesizer are computed again in the backward pass."""
        return self.synthesizer.dec.checkpoints_activations

    @property
    def min_loss_scale(self) -> float | None:
        """The smaller of the float16 scales; None in other formats. Reading it waits for the device."""
        if not self.generator_scaler.is_enabled():
            return None
        return min(self.generator_scaler.get_scale(), self.discriminator_scaler.get_scale())

    def zeros(self, count: int) -> Tensor:
        """Zeros (count,), of the models' device and type."""
        return self.synthesizer.emb_g.weight.new_zeros(count)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of both optimizers."""
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(learning_rate)
                else:
                    group["lr"] = learning_rate


def _adamw(model: nn.Module, hparams: Hyperparameters, learning_rate: float) -> AdamW:
    """AdamW of a model. On CUDA the learning rate is a tensor on the device, where a graph of the step reads it."""
    parameters = list(model.parameters())
    device = parameters[0].device
    rate = torch.tensor(learning_rate, device=device) if device.type == "cuda" else learning_rate
    return AdamW(parameters, rate, betas=hparams.betas, eps=hparams.epsilon, weight_decay=WEIGHT_DECAY, fused=True)
