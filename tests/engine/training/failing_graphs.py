"""`rvc-engine` as a program on a machine that seems to have CUDA graphs, and whose driver does not bear them."""

from contextlib import nullcontext

from rvc_engine.cli.main import main
from rvc_engine.training import trainer


class UnusableGraphs:
    """Capturer whose captures fail."""

    def __init__(self, _device: object) -> None:
        pass

    def warm_up(self) -> nullcontext[None]:
        """Context of an eager step."""
        return nullcontext()

    def capture(self, step: object) -> None:
        """Fail as CUDA does."""
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


if __name__ == "__main__":
    trainer.has_graphs = lambda _: True
    trainer.CudaGraphCapturer = UnusableGraphs  # type: ignore[assignment, misc]
    main()
