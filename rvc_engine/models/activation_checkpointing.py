"""Gradient checkpointing (Chen et al., 2016): forget what lies inside a block, and compute it again going backward."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result", Tensor, tuple[Tensor, ...])


class Recomputing(nn.Module):
    """A net that can trade time for memory: its blocks run through `_block`."""

    recompute = False
    """Whether blocks keep their inputs only. The gradients are the same."""

    def _block(self, function: Callable[..., Result], *inputs: Tensor | None) -> Result:
        """Call a block. It must draw no random numbers: their state is not kept for the second time."""
        if not (self.recompute and torch.is_grad_enabled()):
            return function(*inputs)
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def recompute_blocks(net: nn.Module, recompute: bool) -> None:
    """Turn it on or off for all parts of a net that can."""
    for module in net.modules():
        if isinstance(module, Recomputing):
            module.recompute = recompute
