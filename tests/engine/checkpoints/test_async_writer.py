"""Saving in the background: the state at the time of the call, reported only once it is complete."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rvc_engine.checkpoints import async_writer
from rvc_engine.checkpoints.async_writer import AsyncCheckpointer


class Disk:
    """Disk that writes once `may_write` is set, and records the writing thread."""

    def __init__(self) -> None:
        self.may_write = threading.Event()
        self.written: list[dict[str, Tensor]] = []
        self.threads: list[int] = []

    def write(self, tree: dict[str, Tensor]) -> int:
        assert self.may_write.wait(10)
        self.threads.append(threading.get_ident())
        self.written.append({name: value.clone() for name, value in tree.items()})
        return len(self.written)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def saver() -> Iterator[AsyncCheckpointer]:
    with AsyncCheckpointer() as saver:
        yield saver


def fails(_: object) -> None:
    raise OSError(28, "No space left on device")


def ignore(_: object) -> None:
    return


def test_what_changes_while_the_file_is_written_is_not_in_it(saver: AsyncCheckpointer, disk: Disk) -> None:
    weight = torch.ones(3)
    finished: list[int] = []
    saver.submit({"weight": weight}, disk.write, finished.append)
    weight += 1
    saver.poll()
    assert finished == []  # not before it is whole
    disk.may_write.set()
    saver.wait()
    assert disk.written[0]["weight"].tolist() == [1, 1, 1]
    assert disk.threads != [threading.get_ident()]
    assert finished == [1]
    saver.wait()
    assert finished == [1]  # once


def test_a_second_save_waits_for_the_first(saver: AsyncCheckpointer, disk: Disk) -> None:
    order: list[str] = []
    saver.submit({"a": torch.zeros(1)}, disk.write, lambda number: order.append(f"done {number}"))
    disk.may_write.set()
    saver.submit({"b": torch.zeros(1)}, disk.write, lambda number: order.append(f"done {number}"))
    assert order == ["done 1"]
    saver.wait()
    assert order == ["done 1", "done 2"]


@pytest.mark.parametrize("call", [AsyncCheckpointer.wait, lambda saver: saver.submit({}, ignore, ignore)])
def test_a_failed_write_is_raised_at_the_next_call(
    saver: AsyncCheckpointer, call: Callable[[AsyncCheckpointer], None]
) -> None:
    finished: list[None] = []
    saver.submit({"a": torch.zeros(1)}, fails, finished.append)
    with pytest.raises(OSError, match="No space"):
        call(saver)
    assert finished == []
    saver.wait()  # once


def test_the_end_waits_and_an_earlier_error_takes_precedence(disk: Disk) -> None:
    finished: list[int] = []
    disk.may_write.set()
    with AsyncCheckpointer() as saver:
        saver.submit({"a": torch.zeros(1)}, disk.write, finished.append)
    assert finished == [1]
    with pytest.raises(ZeroDivisionError), AsyncCheckpointer() as saver:  # noqa: PT012
        saver.submit({"a": torch.zeros(1)}, fails, ignore)
        raise ZeroDivisionError
    with pytest.raises(OSError, match="No space"), AsyncCheckpointer() as saver:
        saver.submit({"a": torch.zeros(1)}, fails, ignore)


def test_without_memory_for_a_copy_it_is_written_at_once(
    saver: AsyncCheckpointer, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_writer, "MAX_COPY_FRACTION", 0)
    disk.may_write.set()
    finished: list[int] = []
    saver.submit({"a": torch.zeros(1)}, disk.write, finished.append)
    assert finished == [1]
    assert disk.threads == [threading.get_ident()]


def test_copies_of_many_tensors_lie_in_a_few_blocks_and_are_files_of_their_own(tmp_path: Path) -> None:
    sizes: list[int] = []

    def allocate(count: int) -> Tensor:
        sizes.append(count)
        return torch.empty(count, dtype=torch.uint8)

    tree = {
        "many": [torch.full((3, n), float(n)) for n in range(500)],
        "half": torch.arange(7, dtype=torch.bfloat16),
        "step": torch.tensor(5),
        "large": torch.ones(async_writer.BLOCK_BYTES // 4 + 1),
    }
    copied = async_writer._copy_tensors(tree, async_writer.StagingMemory(allocate).copy)
    assert sizes == [async_writer.BLOCK_BYTES, async_writer.BLOCK_BYTES + 4]
    for path in ("plain", "staged"):
        torch.save(tree if path == "plain" else copied, tmp_path / path)
    assert abs((tmp_path / "plain").stat().st_size - (tmp_path / "staged").stat().st_size) < 100_000
    read = torch.load(tmp_path / "staged", weights_only=True)
    assert all(torch.equal(one, other) for one, other in zip(read["many"], tree["many"], strict=True))
    assert torch.equal(read["half"], tree["half"])
    assert (int(read["step"]), read["step"].shape) == (5, ())
    assert torch.equal(read["large"], tree["large"])


@pytest.mark.gpu
def test_on_a_gpu_what_changes_after_the_copy_was_asked_for_is_not_in_the_file(
    saver: AsyncCheckpointer, disk: Disk
) -> None:
    weight = torch.ones(2**24, device="cuda")
    for _ in range(100):
        weight *= 1.0  # work that the copy has to wait for
    saver.submit({"weight": weight}, disk.write, ignore)
    weight += 1
    disk.may_write.set()
    saver.wait()
    assert disk.written[0]["weight"].is_cpu
    assert bool((disk.written[0]["weight"] == 1).all())
