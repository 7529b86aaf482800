"""Accelerators of every kind, faked: this layer is what the engine asks about them."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from rvc_engine.cli.machine_report import machine_report
from rvc_engine.compute import accelerators
from rvc_engine.compute.device import first_device, open_device, open_devices
from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.compute.precision import Precision
from rvc_engine.config import TrainingConfig
from rvc_engine.content import stage as content_stage
from rvc_engine.data import loader
from rvc_engine.data.clips import ClipFiles
from rvc_engine.errors import InvalidConfig
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.machine import Machine
from rvc_engine.models import decoder
from rvc_engine.training import auto_batch
from rvc_engine.training.batch_sampler import uses_length_buckets

GIB = 2**30
CPU, CUDA, XPU, MPS = (torch.device(name) for name in ("cpu", "cuda:0", "xpu:0", "mps:0"))


class Fakes:
    """Devices that PyTorch seems to find."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._patch.setattr(torch.cuda, "set_device", lambda _: None)
        self.count("cuda", 0)
        self.count("xpu", 0)
        self.count("mps", 0)

    def count(self, kind: str, number: int) -> None:
        if kind == "mps":
            self._patch.setattr(torch.backends.mps, "is_available", lambda: number > 0)
        else:
            self._patch.setattr(getattr(torch, kind), "device_count", lambda: number)

    def nvidia(self, capability: tuple[int, int] = (8, 9), name: str = "NVIDIA GeForce RTX 4070") -> None:
        self.count("cuda", 1)
        self._patch.setattr(torch.version, "hip", None)
        self._patch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        self._patch.setattr(torch.cuda, "get_device_name", lambda _: name)
        self._patch.setattr(torch.cuda, "set_device", lambda _: None)
        self._patch.setattr(torch.cuda, "mem_get_info", lambda _: (10 * GIB, 12 * GIB))

    def amd(self, *, has_bf16: bool = True) -> None:
        self.nvidia()
        self._patch.setattr(torch.version, "hip", "6.4.43484")
        self._patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)

    def intel(self) -> None:
        self.count("xpu", 1)
        self._patch.setattr(torch.xpu, "is_bf16_supported", lambda including_emulation: True)
        self._patch.setattr(torch.xpu, "get_device_name", lambda _: "Intel(R) Arc(TM) A770 Graphics")
        self._patch.setattr(torch.xpu, "mem_get_info", lambda _: (14 * GIB, 16 * GIB))

    def apple(self) -> None:
        self.count("mps", 1)
        memory = SimpleNamespace(
            recommended_max_memory=lambda: 24 * GIB, driver_allocated_memory=lambda: 4 * GIB, empty_cache=lambda: None
        )
        self._patch.setattr(torch, "mps", memory)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    return Fakes(monkeypatch)


GENERATIONS = [
    ("NVIDIA GeForce GTX 1080 Ti", (6, 1), "fp32"),  # Pascal: float16 at 1/64 of float32's speed
    ("Tesla P100-PCIE-16GB", (6, 0), "fp32"),
    ("Tesla V100-SXM2-32GB", (7, 0), "fp16"),
    ("NVIDIA GeForce GTX 1660 SUPER", (7, 5), "fp32"),  # Turing without tensor cores: NaN from float16
    ("NVIDIA T1000 8GB", (7, 5), "fp32"),
    ("NVIDIA GeForce MX450", (7, 5), "fp32"),
    ("NVIDIA GeForce RTX 2080 Ti", (7, 5), "fp16"),
    ("Tesla T4", (7, 5), "fp16"),
    ("NVIDIA A100-SXM4-80GB", (8, 0), "fp16"),
    ("NVIDIA GeForce RTX 3060", (8, 6), "fp16"),
    ("NVIDIA GeForce RTX 4090", (8, 9), "fp16"),
    ("NVIDIA H200", (9, 0), "fp16"),
    ("NVIDIA B200", (10, 0), "fp16"),
    ("NVIDIA GeForce RTX 5090", (12, 0), "fp16"),
]


@pytest.mark.parametrize(("name", "capability", "number_format"), GENERATIONS, ids=[each[0] for each in GENERATIONS])
def test_each_generation_of_nvidias_gpus_has_graphs_and_the_format_that_it_trains_well_in(
    name: str, capability: tuple[int, int], number_format: str, fakes: Fakes
) -> None:
    fakes.nvidia(capability, name)
    assert (Precision.choose("auto", CUDA).name, accelerators.has_graphs(CUDA)) == (number_format, True)
    assert accelerators.memory_of(CUDA) == (10 * GIB, 12 * GIB)
    expected = torch.float16 if number_format == "fp16" else torch.float32
    assert content_stage._dtype(TrainingConfig(), CUDA) == expected


