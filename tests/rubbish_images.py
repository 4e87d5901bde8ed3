"""Images in every format that is read, whole, and bombs."""

import functools
import io
import struct
import zlib

import numpy as np
from pictures import drawn
from PIL import Image


def _file(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def images() -> dict[str, bytes]:
    """{name: bytes}, each kind that is read in its variants."""
    pixels = drawn(5)
    rgb = Image.fromarray(pixels)
    grey, rgba = rgb.convert("L"), rgb.convert("RGBA")
    palette = rgb.quantize(16)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9003] = "2012:09:30 12:00:00"
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    wide = Image.fromarray(pixels[..., 0].astype(np.int32) * 257)
    floats = Image.fromarray((pixels[..., 0] / 255).astype(np.float32))
    bits = grey.convert("1")
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    return {
        "base.jpg": _file(rgb, "JPEG", quality=90),
        "progressive.jpg": _file(rgb, "JPEG", progressive=True),
        "grey.jpg": _file(grey, "JPEG"),
        "cmyk.jpg": _file(rgb.convert("CMYK"), "JPEG"),
        "turned.jpg": _file(rgb, "JPEG", exif=exif, icc_profile=b"no profile" * 20),
        "restart.jpg": _file(rgb, "JPEG", restart_marker_rows=1, optimize=True),
        "several.jpg": _file(rgb, "MPO", **frames),
        "rgb.png": _file(rgb, "PNG", exif=exif),
        "rgba.png": _file(rgba, "PNG"),
        "bits.png": _file(bits, "PNG"),
        "deep.png": _file(deep, "PNG"),
        "palette.png": _file(palette, "PNG", transparency=b"\x80\xff"),
        "moving.png": _file(rgb, "PNG", **frames),
        "interlaced.png": _interlaced(pixels),
        "plain.gif": _file(palette, "GIF"),
        "moving.gif": _file(rgb, "GIF", **frames),
        "rgb.bmp": _file(rgb, "BMP"),
        "bits.bmp": _file(bits, "BMP"),
        "palette.bmp": _file(palette, "BMP"),
        "rle.bmp": _rle_bmp(),
        "lossy.webp": _file(rgb, "WEBP", exif=exif),
        "lossless.webp": _file(rgba, "WEBP", lossless=True),
        "moving.webp": _file(rgb, "WEBP", **frames),
        "rgb.avif": _file(rgb, "AVIF"),
        "rgb.tif": _file(rgb, "TIFF"),
        "floats.tif": _file(floats, "TIFF"),
        "wide.tif": _file(wide, "TIFF"),
        "deep.tif": _file(deep, "TIFF"),
        "lzw.tif": _file(rgb, "TIFF", compression="tiff_lzw"),
        "deflate.tif": _file(rgba, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": _file(rgb, "TIFF", compression="jpeg"),
        "packbits.tif": _file(palette, "TIFF", compression="packbits"),
        "group4.tif": _file(bits, "TIFF", compression="group4"),
        "pages.tif": _file(
            Image.fromarray(pixels),
            "TIFF",
            save_all=True,
            append_images=[Image.fromarray(drawn(6))],
        ),
        "rgb.ppm": _file(rgb, "PPM"),
        "grey.pgm": _file(grey, "PPM"),
        "bits.pbm": _file(bits, "PPM"),
        "text.ppm": b"P3\n2 2\n255\n" + b"9 8 7 " * 4 + b"\n",
        "floats.pfm": b"Pf\n4 3\n-1.0\n" + struct.pack("<12f", *range(12)),
    }


def _interlaced(pixels: np.ndarray) -> bytes:
    """A PNG in Adam7's seven passes, which Pillow reads but does not write."""
    height, width, _ = pixels.shape
    rows = b""
    for y, x, dy, dx in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4),
                         (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)):  # fmt: skip
        rows += b"".join(b"\0" + row.tobytes() for row in pixels[y::dy, x::dx])
    return png(width, height, zlib.compress(rows), kind=2, interlaced=1)


def png(width: int, height: int, idat: bytes, kind: int = 0, interlaced: int = 0):
    """A PNG of 8 bits, grey (0) or RGB (2), of any content."""
    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, interlaced)
    chunks = ((b"IHDR", head), (b"IDAT", idat), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c))
        for k, c in chunks
    )


