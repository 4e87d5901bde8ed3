"""Images in one folder a class, on disk or in a plain tar."""

import errno
import fnmatch
import glob
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from alexnet_jax.data.files import read_file
from alexnet_jax.data.ilsvrc import by_number, official_classes, official_order
from alexnet_jax.data.images import Record
from alexnet_jax.data.preprocess import HEIC
from alexnet_jax.data.tars import Member, TarImages, walk
from alexnet_jax.errors import ImageError, InputError

SUFFIXES = frozenset((
    ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg",
    ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
    *HEIC,  # listed, so that each is named as unreadable rather than skipped
))  # fmt: skip
WANTED = "give a folder of class folders or a plain tar of one"
FILL = "put images into it or remove it"
# Reasons of one file, not of the disk or this process, why it cannot be read.
OF_ONE_FILE = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP),
    *(errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL),
}


class Files:
    """Image files below one folder."""

    def __init__(
        self,
        path: str | Path,
        classes: tuple[str, ...],
        names: Sequence[str],
        labels: Sequence[int],
    ):
        """List the records: names relative to the folder, and labels, in order."""
        self.classes, self.names = classes, names
        self._path, self._labels = Path(path), labels

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> np.ndarray:
        """Integers, one an image."""
        return np.array(self._labels, np.int64)

    def __getitem__(self, i: int) -> Record:
        file = self._path / self.names[i]
        try:
            return Record(str(file), read_file(file), self._labels[i])
        except OSError as error:
            what = f"{file}: cannot be read: {error.strerror}"
            # A run may leave such an image out, but not those of a disk that is away.
            there = file.parent.is_dir() or not self.classes
            alone = there and error.errno in OF_ONE_FILE
            raise (ImageError if alone else InputError)(what) from None

    def only(self, rows: np.ndarray) -> "Files":
        """These records, without the memory of the others."""
        names = [self.names[i] for i in rows]
        return Files(self._path, self.classes, names, [self._labels[i] for i in rows])


class ClassFolders(Files):
    """A folder of class folders, each with images at any depth."""

    def __init__(self, path: str | Path, key: str):
        """List the images: classes by name, within a class files by name.

        Links are followed, hidden files and folders ignored. `key` is the config key or
        flag that named the folder, for messages.
        """
        given = f"{key}={str(path)!r}"
        if not Path(path).is_dir():
            raise InputError(f"{given}: no such folder; {WANTED} ({key})")
        classes = tuple(folders_in(path))
        if not classes:
            raise InputError(f"{given}: holds no class folders; {WANTED}")
        files: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            inside = images_below(Path(path) / name)
            if not inside:
                raise InputError(f"{given}: the class folder {name!r} is empty; {FILL}")
            files += [f"{name}/{file}" for file in inside]
            labels += [label] * len(inside)
        super().__init__(path, classes, files, labels)


def open_folder(path: str | Path, key: str) -> Files:
    """The images in class folders, or ILSVRC2012's validation images in one folder.

    The latter is what its tar unpacks to: ILSVRC2012_val_00000001.JPEG ….

    Args:
        path: the folder.
        key: the config key or flag that named it, for messages.
    """
    stem, folder = "ILSVRC2012_val", Path(path)
    if not any(folder.glob(f"{stem}_*.JPEG")) or folders_in(folder):
        return ClassFolders(path, key)
    truth, names = official_order(), official_classes()
    wanted = f"next to {stem}_00000001.JPEG … it must hold no other images"
    found = [(file, file) for file in images_below(folder)]
    files = by_number(stem, found, len(truth), f"{key}={str(path)!r}", wanted)
    # The first N images may lack some of the classes.
    used, labels = np.unique(truth[: len(files)], return_inverse=True)
    classes = tuple(names[label] for label in used.tolist())
    return Files(path, classes, files, labels.tolist())


