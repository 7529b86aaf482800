"""Activation checkpointing (Chen et al., 2016): a block's activations are recomputed in the backward pass."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result", Tensor, tuple[Tensor, ...])


class ActivationCheckpointing(nn.Module):
    """A module whose blocks, run by `_run_block`, can be checkpointed: less memory, more time."""

    checkpoints_activations = False
    """Whether only the inputs of blocks are kept for the backward pass. The gradients are the same."""

    def _run_block(self, function: Callable[..., Result], *inputs: Tensor | None) -> Result:
        """Run a block. It must draw no random numbers: their state is not restored for recomputation."""
        if not (self.checkpoints_activations and torch.is_grad_enabled()):
            return function(*inputs)
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def set_activation_checkpointing(model: nn.Module, enabled: bool) -> None:
    """Turn activation checkpointing on or off in all modules that support it."""
    for module in model.modules():
        if isinstance(module, ActivationCheckpointing):
            module.checkpoints_activations = enabled
