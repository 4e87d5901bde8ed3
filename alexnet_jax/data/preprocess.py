"""From a picture file to a square of pixels: one path for every source and every use.

Training, evaluation, prediction and `prepare` all come through here, so that a picture
has the same pixels wherever it is met.
"""

import io

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from alexnet_jax.data.images import Stored, Unread
from alexnet_jax.errors import PictureError


def decode(data: bytes, name: str, out: np.ndarray | None = None) -> np.ndarray:
    """Decode a picture file to RGB, standing upright as its EXIF orientation says.

    Greyscale is repeated, CMYK and palettes are converted, 16 bits keep their upper 8,
    alpha is dropped, of an animation the first frame is taken. The format is told by
    the bytes: ILSVRC2012 has a PNG named .JPEG.

    Args:
        data: the bytes of the file.
        name: the picture's name, for messages.
        out: height×width×3 uint8 that may be overwritten, and that the pixels may come
            back in where they have its shape: one copy less.

    Returns:
        height×width×3 uint8.

    Raises:
        PictureError: not a picture, or not a whole one.
    """
    ordinary = _ordinary_jpeg(data, out)
    if ordinary is not None:
        return ordinary
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(_rgb(image))
    except Exception as error:  # Pillow's decoders raise a dozen kinds
        reason = "not a known picture format" if data else "the file is empty"
        if not isinstance(error, Image.UnidentifiedImageError):
            reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise PictureError(f"{name}: cannot be decoded: {reason}") from None


def _ordinary_jpeg(data: bytes, out: np.ndarray | None) -> np.ndarray | None:
    """The pixels of a JPEG as nearly all are; None for what Pillow has to look at.

    Pillow has the same library beneath it and gives the same pixels, in 1.6 times the
    time (256 pixels, one core) and holding Python's lock for most of it.
    """
    if not data.startswith(b"\xff\xd8\xff") or _may_have_exif(data):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        too_large = Image.MAX_IMAGE_PIXELS and height * width > Image.MAX_IMAGE_PIXELS
        if colours not in ("YCbCr", "Gray") or too_large:
            return None
        if out is None or out.shape != (height, width, 3):
            return simplejpeg.decode_jpeg(data, "RGB")
        simplejpeg.decode_jpeg(data, "RGB", buffer=out)
        return out
    except ValueError:  # damaged; Pillow says how
        return None


def _may_have_exif(jpeg: bytes) -> bool:
    """Whether one of the segments before the picture itself is Exif's."""
    at = 2
    while jpeg[at : at + 1] == b"\xff":
        if jpeg[at + 1 : at + 2] == b"\xda":  # here the picture begins
            return False
        if jpeg[at + 4 : at + 10] == b"Exif\0\0":
            return True
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return True


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel; convert() would clip at 255
        grey = np.asarray(image).astype(np.int32) >> 8
        image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    elif "transparency" in image.info:  # convert() warns on the direct way to RGB
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def square(picture: np.ndarray, size: int) -> np.ndarray:
    """Bring the shorter side to `size` and take the central square (§2).

    The central square is resized alone, the same result as resizing all of the picture
    first but for where fractions of a pixel fall, and at the edges of the square, of
    which the filter sees only the inner side. Bicubic, with antialiasing; a picture of
    this very size is returned as it is.

    Args:
        picture: height×width×3 uint8.
        size: side of the square in pixels.

    Returns:
        size×size×3 uint8.
    """
    height, width, _ = picture.shape
    if (height, width) == (size, size):
        return picture
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    image = Image.fromarray(picture)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box))


def pixels(
    record: tuple[str, Stored, int], size: int, out: np.ndarray | None = None
) -> np.ndarray:
    """The size×size×3 uint8 pixels of a record (name, image file or pixels, label).

    Args:
        record: the picture.
        size: side of the square in pixels.
        out: size×size×3 uint8, where to put them.

    Returns:
        The pixels; `out`, if it is given.

    Raises:
        PictureError: the picture cannot be decoded.
    """
    name, image, _ = record
    if isinstance(image, bytes):
        picture = decode(image, name, out)
    elif isinstance(image, Unread) and out is not None and out.shape == image.shape:
        picture = image.into(out)
    else:
        picture = np.asarray(image)
    seen = square(picture, size)
    if out is None or seen is out:
        return seen
    out[:] = seen
    return out
