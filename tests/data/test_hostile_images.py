"""Images that are odd, huge or damaged on purpose."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from pictures import drawn, encoded
from PIL import Image
from rubbish_images import bombs, many_scans

from alexnet_jax.data.folders import ClassFolders, image_files
from alexnet_jax.data.preprocess import _scans, decode
from alexnet_jax.errors import ImageError

LEVELS = np.arange(256).reshape(16, 16)


def tiff(pixels: np.ndarray, **options) -> bytes:
    return encoded(pixels, "TIFF", **options)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ((LEVELS / 255).astype(np.float32), LEVELS),
        (LEVELS.astype(np.float32), LEVELS),
        ((LEVELS * 257).astype(np.float32), LEVELS),
        (LEVELS.astype(np.int32), LEVELS),
        ((LEVELS * 257).astype(np.int32), LEVELS),
        ((LEVELS * 257).astype(np.uint16), LEVELS),
        ((LEVELS > 99).astype(np.float32), 255 * (LEVELS > 99)),
    ],
)
def test_grey_of_any_width_has_its_levels(pixels, expected):
    image = decode(tiff(pixels), "x.tif")
    np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, 2))


@pytest.mark.parametrize("odd", [-1, 65_536, np.nan, np.inf])
def test_grey_without_a_known_white_is_refused(odd):
    pixels = LEVELS.astype(np.float32)
    pixels[3, 3] = odd
    with pytest.raises(ImageError, match=r"^x.tif: .*must be 0 to 1, to 255 or to 65"):
        decode(tiff(pixels), "x.tif")


@pytest.mark.parametrize("name", bombs())
def test_bombs_are_refused(name):
    with pytest.raises(ImageError, match=f"^{name}: cannot be decoded: ") as caught:
        decode(bombs()[name], name)
    assert "\n" not in str(caught.value)


def test_scans_are_counted_up_to_the_end_of_the_image():
    for progressive in (False, True):
        data = encoded(drawn(1), "JPEG", progressive=progressive)
        real = data.count(b"\xff\xda")  # entropy-coded bytes hold none
        assert _scans(data) == real
        assert _scans(data + b"\xff\xda" * 99) == real  # the video of a moving photo
        np.testing.assert_array_equal(
            decode(data + b"\xff\xda" * 99, "x"), decode(data, "x")
        )
    few = many_scans(64, 64, 60)
    assert _scans(few) == 61
    assert decode(few, "x").shape == (64, 64, 3)


def test_a_program_is_no_image():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nquit\n"
    assert Image.open(io.BytesIO(eps)).format == "EPS"
    with pytest.raises(ImageError, match="not a known picture format"):
        decode(eps, "x.jpg")


def test_libraries_print_nothing(tmp_path):
    program = """
import sys
from alexnet_jax.data.preprocess import decode
from alexnet_jax.errors import ImageError
data = open(sys.argv[1], "rb").read()
for i in range(0, len(data), 7):
    try:
        decode(data[:i] + b"\\x99" * 9 + data[i + 9:], "x")
    except ImageError:
        pass
"""
    for compression in ("tiff_lzw", "jpeg", "tiff_adobe_deflate"):
        file = tmp_path / "x.tif"
        file.write_bytes(tiff(drawn(1, 24, 24), compression=compression))
        done = subprocess.run(
            [sys.executable, "-c", program, file], capture_output=True, check=True
        )
        assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize("pattern", ["**", "**/*.png", "a/**/*.png", "*"])
def test_links_that_go_round_end(tmp_path, pattern):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(encoded(drawn(0)))
    for i in range(9):
        (tmp_path / "a" / f"up{i}").symlink_to(tmp_path)
        (tmp_path / "a" / f"here{i}").symlink_to(".")
    assert list(image_files([f"{tmp_path}/{pattern}"])) == [f"{tmp_path}/a/0.png"]
    assert ClassFolders(tmp_path, "k").names == ["a/0.png"]


def test_a_pipe_is_not_waited_for(tmp_path):
    (tmp_path / "cat").mkdir()
    os.mkfifo(tmp_path / "cat" / "0.png")
    (tmp_path / "cat" / "1.png").symlink_to("/dev/zero")
    source = ClassFolders(tmp_path, "k")
    for i in range(2):
        with pytest.raises(ImageError, match="cannot be read: not a plain file"):
            source[i]
