"""Stand-ins for plotting packages and mel filters, imported by Python at the start of RVC WebUI's processes.

Only missing packages are replaced. Stand-ins for plotting do nothing, so the reference runs faster by that cost.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any


class _Nothing:
    """Object that accepts every call, returns itself for every attribute, and unpacks into two."""

    def __call__(self, *_: Any, **__: Any) -> "_Nothing":
        return self

    def __getattr__(self, _: str) -> "_Nothing":
        return self

    def __iter__(self) -> Any:
        return iter((self, self))


def _stand_in(name: str, **attributes: Any) -> None:
    module = ModuleType(name)
    module.__dict__.update(attributes)
    sys.modules[name] = module


def _is_absent(name: str) -> bool:
    return importlib.util.find_spec(name) is None


def _mel(*, sr: int, n_fft: int, n_mels: int, fmin: float = 0.0, fmax: float | None = None) -> Any:
    """librosa's default filters (Slaney's scale and areas, 0 Hz to half the rate), by our own code."""
    import numpy as np

    from rvc_engine.audio.mel import mel_filters

    assert fmin == 0.0
    assert fmax in {None, sr / 2}
    return mel_filters(sr, n_fft, n_mels).astype(np.float32)


def _draw(_: Any, *__: Any, **___: Any) -> Any:
    import numpy as np

    return np.zeros((2, 2, 4), np.uint8)


if _is_absent("tensorboard"):
    _stand_in("torch.utils.tensorboard", SummaryWriter=_Nothing())
if _is_absent("matplotlib"):
    canvas = type("_Canvas", (), {"draw": lambda _: None, "buffer_rgba": _draw})()
    figure = type("_Figure", (), {"canvas": canvas})()
    pylab = _Nothing()
    pylab.subplots = lambda *_, **__: (figure, _Nothing())  # type: ignore[attr-defined]
    _stand_in("matplotlib.pylab")
    sys.modules["matplotlib.pylab"] = pylab  # type: ignore[assignment]
    _stand_in("matplotlib", use=_Nothing(), pylab=pylab)
if _is_absent("librosa"):
    _stand_in("librosa.filters", mel=_mel)
    _stand_in("librosa", filters=sys.modules["librosa.filters"])
