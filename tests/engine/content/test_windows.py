"""Windows and batches: for any lengths, the frames are those of the whole clip."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import HubertConfig, HubertModel

from rvc_engine.content.windows import BATCH_FRAMES, encode_in_windows, num_content_frames


def local_net(waves):
    """Features of a frame: mean and first of its own 400 samples, which do not depend on the window."""
    frames = [np.lib.stride_tricks.sliding_window_view(wave, 400)[::320] for wave in waves]
    return [np.stack([own.mean(-1), own[:, 0]], axis=-1) for own in frames]


def noise(num_samples, seed=0):
    return np.random.default_rng(seed).standard_normal(num_samples).astype(np.float32)


@given(num_samples=st.integers(400, 100_000), window=st.integers(12, 60), overlap=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_windows_change_nothing_where_a_row_depends_on_its_own_samples_only(num_samples, window, overlap):
    wave = noise(num_samples)
    [rows] = encode_in_windows([wave], local_net, 2, window, overlap)
    np.testing.assert_allclose(rows, local_net(wave[None])[0], atol=1e-6)


@given(num_samples=st.integers(400, 3000))
@settings(max_examples=25, deadline=None)
def test_there_are_as_many_rows_as_huberts_convolutions_give(num_samples):
    config = HubertConfig()
    expected = HubertModel._get_feat_extract_output_lengths(type("Net", (), {"config": config})(), num_samples)
    assert num_content_frames(num_samples) == int(expected) == (num_samples - 80) // 320


@pytest.mark.parametrize("num_samples", [0, 1, 399])
def test_a_clip_too_short_for_one_row_has_none(num_samples):
    [rows] = encode_in_windows([noise(num_samples)], local_net, 2, 20, 2)
    assert rows.shape == (0, 2)


def test_pieces_of_like_length_share_a_batch_and_clips_come_back_in_order():
    lengths = []

    def net(waves):
        lengths.append([len(wave) for wave in waves])
        return local_net(waves)

    clips = [noise(n, seed) for seed, n in enumerate([90_000, 100_000, 91_000, 300, 4000])]
    rows = encode_in_windows(clips, net, 2, 1000, 10)
    assert lengths == [[4000, 90_000], [91_000, 100_000]]
    for clip, own in zip(clips, rows, strict=True):
        if len(own):
            np.testing.assert_allclose(own, local_net(clip[None])[0], atol=1e-6)


def test_batches_stay_within_their_rows():
    sizes = []

    def net(waves):
        sizes.append(len(waves) * num_content_frames(max(len(wave) for wave in waves)))
        return local_net(waves)

    encode_in_windows([noise(64_000 - 320 * n) for n in range(20)], net, 2, 200, 50)
    assert 0.7 * BATCH_FRAMES < max(sizes) <= BATCH_FRAMES
    assert sum(sizes) < 1.1 * sum(num_content_frames(64_000 - 320 * n) for n in range(20))


def test_where_windows_disagree_their_rows_are_cross_faded():
    count = 0

    def net(waves):
        """All features of window k are k, so that windows differ as much as possible."""
        nonlocal count
        first = count
        count += len(waves)
        return [np.full((num_content_frames(len(wave)), 1), first + n, np.float32) for n, wave in enumerate(waves)]

    [rows] = encode_in_windows([noise(1000 * 320)], net, 1, 200, 50)
    assert rows.min() == 0
    assert rows.max() == pytest.approx(count - 1)
    assert np.abs(np.diff(rows[:, 0])).max() < 2 / 50
    assert torch.tensor(np.diff(rows[:, 0])).ge(-1e-6).all()
