"""torch.compile of functions: its time is reported, and what cannot be compiled runs as it is."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rvc_engine.compute.compilation import Compiler, keep_in_users_cache

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's compiler uses what PyTorch deprecates


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Messages:
    """A compiler and what it reports."""

    def __init__(self, backend: str) -> None:
        self.logged: list[str] = []
        self.warned: list[str] = []
        self.compiler = Compiler(self.logged.append, self.warned.append, backend)


def doubled(x: Tensor) -> Tensor:
    return 2 * x


def test_a_function_is_compiled_once_for_each_shape_and_the_log_has_the_seconds() -> None:
    found = Messages("eager")
    function = found.compiler.compile(doubled, "decoder")
    for clips in (2, 2, 3, 2):
        x = torch.ones(clips, requires_grad=True)
        function(x).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [2.0] * clips
    assert len(found.logged) == 2
    assert found.logged[0].startswith("torch.compile took ")
    assert " s for the decoder, " in found.logged[0]
    assert not found.warned
    assert found.compiler.seconds > 0


def test_without_a_compiler_on_the_machine_the_function_runs_as_it_is_and_one_warning_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch._inductor.config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    found = Messages("inductor")
    function = found.compiler.compile(doubled, "decoder")
    assert [function(torch.ones(2)).tolist() for _ in range(2)] == [[2.0, 2.0]] * 2
    [warning] = found.warned
    assert warning.startswith("torch.compile cannot be used for the decoder here, which runs without it (")
    assert "compiler" in warning.partition("(")[2]
    assert not found.logged


def test_memory_that_runs_out_in_compiling_is_for_the_caller_to_handle() -> None:
    found = Messages("eager")

    def short_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    found.compiler._compile_graph = short_of_memory  # type: ignore[assignment, method-assign]
    function = found.compiler.compile(doubled, "decoder")
    with pytest.raises(RuntimeError, match="out of memory"):
        function(torch.ones(2))
    assert not found.warned


def test_kernels_are_kept_in_the_users_own_folder_unless_the_user_says_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _: str(tmp_path))
    for given, expected in (("", str(tmp_path / "compiled")), ("/elsewhere", "/elsewhere")):
        with monkeypatch.context() as patch:
            patch.setenv("TORCHINDUCTOR_CACHE_DIR", given)
            if not given:
                patch.delenv("TORCHINDUCTOR_CACHE_DIR")
            keep_in_users_cache()
            assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == expected
            patch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