def folders_in(path: str | Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    # scandir reports the types: no further call for each of 50,000 files.
    return sorted(f.name for f in os.scandir(path) if f.is_dir() and _shown(f.name))


def _shown(name: str) -> bool:
    return not name.startswith(".")


def is_image(name: str) -> bool:
    """Whether a file that is not hidden has the ending of an image."""
    return _shown(name) and os.path.splitext(name)[1].lower() in SUFFIXES


def images_below(top: Path) -> list[str]:
    """The images in a folder and its subfolders, as sorted paths relative to it."""
    found = []
    visited = {os.path.realpath(top)}  # links may form a cycle

    def is_new(folder: str) -> bool:
        before = len(visited)
        visited.add(os.path.realpath(folder))
        return len(visited) > before

    def refuse(error: OSError) -> None:
        raise error

    for folder, inner, files in os.walk(top, followlinks=True, onerror=refuse):
        inner[:] = [
            name
            for name in sorted(inner)
            if _shown(name) and is_new(os.path.join(folder, name))
        ]
        here = os.path.relpath(folder, top)
        found += [os.path.normpath(f"{here}/{f}") for f in files if is_image(f)]
    return sorted(found)


def files_named(paths: Sequence[str]) -> Files:
    """The images of `image_files`, all with label 0."""
    names = list(image_files(paths))
    if not names:
        raise InputError(
            "no image given; name image files, folders of them, or patterns such as "
            "'holiday/**/*.jpg'"
        )
    return Files("", (), names, [0] * len(names))


def image_files(paths: Sequence[str]) -> Iterator[str]:
    """The files among the paths, and the images in folders and behind patterns."""
    for given in paths:
        path = os.path.expanduser(given)
        if os.path.isdir(path):
            inside = _images_in(path)
            if not inside:
                raise InputError(f"{given}: a folder without images")
            yield from inside
        elif not os.path.lexists(path) and glob.has_magic(path):
            images = sorted(_matching(path))
            if not images:
                raise InputError(f"{given}: matches no images")
            yield from images
        else:
            yield path


def _matching(pattern: str) -> set[str]:
    """The images that a pattern names, and those in the folders that it names.

    Python's '**' follows links that go round; `images_below` does not.
    """
    parts = pattern.split("/")
    fixed = parts.index("**") if "**" in parts else len(parts)
    found = set()
    for match in glob.glob("/".join(parts[:fixed]) or ("/" if fixed else ".")):
        if not os.path.isdir(match):
            found |= {match} if is_image(os.path.basename(match)) else set()
            continue
        for file in images_below(Path(match)):
            if _fits(file.split("/"), parts[fixed:]):
                found.add(os.path.join(match, file) if fixed else file)
    return found


def _fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path, or a folder around it, matches a pattern with '**'."""
    if not pattern or pattern == [""]:
        return True
    if pattern[0] == "**":
        return any(_fits(path[i:], pattern[1:]) for i in range(len(path) + 1))
    return (
        bool(path)
        and fnmatch.fnmatchcase(path[0], pattern[0])
        and _fits(path[1:], pattern[1:])
    )


def _images_in(folder: str) -> list[str]:
    return [os.path.join(folder, file) for file in images_below(Path(folder))]


class ClassTar(TarImages):
    """A plain tar of class folders, read in place.

    The class of an image is the folder directly around it. Class folders may lie in
    another folder ('tiny-imagenet-100/train/n01443537/…'), all of them in the same.
    """

    def __init__(self, path: str | Path, key: str):
        """List the members, about 35,000 a second, and sort them by class and name."""
        given = f"{key}={str(path)!r}"
        found, folders = _images_and_folders(path, key)
        parents = {os.path.dirname(f) if f else None: m.name for f, m in found}
        if not parents.keys() - {None}:
            raise InputError(f"{given}: holds no class folders; {WANTED}")
        if len(parents) > 1:
            one, other, *_ = sorted(parents.values())
            raise InputError(
                f"{given}: holds {one!r} and {other!r}; give a tar whose images are "
                "all in class folders, and these all in one folder"
            )
        for (_, member), (_, following) in itertools.pairwise(found):
            if member.name == following.name:
                raise InputError(f"{given}: holds {member.name!r} twice; pack it again")
        for folder in sorted(folders - {folder for folder, _ in found}):
            parent, name = os.path.split(folder)
            if parent in parents and _shown(name):
                raise InputError(f"{given}: the class folder {name!r} is empty; {FILL}")
        names = [os.path.basename(folder) for folder, _ in found]
        classes = tuple(sorted(set(names)))
        labels = np.searchsorted(classes, names).tolist()
        super().__init__(classes, [member for _, member in found], labels)


def _images_and_folders(
    path: str | Path, key: str
) -> tuple[list[tuple[str, Member]], set[str]]:
    """The images of a tar with their folders, sorted by both, and all folders."""
    given = f"{key}={str(path)!r}"
    images, folders = [], set()
    for info in walk(path, given, f"{WANTED} ({key})"):
        whole = os.path.normpath(info.name)
        folder, name = os.path.split(whole)
        if info.isdir():
            folders.add(whole)
        elif is_image(name) and not info.isreg():
            raise InputError(
                f"{given}: {info.name!r} is a link; give a tar of plain files "
                "(tar --dereference --hard-dereference)"
            )
        elif is_image(name):
            images.append((folder, Member.of(whole, path, info)))
    return sorted(images), folders