def test_content_is_as_fine_in_bfloat16_as_rvcs(fakes: Fakes) -> None:
    fakes.nvidia()
    assert content_stage._dtype(TrainingConfig(precision="bf16"), CUDA) == torch.float16
    assert content_stage._dtype(TrainingConfig(precision="bf16"), CPU) == torch.bfloat16
    assert content_stage._dtype(TrainingConfig(precision="fp16"), CPU) == torch.float32


def test_the_named_gpu_is_the_current_one(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture waits for the current GPU, and libraries make their contexts on it."""
    fakes.nvidia()
    fakes.count("cuda", 3)
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    open_device(Machine(device="cuda:1"))
    open_devices(Machine(device="cuda:2,cuda:0"))
    assert current == [torch.device("cuda:1"), torch.device("cuda:2")]


def test_a_stage_of_one_device_uses_the_first_of_those_that_train_together(fakes: Fakes) -> None:
    fakes.count("cuda", 2)
    assert first_device(Machine(device="cuda:1,cuda:0")) == torch.device("cuda:1")
    assert first_device(Machine(device="cpu", num_processes=2)) == CPU


def test_amds_gpus_are_cuda_devices_without_graphs(fakes: Fakes) -> None:
    fakes.amd()
    assert open_device(Machine()) == CUDA
    assert (Precision.choose("auto", CUDA).name, accelerators.has_graphs(CUDA)) == ("bf16", False)
    fakes.amd(has_bf16=False)
    assert Precision.choose("auto", CUDA).name == "fp32"


def test_an_intel_gpu_is_taken_where_there_is_no_other(fakes: Fakes) -> None:
    fakes.intel()
    fakes.apple()
    assert open_device(Machine()) == XPU
    assert (Precision.choose("auto", XPU).name, accelerators.has_graphs(XPU)) == ("bf16", False)
    assert accelerators.memory_of(XPU) == (14 * GIB, 16 * GIB)
    assert not uses_length_buckets(XPU)


def test_an_apple_gpu_trains_in_float32_and_shares_the_machines_memory(fakes: Fakes) -> None:
    fakes.apple()
    assert open_device(Machine()) == MPS
    assert Precision.choose("auto", MPS).name == "fp32"
    assert not accelerators.has_float64(MPS)
    assert accelerators.memory_of(MPS) == (20 * GIB, 24 * GIB)
    assert open_device(Machine(device="mps")) == MPS


def test_without_an_accelerator_the_cpu_trains(fakes: Fakes) -> None:
    assert open_device(Machine()) == CPU
    free, total = accelerators.memory_of(CPU)
    assert 0 < free <= total == psutil.virtual_memory().total
    accelerators.synchronize(CPU)
    accelerators.empty_cache()


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("xpu:0", "PyTorch finds 0 XPU devices here"),
        ("mps", "PyTorch finds 0 MPS devices here"),
        ("cuda:7", "PyTorch finds 1 CUDA devices here"),
        ("meta", "is not supported"),
        ("gpu", "is not the name of a device"),
    ],
)
def test_a_device_that_is_not_there_is_named_with_what_to_do(device: str, words: str, fakes: Fakes) -> None:
    fakes.nvidia()
    with pytest.raises(InvalidConfig, match=words):
        open_device(Machine(device=device))


def test_several_devices_train_together_on_cuda_alone(fakes: Fakes) -> None:
    fakes.count("xpu", 2)
    fakes.count("cuda", 2)
    assert len(open_devices(Machine(device="cuda:0,cuda:1"))) == 2
    with pytest.raises(InvalidConfig, match="only CUDA can train on together"):
        open_devices(Machine(device="xpu:0,xpu:1"))


def test_the_report_of_the_machine_names_all_accelerators(fakes: Fakes) -> None:
    fakes.amd()
    fakes.intel()
    devices = machine_report()["devices"]
    assert [(each["name"], each["precision"], each["graphs"], each["capability"]) for each in devices] == [
        ("cuda:0", "bf16", False, None),
        ("xpu:0", "bf16", False, None),
    ]
    assert devices[1]["model"] == "Intel(R) Arc(TM) A770 Graphics"
    assert (devices[1]["memory_free_bytes"], devices[1]["memory_bytes"]) == (14 * GIB, 16 * GIB)


def test_the_sine_is_the_same_where_float64_is_left_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    f0, noise = torch.rand(2, 9) * 400, torch.randn(2, 9 * 40)
    source = decoder.SineSource(4000, 40)
    expected = source.sine(f0, noise)
    monkeypatch.setattr(decoder, "has_float64", lambda _: False)
    assert torch.equal(source.sine(f0, noise), expected)


@pytest.mark.parametrize(
    "message",
    [
        "MPS backend out of memory (MPS allocated: 17.00 GB)",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "HIP error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input.",
        "GET was unable to find an engine to execute this computation",
        "cuFFT error: CUFFT_ALLOC_FAILED",
        "NCCL error in: ProcessGroupNCCL.cpp, unhandled cuda error. Last error:\nCuda failure 2 'out of memory'",
        "NCCL error, Last error:\nFailed to CUDA malloc 4194304 bytes",
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_running_out_of_memory_is_recognized_in_each_librarys_words(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))


def test_other_errors_are_none_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("XPU out of memory"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_a_job_among_several_on_a_gpu_takes_and_counts_its_share_of_the_memory(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.nvidia()
    fakes.count("cuda", 2)
    fractions: dict[torch.device, float] = {}
    reserved = {"bytes": 0}
    monkeypatch.setattr(accelerators._Share, "num_jobs", 1)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: fractions.update({device: share})
    )
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: fractions.get(device, 1.0))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: reserved["bytes"])
    open_devices(Machine(device="cuda:0"))
    assert fractions == {}
    open_devices(Machine(device="cuda:0,cuda:1", jobs_per_device=3))
    share = 4 * GIB - accelerators.CONTEXT_BYTES
    assert fractions == {torch.device("cuda", n): pytest.approx(share / (12 * GIB)) for n in (0, 1)}
    first = torch.device("cuda:0")
    assert accelerators.memory_of(first) == (pytest.approx(share, abs=1), 12 * GIB)
    reserved["bytes"] = 3 * GIB
    assert accelerators.memory_of(first)[0] == pytest.approx(share - 3 * GIB, abs=1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (GIB // 8, 12 * GIB))
    assert accelerators.memory_of(first)[0] == GIB // 8, "others may have taken more than theirs"


def test_an_automatic_batch_fits_the_share_and_not_the_whole_gpu(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.nvidia()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (80 * GIB, 80 * GIB))
    fraction = {"share": 1.0}
    monkeypatch.setattr(accelerators._Share, "num_jobs", 1)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: fraction.update(share=share)
    )
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: fraction["share"])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: GIB)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(auto_batch, "_peak_bytes", lambda _state, size, _frames, _device: size * GIB)
    clips = [ClipFiles(Path(), Path(), None, None, 0, frames=300)] * 1000
    state = SimpleNamespace(device=CUDA)
    assert auto_batch.auto_batch_size(state, clips, 1, 0) == 32  # type: ignore[arg-type]
    accelerators.share_memory(CUDA, 10)
    assert auto_batch.auto_batch_size(state, clips, 1, 0) == 4  # type: ignore[arg-type]
    assert auto_batch.clips_fit(clips[:100], Hyperparameters.from_config(TrainingConfig()), CUDA)
    assert not auto_batch.clips_fit(clips * 200, Hyperparameters.from_config(TrainingConfig()), CUDA)


@pytest.mark.parametrize("kind", ["intel", "apple"])
def test_other_gpus_are_shared_too(kind: str, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    getattr(fakes, kind)()
    module = torch.xpu if kind == "intel" else torch.mps
    fractions: list[float] = []
    monkeypatch.setattr(accelerators._Share, "num_jobs", 1)
    monkeypatch.setattr(
        module, "set_per_process_memory_fraction", lambda share, *_: fractions.append(share), raising=False
    )
    [device] = open_devices(Machine(device={"intel": "xpu:0", "apple": "mps"}[kind], jobs_per_device=4))
    free, total = accelerators.memory_of(device)
    assert (fractions, free) == ([0.25], total // 4)


def _raising_pool(*arguments: object) -> None:
    raise _PoolOf(*arguments)


class _PoolOf(Exception):
    """Raised in place of a pool of threads."""


def test_readers_of_clips_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "ThreadPoolExecutor", _raising_pool)
    monkeypatch.setattr(accelerators._Share, "num_jobs", 1)
    accelerators.share_memory(CPU, 4)
    assert accelerators.num_sharing() == 4
    assert accelerators.memory_of(CPU)[0] <= accelerators.memory_of(CPU)[1] // 4
    clips = [ClipFiles(Path(), Path(), None, None, 0, frames=300)]
    with pytest.raises(_PoolOf) as made:
        loader.ClipsInMemory(clips, Hyperparameters.from_config(TrainingConfig()), CPU)
    assert made.value.args == (1, "clip-reader")
