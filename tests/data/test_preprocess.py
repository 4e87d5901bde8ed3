import io
import struct
import tarfile
import warnings

import numpy as np
import pytest
from pictures import drawn, encoded
from PIL import Image, ImageOps

from alexnet_jax.data import preprocess
from alexnet_jax.data.preprocess import Square, decode
from alexnet_jax.errors import ImageError

# One odd kind each; every one shows the left half red, the right half blue-green.
HALVES = np.zeros((32, 64, 3), np.uint8)
HALVES[:, :32] = 200, 40, 40
HALVES[:, 32:] = 20, 160, 180


def mean(image) -> np.ndarray:
    return np.asarray(image).reshape(-1, 3).mean(0)


def edge_case(shared_data, name) -> np.ndarray:
    return decode((shared_data / "edge-cases" / name).read_bytes(), name)


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("JPEG", {"quality": 95}, 3),
        ("JPEG", {"quality": 95, "progressive": True}, 3),
        ("BMP", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {}, 0),
    ],
)
def test_formats(kind, options, tolerance):
    image = decode(encoded(HALVES, kind, **options), "x")
    inner = np.abs(image.astype(int) - HALVES)[:, np.r_[:28, 36:64]]
    assert inner.max() <= tolerance


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [30, 95])
def test_jpegs_have_the_pixels_that_pillow_gives(subsampling, progressive, quality):
    rng = np.random.default_rng(quality)
    noise = Image.fromarray(rng.integers(0, 256, (9, 11, 3)).astype(np.uint8))
    picture = np.asarray(noise.resize((61, 43), Image.Resampling.BICUBIC))
    options = {"quality": quality, "progressive": progressive}
    for stored in (picture, picture[..., 0]):
        data = encoded(stored, "JPEG", subsampling=subsampling, **options)
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(decode(data, "x"), expected)


def test_photographs_have_the_pixels_that_pillow_gives(shared_data):
    with tarfile.open(
        shared_data / "imagenet-samples" / "imagenet-samples-300.tar"
    ) as tar:
        files = [member for member in tar if member.isfile()][::12]
        photographs = {f.name: tar.extractfile(f).read() for f in files}
    for file in (shared_data / "edge-cases").glob("*444*"):
        photographs[file.name] = file.read_bytes()
    assert len(photographs) > 20
    for name, data in photographs.items():
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        np.testing.assert_array_equal(decode(data, name), expected, err_msg=name)


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK"])
def test_modes_keep_their_colours(mode, tmp_path):
    file = tmp_path / "x"
    image = Image.fromarray(HALVES)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    image.save(file, "TIFF")
    decoded = decode(file.read_bytes(), "x")
    np.testing.assert_allclose(decoded, HALVES, atol=3)


def test_transparent_palette_without_a_warning(tmp_path):
    image = Image.fromarray(HALVES).quantize(4)
    image.save(tmp_path / "x", "PNG", transparency=b"\x80\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = decode((tmp_path / "x").read_bytes(), "x")
    np.testing.assert_allclose(decoded, HALVES, atol=3)


def test_sixteen_bit_grey_keeps_its_upper_eight(tmp_path):
    grey = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "x", "PNG")
    decoded = decode((tmp_path / "x").read_bytes(), "x")
    np.testing.assert_array_equal(decoded[0, :, 0], [0, 0, 1, 128, 255])
    np.testing.assert_array_equal(decoded, np.repeat(decoded[..., :1], 3, 2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation):
    # The top left corner of the scene, and where each orientation stores it.
    scene = Image.fromarray(HALVES)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = scene.transpose(undo[orientation]) if orientation > 1 else scene
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(np.asarray(stored), "PNG", exif=exif), "x")
    np.testing.assert_array_equal(decoded, HALVES)


@pytest.mark.parametrize(
    ("tag", "kind", "data"),
    [
        (0x011A, 10, struct.pack("<ii", -1, 0)),  # XResolution; Pillow issue 8965
        (0x011A, 11, struct.pack("<f4x", np.nan)),
        (0x010F, 5, struct.pack("<II", 3, 2)),  # Make, a text
    ],
    ids=["a negative rational", "not a number", "a rational for a text"],
)
def test_a_tag_that_pillow_cannot_write_is_no_damage(tag, kind, data):
    # A TIFF of one directory with two entries of 12 bytes, and the data behind it.
    header = b"Exif\0\0" + struct.pack("<2sHIH", b"II", 42, 8, 2)
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    value = data[:4] if kind == 11 else struct.pack("<I", 38)
    odd = struct.pack("<HHI", tag, kind, 1) + value
    exif = header + turned + odd + bytes(4) + data
    only_turned = Image.Exif()
    only_turned[0x0112] = 6
    decoded, expected = (
        decode(encoded(drawn(3), "JPEG", exif=tags), "x")
        for tags in (exif, only_turned)
    )
    assert decoded.shape == (40, 48, 3)
    np.testing.assert_array_equal(decoded, expected)


def test_short_memory_is_not_taken_for_damage(monkeypatch):
    def none(image):
        raise MemoryError

    monkeypatch.setattr(preprocess, "_rgb", none)
    with pytest.raises(MemoryError):
        decode(encoded(HALVES), "x")


def test_exif_orientation_can_be_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG"):
        plain, turned = (encoded(drawn(3), kind, **o) for o in ({}, {"exif": exif}))
        record = "x", turned, 0
        ignored = Square(40, exif_rotation=False).pixels(record)
        np.testing.assert_array_equal(ignored, Square(40).pixels(("x", plain, 0)))
        assert (ignored != Square(40).pixels(record)).any()


