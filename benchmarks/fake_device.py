"""A GPU that computes nothing: the GPU's path through the models, run on any machine.

PyTorch's fake tensors on the device `meta` take every branch of a GPU, backward passes included. They have shapes,
formats and a device, and no values: an operation on tensors of two devices fails, and so does every read of a value by
the host. Operations, and the bytes of live tensors, can be counted. Times cannot.

PyTorch lacks four things there, which are stood in for: autocast, the fused AdamW, and float16's two kernels.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self
from unittest.mock import patch

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.utils import clip_grad
from torch.optim import AdamW
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.precision import FormatName, Precision
from rvc_engine.config import TrainingConfig
from rvc_engine.data.batch import Batch
from rvc_engine.hyperparameters import PUBLISHED_WIDTH, Hyperparameters
from rvc_engine.models.activation_checkpointing import set_activation_checkpointing
from rvc_engine.models.discriminators import Discriminators
from rvc_engine.models.synthesizer import Noise, Synthesizer
from rvc_engine.training.micro_batches import MicroBatcher
from rvc_engine.training.step import BatchTotals, StepInputs, StepResult, training_step

DEVICE = torch.device("meta")
MODE = FakeTensorMode()
"""One for the whole process: tensors that the engine caches by device belong to it."""
_16_BIT = {F.conv1d, F.conv2d, F.conv_transpose1d, F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm}
"""Functions of the models that autocast runs in 16 bits on CUDA."""
_FP32 = {F.layer_norm, F.softmax, torch.softmax, Tensor.softmax, torch.cumsum, Tensor.cumsum, F.group_norm}
"""Functions of the models that it runs in float32."""
_NO_KERNEL = {"_fused_adamw_", "_amp_foreach_non_finite_check_and_unscale_", "_amp_update_scale_"}
"""Operations in place without a kernel for fake tensors."""
# fmt: off
VIEWS = frozenset({
    "view", "_unsafe_view", "expand", "transpose", "t", "unsqueeze", "squeeze", "slice", "select", "split", "chunk",
    "split_with_sizes", "permute", "detach", "alias", "as_strided", "unbind", "unfold", "view_as_real", "real", "imag",
    "_reshape_alias", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty", "diagonal", "narrow", "device",
    "unflatten", "view_as", "_conj", "resolve_conj", "new_empty_strided",
})
# fmt: on
"""Operations without a kernel: they make views, or memory without values."""


class _Autocast(TorchFunctionMode):
    """Autocast of the fake device: products and convolutions in 16 bits."""

    active: "list[_Autocast]" = []  # noqa: RUF012 - a stack for the whole process, as PyTorch's own

    def __init__(self, _device_type: str, dtype: torch.dtype | None = None, enabled: bool = True) -> None:
        super().__init__()
        self.dtype = dtype if enabled else None
        self._cast: dict[int, tuple[Tensor, Tensor]] = {}
        """Leaves that were cast: PyTorch does so once in a context."""

    def __enter__(self) -> Self:
        self.active.append(self)
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.active.pop()
        super().__exit__(*error)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Cast the arguments of a function that has a format of its own."""
        if self.dtype is not None and self.active[-1] is self:
            if func in _16_BIT:
                args = tuple(self._to(value, self.dtype) for value in args)
            elif func in _FP32:
                args = tuple(self._to(value, torch.float32) for value in args)
        return func(*args, **(kwargs or {}))

    def _to(self, value: Any, dtype: torch.dtype) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype in {dtype, torch.float64}:
            return value
        if not value.is_leaf or not value.requires_grad:
            return value.to(dtype)
        if id(value) not in self._cast:
            self._cast[id(value)] = (value, value.to(dtype))
        return self._cast[id(value)][1]


class _Kernels(TorchDispatchMode):
    """Answers for operations that have no kernel on the fake device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Change nothing in place, where a kernel would."""
        name = func.overloadpacket.__name__
        if name == "_amp_update_scale_":
            return args[0]
        if name == "_foreach_norm":  # PyTorch has one kernel for many tensors, and a fake of it for each
            return [torch.empty((), device=DEVICE) for _ in args[0]]
        return None if name in _NO_KERNEL else func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    """Counts the operations within its context, and the tensors that they put on another device."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.elsewhere: Counter[str] = Counter()
        """Operations with a result that is not on the fake device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count an operation."""
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        is_cast = name == "_to_copy" and _changes_format(args[0], result)
        self.counts["format" if is_cast else name] += 1
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, Tensor) and part.device.type != DEVICE.type:
                self.elsewhere[name] += 1
        return result

    @property
    def num_kernels(self) -> int:
        """Operations that compute something."""
        return sum(number for name, number in self.counts.items() if name not in VIEWS)

    @property
    def num_casts(self) -> int:
        """Copies from one number format to another."""
        return self.counts["format"]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive on the fake device: what PyTorch would have allocated.

    The memory of CUDA itself (0.3 to 0.6 GB), the workspaces of cuDNN and gaps between blocks come on top.
    """

    def __init__(self, alive: Iterable[Tensor]) -> None:
        """`alive` are the tensors from before."""
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()
        for tensor in alive:
            self._add(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count the memory of an operation's result."""
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, Tensor) and part.device.type == DEVICE.type:
                self._add(part)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, count = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += count
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, count).atexit = False

    def _remove(self, key: int, count: int) -> None:
        self._seen.discard(key)
        self.now -= count


