"""Our Whisper encoder and its front end against `transformers`, with the weights that are part of the package."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder as ReferenceEncoder

from rvc_engine.content.whisper_model import MAX_POSITIONS, WhisperEncoder, log_mel
from rvc_engine.weights.assets import WHISPER_TINY_WEIGHTS

SAMPLES = Path(__file__).parents[3] / "samples"
CLIP_SECONDS = 30


@pytest.fixture(scope="module")
def net():
    return WhisperEncoder.from_state_dict(load_file(WHISPER_TINY_WEIGHTS))


@pytest.fixture(scope="module")
def reference():
    sizes = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536}
    encoder = ReferenceEncoder(WhisperConfig(**sizes))
    encoder.load_state_dict({name: value.float() for name, value in load_file(WHISPER_TINY_WEIGHTS).items()})
    return encoder.eval()


@pytest.fixture(scope="module")
def clip():
    """30 s of the sample voice, (480000,)."""
    parts = [soundfile.read(path, dtype="float32")[0] for path in sorted(SAMPLES.glob("*.flac"))]
    return np.concatenate(parts)[: CLIP_SECONDS * 16_000]


@pytest.fixture(scope="module")
def reference_mel(clip):
    extractor = WhisperFeatureExtractor(feature_size=80)
    return extractor(clip, sampling_rate=16_000, return_tensors="pt").input_features


def test_the_log_mel_is_that_of_the_published_feature_extractor(clip, reference_mel):
    mel = log_mel(torch.from_numpy(clip)[None])
    assert mel.shape == reference_mel.shape == (1, 80, 3000)
    torch.testing.assert_close(mel, reference_mel, atol=1e-4, rtol=0)


def test_every_blocks_output_is_that_of_transformers_at_3000_frames(net, reference, reference_mel):
    with torch.no_grad():
        expected = reference(reference_mel, output_hidden_states=True)
        ours = net(reference_mel, range(5))
    for layer in range(4):
        torch.testing.assert_close(ours[layer], expected.hidden_states[layer], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(net.layer_norm(ours[4]), expected.last_hidden_state, atol=1e-3, rtol=1e-4)


def test_frames_can_be_centred_later_without_losing_the_first_samples(clip):
    waves = torch.from_numpy(clip)[None, :32_000]
    plain, later = log_mel(waves), log_mel(waves, first_centre=160)
    torch.testing.assert_close(later[:, :, 1:-3], plain[:, :, 2:-2])


def test_each_clip_of_a_batch_is_scaled_by_itself(clip):
    quiet, loud = torch.from_numpy(clip)[None, :16_000] * 0.01, torch.from_numpy(clip)[None, 16_000:32_000]
    together = log_mel(torch.cat([quiet, loud]))
    torch.testing.assert_close(together[:1], log_mel(quiet))
    torch.testing.assert_close(together[1:], log_mel(loud))


def test_a_short_clip_needs_no_padding_to_thirty_seconds(net, clip):
    mel = log_mel(torch.from_numpy(clip)[None, :16_000])
    [rows] = net(mel, [3])
    assert rows.shape == (1, 50, 384)
    assert rows.isfinite().all()


def test_more_than_thirty_seconds_at_once_is_refused(net):
    with pytest.raises(AssertionError, match="at most 1500"):
        net(torch.zeros(1, 80, 2 * MAX_POSITIONS + 2), [1])
