"""Which files are images, and which images paths and patterns name."""

import pytest
from pictures import drawn, encoded

from alexnet_jax.data.folders import ClassFolders, files_named, image_files
from alexnet_jax.data.images import Record
from alexnet_jax.data.preprocess import Square
from alexnet_jax.errors import ImageError, InputError

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.fixture
def photos(tmp_path):
    for name in ("a/1.JPG", "a/b/2.png", "c.jpg", "c d[1].jpg", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_patterns_name_images_and_those_in_folders(photos):
    def found(pattern: str) -> list[str]:
        return [
            f.removeprefix(f"{photos}/") for f in image_files([f"{photos}/{pattern}"])
        ]

    every = ["a/1.JPG", "a/b/2.png", "c d[1].jpg", "c.jpg"]
    assert sorted(found("**")) == every  # each once
    assert found("*") == every
    assert found("**/*.png") == ["a/b/2.png"]
    assert found("a") == every[:2]
    assert found("c d[1].jpg") == ["c d[1].jpg"]  # a file of that name comes first
    assert found("a/notes.txt") == ["a/notes.txt"]  # to be named as unreadable
    assert found("absent.jpg") == ["absent.jpg"]
    with pytest.raises(InputError, match=r"\*\*/\*\.gif: matches no images"):
        found("**/*.gif")
    with pytest.raises(InputError, match="no image given; name image files"):
        files_named([])


def test_a_tilde_is_the_home_folder(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos))
    assert list(image_files(["~/c.jpg"])) == [f"{photos}/c.jpg"]
    assert len(list(image_files(["~"]))) == 4


def test_heic_files_are_listed_and_named_as_unsupported(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.png").write_bytes(encoded(drawn(0)))
    (tmp_path / "cat" / "IMG_1.HEIC").write_bytes(HEIC)
    source = ClassFolders(tmp_path, "dataset.train")
    assert source.names == ["cat/0.png", "cat/IMG_1.HEIC"]
    with pytest.raises(ImageError) as caught:
        Square(8).pixels(source[1])
    assert str(caught.value) == (
        f"{tmp_path}/cat/IMG_1.HEIC: cannot be decoded: HEIC is not supported; convert "
        "it to JPEG"
    )
    # The bytes decide: a PNG by that name is read, and old messages stay as they were.
    assert Square(8).pixels(Record("x.heic", encoded(drawn(0)), 0)).shape == (8, 8, 3)
    with pytest.raises(
        ImageError, match=r"x.jpg: cannot be decoded: not a known picture"
    ):
        Square(8).pixels(Record("x.jpg", HEIC, 0))
    with pytest.raises(
        ImageError, match=r"x.heic: cannot be decoded: the file is empty"
    ):
        Square(8).pixels(Record("x.heic", b"", 0))