def _changes_format(source: Tensor, result: Tensor) -> bool:
    return source.dtype != result.dtype and source.is_floating_point() and result.is_floating_point()


@contextmanager
def fake_device() -> Iterator[None]:
    """A context in which the device `meta` takes the part of a GPU."""
    autocast, is_enabled, get_dtype = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype

    def fake_autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return (_Autocast if device_type == DEVICE.type else autocast)(device_type, *args, **kwargs)

    def fake_is_enabled(device_type: str | None = None) -> bool:
        if device_type == DEVICE.type:
            return bool(_Autocast.active) and _Autocast.active[-1].dtype is not None
        return is_enabled() if device_type is None else is_enabled(device_type)

    def fake_dtype(device_type: str) -> torch.dtype:
        if device_type != DEVICE.type:
            return get_dtype(device_type)
        return (_Autocast.active[-1].dtype if _Autocast.active else None) or torch.float16

    with ExitStack() as stack:
        stack.enter_context(patch.object(torch, "autocast", fake_autocast))
        stack.enter_context(patch.object(torch, "is_autocast_enabled", fake_is_enabled))
        stack.enter_context(patch.object(torch, "get_autocast_dtype", fake_dtype))
        # As on CUDA, where the norms of all gradients are a few kernels.
        stack.enter_context(patch.object(clip_grad, "_has_foreach_support", lambda *_: True))
        stack.enter_context(MODE)
        stack.enter_context(_Kernels())
        yield


@dataclass(frozen=True)
class FakeStep:
    """A train state on the fake device, with inputs of a step."""

    state: GanTrainState
    inputs: StepInputs

    @classmethod
    def build(cls, config: TrainingConfig, number_format: FormatName, clips: int = 4, frames: int = 376) -> Self:
        """Fresh models, and clips of a length in frames; within `fake_device`."""
        hparams = Hyperparameters.from_config(config)
        with DEVICE:
            synthesizer = Synthesizer(hparams)
            set_activation_checkpointing(synthesizer, config.gradient_checkpointing)
            discriminators = Discriminators(hparams.version, hparams.hidden_channels / PUBLISHED_WIDTH)
        optimizers = []
        for model in (synthesizer, discriminators):
            to_fake_device(model)
            optimizers.append(AdamW(model.parameters(), fused=True))
            for group in optimizers[-1].param_groups:
                group["lr"] = torch.full((), 1e-4, device=DEVICE)
        state = GanTrainState(hparams, synthesizer, discriminators, *optimizers, Precision(number_format, DEVICE.type))
        return cls(state, fake_inputs(hparams, clips, frames))

    def tensors(self) -> Iterator[Tensor]:
        """Weights, gradients, moments and inputs."""
        state = self.state
        for model, optimizer in (
            (state.synthesizer, state.generator_optimizer),
            (state.discriminators, state.discriminator_optimizer),
        ):
            for parameter in model.parameters():
                yield parameter
                yield from [] if parameter.grad is None else [parameter.grad]
                yield from (part for part in optimizer.state.get(parameter, {}).values() if isinstance(part, Tensor))
        yield from self.inputs.tensors

    def take(self, limit: int | None = None) -> StepResult:
        """A step, in micro-batches of at most `limit` clips."""
        clips = self.inputs.num_clips
        totals = BatchTotals(clips, self.inputs.batch.lengths.sum())
        micro_batcher = MicroBatcher(limit or clips)
        inputs = self.inputs
        return training_step(self.state, inputs.batch, inputs.starts, inputs.noise, totals, micro_batcher)


def fake_inputs(hparams: Hyperparameters, clips: int, frames: int) -> StepInputs:
    """Clips on the fake device."""
    numbers = torch.ones(clips, frames, dtype=torch.long, device=DEVICE)
    batch = Batch(
        features=torch.ones(clips, frames, hparams.feature_size, device=DEVICE),
        coarse_f0=numbers if hparams.f0 else None,
        f0=numbers.float() if hparams.f0 else None,
        spec=torch.ones(clips, hparams.spec_channels, frames, device=DEVICE),
        wave=torch.ones(clips, frames * hparams.hop_length, device=DEVICE),
        lengths=numbers.sum(1),
        speakers=torch.zeros(clips, dtype=torch.long, device=DEVICE),
    )
    noise = Noise(
        torch.ones(clips, hparams.hidden_channels, frames, device=DEVICE),
        torch.ones(clips, hparams.segment_samples, device=DEVICE) if hparams.f0 else None,
    )
    return StepInputs(batch, torch.zeros(clips, dtype=torch.long, device=DEVICE), noise)


def to_fake_device(model: nn.Module) -> None:
    """Give a model, made within `torch.device("meta")`, parameters and buffers of the fake device."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and not (isinstance(parameter, FakeTensor) and parameter.device == DEVICE):
                module._parameters[name] = nn.Parameter(torch.empty(parameter.shape, device=DEVICE))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=DEVICE)
