"""Intelligibility: transcripts of short English clips by Whisper tiny.en, and the character error rate of two."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from safetensors.torch import load_file

from rvc_engine.content.whisper_model import WhisperEncoder, log_mel
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE
from rvc_engine.quality.whisper_decoder import WhisperDecoder, read_tensors
from rvc_engine.weights.assets import WHISPER_TINY_WEIGHTS

WINDOW_SECONDS = 10
"""Longest clip; what is beyond is cut off. Whisper's own window of 30 s gives the same texts in more time."""
TOKENS_PER_SECOND = 6
"""Most tokens of a clip: fast speech has four a second, and Whisper repeats itself on what is no speech."""


class Transcriber:
    """Whisper tiny.en on the CPU: the encoder of the package, and the decoder's published weights."""

    def __init__(self, model: Path, vocabulary: Path) -> None:
        """Raises IncompatibleCheckpoint when a file is not the published one."""
        self._decoder = WhisperDecoder(read_tensors(model))
        weights = load_file(WHISPER_TINY_WEIGHTS)
        self._encoder = WhisperEncoder.from_state_dict(weights)
        self._num_layers = len(self._encoder.layers)
        self._tokens = vocabulary.read_text(encoding="utf-8").splitlines()
        try:
            self._end = self._tokens.index("<|endoftext|>")
            self._begin = [self._tokens.index(name) for name in ("<|startoftranscript|>", "<|notimestamps|>")]
        except ValueError as error:
            raise IncompatibleCheckpoint(f"{vocabulary} is not Whisper's vocabulary; fetch it again") from error

    def transcribe(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[str]:
        """Transcribe clips of up to WINDOW_SECONDS as letters and digits in lower case, with single spaces."""
        return [self._transcribe(wave) for wave in waves_16k]

    @torch.inference_mode()
    def _transcribe(self, wave: NDArray[np.float32]) -> str:
        """Transcribe by the likeliest token at each place."""
        window = WINDOW_SECONDS * ANALYSIS_SAMPLE_RATE
        samples = torch.from_numpy(np.ascontiguousarray(wave[:window], np.float32))
        padded = F.pad(samples, (0, window - len(samples)))
        [encoded] = self._encoder(log_mel(padded[None]), [self._num_layers])
        memory = self._decoder.memory(self._encoder.layer_norm(encoded))
        tokens = torch.tensor([self._begin])
        most = min(self._decoder.max_tokens, int(TOKENS_PER_SECOND * len(samples) / ANALYSIS_SAMPLE_RATE) + 8)
        while tokens.shape[1] < most:
            logits = self._decoder.next_logits(tokens, memory)[0]
            logits[self._end + 1 :] = -torch.inf  # languages, tasks and times are no text
            if tokens.shape[1] == len(self._begin):
                logits[self._end] = -torch.inf  # Whisper itself never begins with the end
            chosen = int(logits.argmax())
            if chosen == self._end:
                break
            tokens = torch.cat([tokens, torch.tensor([[chosen]])], dim=1)
        return plain_text("".join(self._tokens[number] for number in tokens[0, len(self._begin) :].tolist()))


def plain_text(tokens: str) -> str:
    """Letters and digits of a text of GPT-2's tokens, where Ġ is a space, in lower case with single spaces."""
    kept = "".join(each if each.isascii() and each.isalnum() else " " for each in tokens.lower() if each != "'")
    return " ".join(kept.split())


def character_error_rate(reference: str, found: str) -> float:
    """Least number of characters to insert, delete and replace, per character of the reference; at most 1."""
    if not reference:
        return float(bool(found))
    costs = np.arange(len(found) + 1)
    places = np.arange(len(found) + 1)
    letters = np.array(list(found))
    for number, letter in enumerate(reference, start=1):
        best = np.concatenate([[number], np.minimum(costs[1:] + 1, costs[:-1] + (letters != letter))])
        costs = np.minimum.accumulate(best - places) + places
    return min(1.0, int(costs[-1]) / len(reference))