def test_exif_behind_another_segment_is_honoured():
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = encoded(drawn(3)[:40], "JPEG", exif=exif)
    profile = b"a colour profile, with what elsewhere begins a picture: \xff\xda"
    segment = b"\xff\xe2" + (2 + len(profile)).to_bytes(2, "big") + profile
    with_profile = jpeg[:2] + segment + jpeg[2:]
    np.testing.assert_array_equal(decode(with_profile, "x"), decode(jpeg, "x"))
    assert decode(jpeg, "x").shape[1] == 40


def test_square_is_the_central_one_resized():
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (9, 14, 3)).astype(np.uint8))
    image = smooth.resize((280, 180), Image.Resampling.BICUBIC)
    # §2 to the letter: the shorter side to 90 first, then the central 90×90.
    resized = np.asarray(image.resize((140, 90), Image.Resampling.BICUBIC))
    ours = Square(90).pixels(("x", np.asarray(image), 0))
    np.testing.assert_array_equal(ours, resized[:, 25:115])


def test_the_filter_reads_the_pixels_around_the_square():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (180, 280, 3)).astype(np.uint8)
    other = image.copy()
    other[:, :50], other[:, 230:] = 0, 255  # outside of the central 180×180
    one, two = (Square(90).pixels(("x", i, 0)).astype(int) for i in (image, other))
    changed = np.abs(one - two).max((0, 2)) > 0
    assert np.flatnonzero(changed).tolist() == [0, 1, 88, 89]


@pytest.mark.parametrize("size", [(40, 1000), (1000, 40), (7, 5), (1, 1)])
def test_square_of_any_shape(size):
    picture = np.asarray(Image.new("RGB", size, (10, 200, 90)))
    np.testing.assert_array_equal(
        Square(64).pixels(("x", picture, 0)), np.full((64, 64, 3), (10, 200, 90))
    )


def test_a_picture_of_the_right_size_is_untouched():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert Square(64).pixels(("x", picture, 0)) is picture
    again = Square(64).pixels(("x", encoded(picture), 0))
    np.testing.assert_array_equal(again, picture)
    assert Square(32).pixels(("x", picture, 0)).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "the file is empty"),
        (b"no picture at all", "not a known picture format"),
        (encoded(HALVES, "JPEG")[:-100], "Truncated"),
        (encoded(HALVES)[:-60], "truncated"),
        (encoded(HALVES, "GIF")[:40], "truncated"),
    ],
)
def test_damaged_pictures_get_one_line(data, why):
    with pytest.raises(ImageError, match=why) as caught:
        decode(data, "train/n01/x.JPEG")
    message = str(caught.value)
    assert message.startswith("train/n01/x.JPEG: cannot be decoded: ")
    assert "\n" not in message
    assert "BytesIO" not in message


def test_decompression_bomb(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(ImageError, match=r"x: cannot be decoded: .*2048 pixels"):
        decode(encoded(HALVES), "x")


def test_cmyk_has_the_colours_of_its_original(shared_data):
    # The same photograph is not at hand in RGB: the inks, mixed by hand, must agree.
    with Image.open(shared_data / "edge-cases" / "cmyk_adobe.JPEG") as raw:
        inks = np.asarray(raw).astype(float)  # Pillow has undone Adobe's inversion
    mixed = (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
    decoded = edge_case(shared_data, "cmyk_adobe.JPEG")
    np.testing.assert_allclose(decoded, mixed, atol=2)
    assert 60 < decoded.mean() < 200  # not a negative, nor black


def test_edge_cases_that_show_one_photograph(shared_data):
    reference = edge_case(shared_data, "subsampling_444.JPEG")
    assert reference.shape == (375, 500, 3)
    for name in ("subsampling_420.JPEG", "progressive.JPEG", "png_named_jpeg.JPEG"):
        image = edge_case(shared_data, name)
        assert image.shape == (375, 500, 3)
        np.testing.assert_allclose(mean(image), mean(reference), atol=1)


def test_edge_case_greyscale(shared_data):
    grey = edge_case(shared_data, "greyscale.JPEG")
    assert grey.shape == (330, 500, 3)
    np.testing.assert_array_equal(grey, np.repeat(grey[..., :1], 3, 2))


def test_edge_case_exif(shared_data):
    upright = edge_case(shared_data, "exif_orientation6.JPEG")
    assert upright.shape == (500, 375, 3)
    with Image.open(shared_data / "edge-cases" / "exif_orientation6.JPEG") as stored:
        turned = stored.transpose(Image.Transpose.ROTATE_270)  # 90° clockwise
    np.testing.assert_array_equal(upright, np.asarray(turned))


@pytest.mark.parametrize("name", ["tall_40x1000", "wide_1000x40", "tiny_7x5"])
def test_edge_case_shapes(shared_data, name):
    data = (shared_data / "edge-cases" / f"{name}.JPEG").read_bytes()
    with Image.open(shared_data / "edge-cases" / f"{name}.JPEG") as image:
        middle = np.asarray(image.convert("RGB")).astype(float)
    side = min(middle.shape[:2])
    y, x = ((n - side) // 2 for n in middle.shape[:2])
    middle = middle[y : y + side, x : x + side]
    squared = Square(256).pixels((name, data, 0))
    assert squared.shape == (256, 256, 3)
    np.testing.assert_allclose(mean(squared), mean(middle), atol=6)


@pytest.mark.parametrize("name", ["truncated", "empty", "not_an_image"])
def test_edge_case_damage(shared_data, name):
    line = rf"^{name}\.JPEG: cannot be decoded: [^\n]+$"
    with pytest.raises(ImageError, match=line):
        edge_case(shared_data, f"{name}.JPEG")
