"""Small voices and sounds to convert, and the program that converts."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from rvc_engine.child_processes import engine_environment, python_command
from rvc_engine.config import TrainingConfig
from rvc_engine.conversion.messages import (
    Cancel,
    Convert,
    Converted,
    Failed,
    Reply,
    format_message,
    parse_reply,
)
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.voices.export import VoiceDetails, write_voice

RATE = 16_000
WHISPER = "whisper-tiny.en-l2l3"


def make_voice(
    path: Path, embedder: str = WHISPER, f0: bool = True, median_pitch: dict[int, float] | None = None
) -> Path:
    hparams, weights = small_generator(f0)
    details = VoiceDetails("anna", 1, 1, embedder, 60.0, median_pitch=median_pitch or {})
    write_voice(path, weights, hparams, details)
    return path


def make_save(path: Path) -> Path:
    """A `G_` file as a training writes it."""
    _, weights = small_generator()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": weights, "iteration": 3, "optimizer": {}, "learning_rate": 1e-4}, path)
    return path


def small_generator(f0: bool = True) -> tuple[Hyperparameters, dict[str, torch.Tensor]]:
    config = TrainingConfig(content="whisper-tiny", pretrained="none", width=24, f0=f0)
    torch.manual_seed(0)
    hparams = Hyperparameters.from_config(config)
    return hparams, Synthesizer(hparams).state_dict()


def glide(seconds: float, low: float = 150.0, high: float = 250.0) -> np.ndarray:
    """A voice-like tone that rises from low to high."""
    times = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(low + (high - low) * times / seconds) / RATE
    return sum(np.sin(n * phase) / n for n in range(1, 8)).astype(np.float32) * 0.2


class Program:
    """`rvc-engine serve-conversions`."""

    def __init__(self, environment: dict[str, str]) -> None:
        command = [*python_command("rvc_engine", "serve-conversions"), "--device=cpu", "--threads=1"]
        self.process = subprocess.Popen(
            command,
            env=engine_environment(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sys.stderr,
        )

    def send(self, *messages: Convert | Cancel) -> None:
        text = "".join(format_message(message) + "\n" for message in messages)
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def replies(self, number: str) -> list[Reply]:
        """Events up to the last one of a request."""
        found: list[Reply] = []
        for line in self.process.stdout:
            reply = parse_reply(line.decode())
            if reply is not None:
                found.append(reply)
                if reply.id == number and isinstance(reply, Converted | Failed):
                    break
        return found

    def close(self) -> int:
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(60)
