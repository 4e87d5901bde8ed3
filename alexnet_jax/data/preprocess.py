"""From an image file to a square of pixels: one path for every source and every use.

Training, evaluation, prediction and `prepare` all call `Square.pixels`, so that an
image has the same pixels everywhere.
"""

import contextlib
import ctypes
import io
import logging
import warnings
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from alexnet_jax.data.images import StoredImage, StoredPixels
from alexnet_jax.errors import ImageError

HEIC = (".heic", ".heif", ".hif")  # endings; Pillow decodes it only with a plug-in
# Pillow knows thirty more. One of them, EPS, is a program, for which it starts another.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# A scan of a progressive JPEG may be a few bytes, and decoding it takes a pass over all
# pixels. Programs write about ten.
SCAN, SCANS = b"\xff\xda", 64

# Pillow warns of odd tags and large sizes, and its libtiff prints what is wrong with a
# file; decode() reads or refuses such images.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
with contextlib.suppress(AttributeError, OSError):  # where libtiff is linked otherwise
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


@dataclass(frozen=True)
class Square:
    """The shorter side to `size`, then the central square (§2).

    Attributes:
        size: side of the square in pixels.
        exif_rotation: whether to rotate an image first as its EXIF orientation says;
            neither the paper nor the 2012 code mentions it.
    """

    size: int
    exif_rotation: bool = True

    def pixels(
        self, record: tuple[str, StoredImage, int], out: np.ndarray | None = None
    ) -> np.ndarray:
        """The size×size×3 uint8 pixels of a record, in `out` if that is given.

        Raises ImageError if the image cannot be decoded.
        """
        name, image, _ = record
        if isinstance(image, bytes):
            image = decode(image, name, out, self.exif_rotation)
        elif isinstance(image, StoredPixels):
            if out is not None and out.shape == image.shape:
                return image.into(out)
            image = np.asarray(image)
        square = self._central(image)
        if out is None or square is out:
            return square
        out[:] = square
        return out

    def _central(self, image: np.ndarray) -> np.ndarray:
        height, width, _ = image.shape
        if height == width == self.size:
            return image
        # One call resizes and crops: the central square alone is computed, and at its
        # edges the filter reads the pixels around it, as if all had been resized. Only
        # fractions of a pixel may fall differently. Bicubic, with antialiasing.
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        square = Image.fromarray(image).resize(
            (self.size, self.size), Image.Resampling.BICUBIC, box
        )
        return np.asarray(square)


def decode(
    data: bytes, name: str, out: np.ndarray | None = None, exif_rotation: bool = True
) -> np.ndarray:
    """Decode an image file to RGB.

    Greyscale is repeated, CMYK and palettes are converted, 16 bits keep their upper 8,
    32 bits are 0 to 1 (floats), 255 or 65,535 by the largest, alpha is dropped,
    of an animation the first frame is taken. The bytes decide the format, not the
    name: ILSVRC2012 has a PNG named .JPEG.

    Args:
        data: the bytes of the file.
        name: the image's name, for messages.
        out: height×width×3 uint8, which receives the pixels if they have its shape, and
            may be overwritten in any case; this saves a copy.
        exif_rotation: whether to rotate the image as its EXIF orientation says; Pillow
            rotates a TIFF in any case.

    Returns:
        height×width×3 uint8. Raises ImageError where this is no whole image.
    """
    try:
        # Counting bytes takes 40 µs of the 590 of an ordinary JPEG of 45 kB.
        many = _may_be_progressive(data) and data.count(SCAN) > SCANS
        if many and (scans := _scans(data)) > SCANS:
            raise ValueError(f"{scans:,} scans of one image; save it again with fewer")
        ordinary = _ordinary_jpeg(data, out, exif_rotation)
        if ordinary is not None:
            return ordinary
        with open_image(data) as image:
            image.load()
            if exif_rotation:
                _rotate(image)
            return np.asarray(_rgb(image))
    except MemoryError:
        raise  # says nothing about the image
    except Exception as error:  # Pillow's decoders raise a dozen kinds
        # Old work directories hold these words (unreadable.txt) and compare them.
        reason = "not a known picture format" if data else "the file is empty"
        if data and name.lower().endswith(HEIC):
            reason = "HEIC is not supported; convert it to JPEG"
        if not isinstance(error, Image.UnidentifiedImageError):
            reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ImageError(f"{name}: cannot be decoded: {reason}") from None


def _rotate(image: Image.Image) -> None:
    """Rotate an image as its EXIF orientation says.

    Pillow writes all tags back into `info`, and fails where one of them, which nobody
    needs here, cannot be written: not if they are no longer there.
    """
    image.getexif()  # kept by the image
    for key in ("exif", "Raw profile type exif"):
        image.info.pop(key, None)
    ImageOps.exif_transpose(image, in_place=True)


def open_image(data: bytes) -> Image.Image:
    """The header of an image file; Pillow's decoders raise a dozen kinds."""
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _ordinary_jpeg(
    data: bytes, out: np.ndarray | None, exif_rotation: bool
) -> np.ndarray | None:
    """The pixels of a grey or YCbCr JPEG without EXIF; None for other files.

    Pillow uses the same library and returns the same pixels, but takes 1.6 times as
    long (256 pixels, one core) and holds Python's lock for most of that time.
    """
    if not data.startswith(b"\xff\xd8\xff") or (exif_rotation and _may_have_exif(data)):
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
    except ValueError:  # damaged; Pillow names the damage
        return None


def _may_have_exif(jpeg: bytes) -> bool:
    """Whether a segment before the first scan is EXIF, or the segments are damaged."""
    at = 2
    while jpeg[at : at + 1] == b"\xff":
        if jpeg[at + 1 : at + 2] == b"\xda":  # the scan begins
            return False
        if jpeg[at + 4 : at + 10] == b"Exif\0\0":
            return True
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return True


def _may_be_progressive(data: bytes) -> bool:
    """Whether the frame of a JPEG is progressive, or its segments are damaged."""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 1 < len(data):
        if data[at + 1] in (0xC0, 0xC1, 0xC9, 0xDA):  # sequential, or the scan begins
            return False
        if data[at + 1] in (0xC2, 0xCA):
            return True
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.startswith(b"\xff\xd8\xff")


def _scans(jpeg: bytes) -> int:
    """The number of scans before the end of the image; what follows it is not read."""
    scans, at = 0, 2
    while 0 <= at < len(jpeg) - 3 and jpeg[at + 1] != 0xD9:
        kind = jpeg[at + 1]
        scans += kind == 0xDA
        alone = kind in (0, 1, 0xFF) or 0xD0 <= kind <= 0xD8  # no length follows
        size = 0 if alone else int.from_bytes(jpeg[at + 2 : at + 4], "big")
        at = jpeg.find(b"\xff", at + 2 - (kind == 0xFF) + size)
    return scans


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.mode.startswith("I"):  # 16 bits a pixel; convert() would clip at 255
        grey = np.asarray(image).astype(np.int32) >> 8
        image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    elif "transparency" in image.info:  # convert() warns on the direct way to RGB
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """Grey levels of 32 bits, whose white is 1 (of floats), 255 or 65,535."""
    least, most = grey.min(), grey.max()
    if not (least >= 0 and most <= 65_535):  # nor where one is not a number
        raise ValueError(
            f"its grey levels, {least:g} to {most:g}, must be 0 to 1, to 255 or to "
            "65,535; convert it to 8 bits"
        )
    if grey.dtype.kind == "f" and most <= 1:
        grey = np.rint(grey * 255)
    return (grey if most <= 255 else grey // 256).astype(np.uint8)