def _rle_bmp() -> bytes:
    rows = b"\x04\x01\0\0" * 4 + b"\0\x01"
    head = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 8, 1, len(rows), 0, 0, 2, 0)
    offset = 14 + len(head) + 8
    return (
        struct.pack("<2sIHHI", b"BM", offset + len(rows), 0, 0, offset)
        + head
        + (b"\0\0\0\0\xff\xff\xff\0" + rows)
    )


@functools.cache
def bombs() -> dict[str, bytes]:
    """Small files that ask for much memory or time."""
    side = 50_000
    zeros = zlib.compress(bytes(100_000_000), 9)
    tiff = Image.fromarray(drawn(1)).convert("L")
    big_tiff = bytearray(_file(tiff, "TIFF", compression="tiff_lzw"))
    found = {
        "huge.png": png(side, side, zeros),
        "huge.rgb.png": png(side, side, zeros[: len(zeros) // 2], kind=2),
        "tall.png": png(1, 2**31 - 1, zeros),
        "huge.gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0)
        + bytes(6) + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
        + b"\x08\x02\x00\x01\x00;",
        "huge.frame.gif": b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0x80, 0, 0)
        + bytes(6) + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
        + b"\x08\x02\x00\x01\x00;",
        "huge.webp": _huge_webp(),
        "huge.ppm": b"P6\n50000 50000\n255\n" + bytes(1000),
        "huge.text.ppm": b"P3\n9 9\n255\n" + b"9" * 200_000,
        "huge.bmp": struct.pack("<2sIHHI", b"BM", 9999, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0),
        "scans.jpg": many_scans(6000, 6000, 4000),
    }  # fmt: skip
    for tag, name in ((256, "wide"), (257, "high")):
        data = bytearray(big_tiff)
        at = int.from_bytes(data[4:8], "little")
        for i in range(int.from_bytes(data[at : at + 2], "little")):
            entry = at + 2 + 12 * i
            if int.from_bytes(data[entry : entry + 2], "little") == tag:
                data[entry : entry + 12] = struct.pack("<HHII", tag, 4, 1, 60_000_000)
        found[f"{name}.tif"] = bytes(data)
    return found


def _huge_webp() -> bytes:
    """An animation of 16,383 × 16,383 pixels with a frame of one."""
    one = _file(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    side = (16_383).to_bytes(3, "little")
    vp8x = b"VP8X" + struct.pack("<II", 10, 2) + side + side
    anim = b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    frame = bytes(6) + bytes(6) + b"\x0a\0\0\0" + one
    anmf = b"ANMF" + struct.pack("<I", len(frame)) + frame
    body = b"WEBP" + vp8x + anim + anmf
    return b"RIFF" + struct.pack("<I", len(body)) + body


def many_scans(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG in which each scan costs time and hardly a byte.

    A grey image whose scans of one coefficient are all runs of empty blocks.
    """

    def segment(marker: int, content: bytes) -> bytes:
        return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content

    # One code of one bit: the longest run of empty blocks, 32,768 and 14 more bits.
    table = bytes([1] + [0] * 15)
    blocks = (width // 8 + 1) * (height // 8 + 1)
    bits = "0" + "1" * 14  # EOB14, 2^14 + 16,383 blocks
    runs = bits * (blocks // 32_767 + 1)
    runs = runs.ljust(-(-len(runs) // 8) * 8, "1")
    coded = int(runs, 2).to_bytes(len(runs) // 8, "big").replace(b"\xff", b"\xff\0")
    scan = segment(0xDA, bytes([1, 1, 0, 1, 1, 0])) + coded
    dc = segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(blocks // 8 + 1)
    head = struct.pack(">BHHB", 8, height, width, 1) + bytes([1, 0x11, 0])
    return (
        b"\xff\xd8" + segment(0xDB, bytes([0]) + bytes([1] * 64)) + segment(0xC2, head)
        + segment(0xC4, bytes([0x00]) + table + b"\0")
        + segment(0xC4, bytes([0x10]) + table + b"\xe0")
        + dc + scan * scans + b"\xff\xd9"
    )  # fmt: skip
