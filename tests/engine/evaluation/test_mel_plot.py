"""Plots of log-mels: time to the right, low frequencies at the bottom, high levels bright."""

import io

import numpy as np
from PIL import Image

from rvc_engine.audio.mel import mel_filters
from rvc_engine.evaluation.mel_plot import _BOTTOM, _LEFT, _TOP, PIXELS_PER_BAND, PIXELS_PER_FRAME, plot_mels

RATE, BANDS, FRAMES = 40_000, 125, 200


def tone(hz: float, frames: slice) -> np.ndarray:
    """A log-mel that is silent except for one frequency at some frames."""
    mel = np.full((BANDS, FRAMES), -12.0, np.float32)
    mel[mel_filters(RATE, 4000, BANDS)[:, round(hz / 10)].argmax(), frames] = 0.0
    return mel


def brightness(png: bytes, top: int) -> np.ndarray:
    """(bands, frames), of the panel that begins at this row."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    rows = slice(top + _TOP, top + _TOP + BANDS * PIXELS_PER_BAND, PIXELS_PER_BAND)
    columns = slice(_LEFT, _LEFT + FRAMES * PIXELS_PER_FRAME, PIXELS_PER_FRAME)
    return pixels[rows, columns]


def test_each_panel_shows_its_sound_where_it_is() -> None:
    early_low, late_high = tone(250, slice(0, 50)), tone(4000, slice(150, 200))
    png = plot_mels([early_low, late_high], RATE)
    above, below = brightness(png, 0), brightness(png, BANDS * PIXELS_PER_BAND + _TOP + _BOTTOM)
    for shown, mel in ((above, early_low), (below, late_high)):
        assert np.array_equal(shown > 128, mel[::-1] > -1)


def test_both_panels_are_on_the_scale_of_the_first() -> None:
    loud = tone(1000, slice(0, 200))
    png = plot_mels([loud, loud - 5], RATE)
    above, below = brightness(png, 0), brightness(png, BANDS * PIXELS_PER_BAND + _TOP + _BOTTOM)
    assert above.max() > below.max() > below.min()


def test_a_picture_has_no_words_which_would_be_of_one_language() -> None:
    """Above the first panel, where a title would be, is nothing."""
    margin = np.asarray(Image.open(io.BytesIO(plot_mels([tone(1000, slice(0, 200))], RATE))))[:_TOP, _LEFT:-_LEFT]
    assert (margin == margin[0, 0]).all()
