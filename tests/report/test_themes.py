import io
import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from alexnet_jax.report.themes import DARK, LIGHT, Panel, png, shortened, write

# Machado et al., 2009: how people without one kind of cones see linear RGB.
SIGHT = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def linear(color: str) -> np.ndarray:
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Björn Ottosson's space, where equal distances look equally different."""
    cones = [[0.4122214708, 0.5363325363, 0.0514459929],
             [0.2119034982, 0.6806995451, 0.1073969566],
             [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
    lab = [[0.2104542553, 0.7936177850, -0.0040720468],
           [1.9779984951, -2.4285922050, 0.4505937099],
           [0.0259040371, 0.7827717662, -0.8086757660]]  # fmt: skip
    return np.array(lab) @ np.cbrt(np.array(cones) @ np.clip(rgb, 0, 1))


def contrast(one: str, other: str) -> float:
    """That of WCAG 2."""
    light = [0.05 + linear(c) @ [0.2126, 0.7152, 0.0722] for c in (one, other)]
    return max(light) / min(light)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_lines_differ_for_colour_blind_readers_too(theme):
    assert len(theme.lines) == len(LIGHT.lines)
    for sight in SIGHT.values():
        seen = [oklab(np.array(sight) @ linear(color)) for color in theme.lines]
        nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
        assert nearest > 0.12  # the widely used one of Okabe and Ito has 0.08
        right, other = (
            oklab(np.array(sight) @ linear(c)) for c in (theme.right, theme.other)
        )
        assert np.linalg.norm(right - other) > 0.12
    assert min(contrast(color, theme.paper) for color in theme.lines) > 3
    assert contrast(theme.ink, theme.paper) > 12
    assert contrast(theme.muted, theme.paper) > 4.5


def test_panels_are_laid_out_row_by_row_on_the_paper_of_their_theme():
    def fill(color):
        def draw(cell, theme):
            axes = cell.add_axes((0.25, 0.25, 0.5, 0.5))
            axes.set(facecolor=color, xticks=[], yticks=[])

        return Panel("", 1.0, 0.5, draw)

    panels = [fill(color) for color in ("#ff0000", "#00ff00", "#0000ff")]
    for theme in (LIGHT, DARK):
        image = np.asarray(Image.open(io.BytesIO(png(panels, theme, columns=2))))
        assert image.shape[:2] == (160, 320)
        centres = image[40::80, 80::160, :3].reshape(-1, 3).tolist()
        paper = (255 * np.array(to_rgb(theme.paper))).round().tolist()
        assert centres == [[255, 0, 0], [0, 255, 0], [0, 0, 255], paper]
        assert image[0, 0, :3].tolist() == paper
    assert png(panels, LIGHT) == png(panels, LIGHT)


def test_any_text_can_be_written():
    def draw(cell, theme):
        write(cell.subplots(), 0, 0, '$\\frac{1} 猫 <b>&" \ufffd', theme.ink)

    assert png([Panel("", 2.0, 1.0, draw)], LIGHT).startswith(b"\x89PNG")


def test_names_are_shortened_in_the_middle():
    assert shortened("abcdefgh", 8) == "abcdefgh"
    assert shortened("abcdefghij", 8) == "abc…ghij"
    assert len(shortened("x" * 99, 7)) == 7
