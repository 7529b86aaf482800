"""torch.compile of functions that are called with few shapes; what cannot be compiled here runs as it is.

It needs a compiler on the machine: Triton and a C compiler for a GPU, a C++ compiler for a CPU.
"""

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from rvc_engine.compute.out_of_memory import is_out_of_memory

MAX_SHAPES = 64
"""Variants of a function that are compiled; PyTorch's own limit, 8, is less than a run with several batch sizes has."""
Result = TypeVar("Result")


class Compiler:
    """Compiles functions, each at its first call with a shape and number format, and reports the seconds it took."""

    def __init__(self, log: Callable[[str], None], warn: Callable[[str], None], backend: str = "inductor") -> None:
        """`backend` is one of PyTorch's by name; inductor alone makes kernels."""
        self._log, self._warn, self._backend = log, warn, backend
        self.seconds = 0.0
        """Time of all compilations so far."""
        self._num_graphs = 0

    def compile(self, function: Callable[..., Result], name: str) -> Callable[..., Result]:
        """The function, compiled as one graph for each shape. After an error of the compiler it runs as it is."""
        import torch._dynamo.config
        import torch._functorch.config

        torch._dynamo.config.recompile_limit = MAX_SHAPES
        # Else an error in compiling a backward pass would be raised in that pass, like any other error.
        torch._functorch.config.force_non_lazy_backward_lowering = True
        # PyTorch looks at the gradients of a compiled function's inputs: here also at those of computed weights.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        compiled = torch.compile(function, fullgraph=True, dynamic=False, backend=self._compile_graph)
        errors = torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit
        has_failed = False

        def call(*arguments: Any) -> Result:
            nonlocal has_failed
            if has_failed:
                return function(*arguments)
            started, num_graphs = time.monotonic(), self._num_graphs
            try:
                result = compiled(*arguments)
            except errors as error:
                if isinstance(error, RuntimeError) and is_out_of_memory(error):  # smaller micro-batches may fit
                    raise
                has_failed, reason = True, _reason(error)
            else:
                if self._num_graphs > num_graphs:
                    self._report(name, time.monotonic() - started)
                return result
            self._warn(f"torch.compile cannot be used for the {name} here, which runs without it ({reason})")
            return function(*arguments)

        return call

    def _compile_graph(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        self._num_graphs += 1
        return torch._dynamo.lookup_backend(self._backend)(graph, inputs)

    def _report(self, name: str, seconds: float) -> None:
        self.seconds += seconds
        self._log(f"torch.compile took {seconds:.0f} s for the {name}, {self.seconds:.0f} s so far")


def _reason(error: BaseException) -> str:
    """First line of the error that the compiler itself raised."""
    inner = getattr(error, "inner_exception", error)
    return str(inner).strip().partition("\n")[0] or type(inner).__name__


def keep_in_users_cache() -> None:
    """Keep compiled kernels for later runs in the user's cache folder, instead of the folder that PyTorch would choose.

    That one lies in the folder for temporary files, by a name that others could take first.
    """
    import platformdirs

    folder = Path(platformdirs.user_cache_dir("rvc-train")) / "compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
