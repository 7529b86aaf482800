"""Plots of log-mels: panels above each other, time to the right, frequency upwards."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rvc_engine.audio.mel import mel_filters

PIXELS_PER_FRAME = 2
PIXELS_PER_BAND = 2
RANGE = 8.0
"""Nepers between the darkest and the brightest colour: 70 dB."""
_FRAMES_PER_SECOND = 100
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 16, 10, 24
"""Margins of a panel in pixels, for its labels."""
_TICKS_HZ = (250, 1000, 2000, 4000, 8000, 16_000)
_INK = (40, 40, 40)
_PAPER = (255, 255, 255)
_FONT_SIZE = 12

# Inferno (van der Walt and Smith, CC0) at eight points: perceptually uniform, also for the colour-blind.
_COLOURS = np.array(
    [
        (0, 0, 4),
        (40, 11, 84),
        (101, 21, 110),
        (159, 42, 99),
        (212, 72, 66),
        (245, 125, 21),
        (250, 193, 39),
        (252, 255, 164),
    ],
    np.float64,
)


def plot_mels(mels: Sequence[NDArray[np.float32]], sample_rate: int) -> bytes:
    """Draw log-mels, each (n_mels, T) of natural logarithms, as the panels of a PNG.

    All have the colour scale of the first, so that equal colours are equal levels. Panels have no titles, which
    would be of one language: their names are a matter of the caption.
    """
    brightest = float(np.percentile(mels[0], 99.9))
    heights = [mel.shape[0] * PIXELS_PER_BAND + _TOP + _BOTTOM for mel in mels]
    width = max(mel.shape[1] for mel in mels) * PIXELS_PER_FRAME + _LEFT + _RIGHT
    image = Image.new("RGB", (width, sum(heights)), _PAPER)
    top = 0
    for mel, height in zip(mels, heights, strict=True):
        _draw(image, top, mel, brightest, sample_rate)
        top += height
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _draw(image: Image.Image, top: int, mel: NDArray[np.float32], brightest: float, sample_rate: int) -> None:
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(_FONT_SIZE)
    num_bands, num_frames = mel.shape
    height = num_bands * PIXELS_PER_BAND
    image.paste(_colorize(mel, brightest), (_LEFT, top + _TOP))
    for hz, band in _ticks(sample_rate, num_bands):
        y = top + _TOP + height - PIXELS_PER_BAND * band
        draw.line((_LEFT - 4, y, _LEFT - 1, y), _INK)
        draw.text((_LEFT - 8, y), f"{hz / 1000:g} kHz", _INK, font, anchor="rm")
    bottom = top + _TOP + height
    for second in range(num_frames // _FRAMES_PER_SECOND + 1):
        x = _LEFT + second * _FRAMES_PER_SECOND * PIXELS_PER_FRAME
        draw.line((x, bottom, x, bottom + 3), _INK)
        draw.text((x, bottom + 5), f"{second} s", _INK, font, anchor="ma")


def _ticks(sample_rate: int, num_bands: int) -> list[tuple[int, int]]:
    """Frequencies in Hz of the axis, each with the mel band of its largest response."""
    n_fft = sample_rate // 10  # bins 10 Hz apart
    filters = mel_filters(sample_rate, n_fft, num_bands)
    return [(hz, int(filters[:, hz // 10].argmax())) for hz in _TICKS_HZ if hz < sample_rate / 2]


def _colorize(mel: NDArray[np.float32], brightest: float) -> Image.Image:
    """Image of a mel (n_mels, T), low bands at the bottom."""
    shares = np.clip((mel[::-1].astype(np.float64) - brightest) / RANGE + 1, 0, 1) * (len(_COLOURS) - 1)
    points = np.arange(len(_COLOURS))
    pixels = np.stack([np.interp(shares, points, channel) for channel in _COLOURS.T], axis=-1).round().astype(np.uint8)
    large = pixels.repeat(PIXELS_PER_BAND, axis=0).repeat(PIXELS_PER_FRAME, axis=1)
    return Image.fromarray(np.ascontiguousarray(large))
