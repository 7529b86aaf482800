"""A folder of synthetic clips, as after slice, pitch and content; their content does not affect costs."""

from pathlib import Path

import numpy as np
import soundfile

from rvc_engine.hyperparameters import Hyperparameters


def write_clips(folder: Path, hparams: Hyperparameters, count: int, seconds: float) -> None:
    """Write `count` clips of `seconds`: a glide with harmonics, noise as features. `folder` must not have any yet."""
    random = np.random.default_rng(0)
    parts = {name: folder / name for name in ("0_gt_wavs", "1_16k_wavs", "2a_f0", "2b-f0nsf")}
    parts["features"] = folder / f"3_feature{hparams.feature_size}"
    for part in parts.values():
        part.mkdir(parents=True)
    frames = int(seconds * 100)
    for clip in range(count):
        hz = np.geomspace(100 + 10 * clip, 200 + 10 * clip, frames).astype(np.float32)
        phase = 2 * np.pi * np.cumsum(np.repeat(hz, hparams.hop_length)) / hparams.sample_rate
        wave = sum(0.1 / k * np.sin(k * phase) for k in range(1, 12)) + 0.003 * random.standard_normal(len(phase))
        stem = f"{clip}_0"
        soundfile.write(parts["0_gt_wavs"] / f"{stem}.wav", wave, hparams.sample_rate, format="WAV", subtype="FLOAT")
        soundfile.write(parts["1_16k_wavs"] / f"{stem}.wav", np.zeros(160 * frames), 16_000, subtype="FLOAT")
        np.save(parts["2a_f0"] / f"{stem}.wav.npy", np.clip(hz / 4, 1, 255).astype(np.int64))
        np.save(parts["2b-f0nsf"] / f"{stem}.wav.npy", hz)
        rows = random.standard_normal((frames // 2, hparams.feature_size)).astype(np.float32)
        np.save(parts["features"] / f"{stem}.npy", rows)
