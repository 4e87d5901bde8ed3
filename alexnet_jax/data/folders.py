"""Pictures in one folder for each class, on the disk or in a plain tar."""

import os
import tarfile
from pathlib import Path

import numpy as np

from alexnet_jax.data.record import Record
from alexnet_jax.errors import InputError, PictureError

SUFFIXES = frozenset((
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg",
    ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
))  # fmt: skip
WANTED = "give a folder of class folders or a plain tar of one"
FILL = "put pictures into it or remove it"


class ClassFolders:
    """A folder of class folders, each holding pictures at any depth."""

    def __init__(self, path: str | Path, key: str):
        """List the pictures: classes and, within a class, files in order of name.

        Args:
            path: the folder; links are followed, hidden files and folders ignored.
            key: the config key or flag that named it, for messages.

        Raises:
            InputError: there is no such folder, or a class without pictures.
        """
        given = f"{key}={str(path)!r}"
        self._path = Path(path)
        if not self._path.is_dir():
            raise InputError(f"{given}: no such folder; {WANTED} ({key})")
        self.classes = tuple(
            sorted(f.name for f in self._path.iterdir() if f.is_dir() and _seen(f.name))
        )
        if not self.classes:
            raise InputError(f"{given}: holds no class folders; {WANTED}")
        self._files: list[str] = []  # relative to the path
        self._labels: list[int] = []
        for label, name in enumerate(self.classes):
            files = pictures_below(self._path / name)
            if not files:
                raise InputError(f"{given}: the class folder {name!r} is empty; {FILL}")
            self._files += [f"{name}/{file}" for file in files]
            self._labels += [label] * len(files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> Record:
        file = self._path / self._files[i]
        try:
            return Record(str(file), file.read_bytes(), self._labels[i])
        except OSError as error:
            raise PictureError(f"{file}: cannot be read: {error.strerror}") from None


def _seen(name: str) -> bool:
    return not name.startswith(".")


def _is_picture(name: str) -> bool:
    return _seen(name) and os.path.splitext(name)[1].lower() in SUFFIXES


def pictures_below(top: Path) -> list[str]:
    """The pictures in a folder and its folders, as sorted paths relative to it."""
    found = []
    for folder, inner, files in os.walk(top, followlinks=True):
        inner[:] = filter(_seen, inner)
        here = os.path.relpath(folder, top)
        found += [os.path.normpath(f"{here}/{f}") for f in files if _is_picture(f)]
    return sorted(found)


class ClassTar:
    """A plain tar of class folders, read in place.

    The class of a picture is the folder directly around it. Class folders may lie
    inside others ('tiny-imagenet-100/train/n01443537/…'), all of them in the same.
    """

    def __init__(self, path: str | Path, key: str):
        """Index the members, about 35,000 a second, and sort them by class and name.

        Args:
            path: the tar file.
            key: the config key or flag that named it, for messages.

        Raises:
            InputError: not a whole, uncompressed tar of class folders.
        """
        given = f"{key}={str(path)!r}"
        members, folders = _index_tar(path, key)
        used = {folder for folder, *_ in members}
        parents = sorted({os.path.dirname(folder) for folder in used})
        if not members or "" in used:
            raise InputError(f"{given}: holds no class folders; {WANTED}")
        if len(parents) > 1:
            raise InputError(
                f"{given}: has class folders both in {parents[0] or '.'!r} and in "
                f"{parents[1]!r}; give a tar of one set of them"
            )
        for folder in sorted(folders - used):
            parent, name = os.path.split(folder)
            if parent == parents[0] and _seen(name):
                raise InputError(f"{given}: the class folder {name!r} is empty; {FILL}")
        classes = [os.path.basename(folder) for folder, *_ in members]
        self.classes = tuple(sorted(set(classes)))
        self._names = [f"{path}:{folder}/{name}" for folder, name, _, _ in members]
        self._labels = np.searchsorted(self.classes, classes)
        self._spans = np.array([span for _, _, *span in members])  # offset, bytes
        self._path = path
        self._file = os.open(path, os.O_RDONLY)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, i: int) -> Record:
        offset, size = self._spans[i].tolist()
        # pread keeps no position, so that threads share the one descriptor.
        data = os.pread(self._file, size, offset)
        return Record(self._names[i], data, int(self._labels[i]))

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k != "_file"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._file = os.open(self._path, os.O_RDONLY)

    def __del__(self):
        if "_file" in self.__dict__:  # not where the constructor raised
            os.close(self._file)


def _index_tar(path, key: str) -> tuple[list[tuple[str, str, int, int]], set[str]]:
    """The pictures (folder, name, offset, bytes) of a tar, sorted, and its folders."""
    given = f"{key}={str(path)!r}"
    members, folders = [], set()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, name = os.path.split(os.path.normpath(member.name))
                if member.isdir():
                    folders.add(os.path.join(folder, name))
                elif _is_picture(name) and not member.isreg():
                    raise InputError(
                        f"{given}: {member.name!r} is a link; give a tar of plain "
                        "files (tar --dereference --hard-dereference)"
                    )
                elif _is_picture(name):
                    members.append((folder, name, member.offset_data, member.size))
            end = tar.offset
    except FileNotFoundError:
        raise InputError(f"{given}: no such file or folder; {WANTED} ({key})") from None
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{given}: {_why_no_tar(path, error)}") from None
    # tarfile takes a damaged header for the end: a whole tar ends in a block of zeros.
    with open(path, "rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise InputError(
                f"{given}: damaged or cut short at byte {end}; copy or make it again"
            )
    return sorted(members), folders


def _why_no_tar(path, error: Exception) -> str:
    try:
        with tarfile.open(path, "r:*"):
            return "a compressed tar has no random access; decompress it once (gunzip)"
    except (tarfile.TarError, OSError, EOFError):
        return f"not a whole tar ({error}); {WANTED}"
