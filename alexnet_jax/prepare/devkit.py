"""The devkit of ILSVRC2010: its classes, and the labels of its numbered pictures.

Of ILSVRC2012's nothing is needed: TFDS carries what it says.
"""

import io
import tarfile
from pathlib import Path, PurePosixPath

from alexnet_jax.errors import InputError

DEVKIT = "ILSVRC2010_devkit-1.0.tar.gz"
META = "meta.mat"
TRUTH = {
    "val": "ILSVRC2010_validation_ground_truth.txt",
    "test": "ILSVRC2010_test_ground_truth.txt",
}


def synsets(
    folder: Path, classes: int, key: str
) -> tuple[tuple[str, ...], dict[int, int]]:
    """The classes of ILSVRC2010, sorted, and the label of each of its numbers 1 ….

    Args:
        folder: where the devkit is, or its data.
        classes: how many; with higher numbers come the synsets above them.
        key: the flag that named it, for messages.

    Raises:
        InputError: it is not there, or damaged.
    """
    from scipy.io import loadmat  # a fifth of a second, and only here

    try:
        table = loadmat(io.BytesIO(_file(folder, META, key)), squeeze_me=True)
        synsets = table["synsets"]
        numbers = [int(number) for number in synsets["ILSVRC2010_ID"]]
        names = [str(name) for name in synsets["WNID"]]
    except InputError:
        raise
    except Exception as error:  # whatever stands in the file
        raise InputError(
            f"{key}={str(folder)!r}: {META} is not that of ILSVRC2010 ({error}); "
            f"put {DEVKIT} there"
        ) from None
    by_id = {n: name for n, name in zip(numbers, names, strict=True) if n <= classes}
    in_order = tuple(sorted(by_id.values()))
    label_of = {name: label for label, name in enumerate(in_order)}
    return in_order, {number: label_of[name] for number, name in by_id.items()}


def truth(folder: Path, name: str, by_id: dict[int, int], key: str) -> list[int]:
    """The label of each numbered picture of ILSVRC2010.

    Args:
        folder: where the devkit is, or its data.
        name: the file, one of TRUTH.
        by_id: the label of each of its numbers, of `synsets`.
        key: the flag that named the folder, for messages.

    Raises:
        InputError: it is not there, or holds something else.
    """
    text = _file(folder, name, key).decode(errors="replace").split()
    try:
        return [by_id[int(number)] for number in text]
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{key}={str(folder)!r}: {name} must hold a number from 1 to "
            f"{len(by_id)} on each line, and has {error}; download it again"
        ) from None


def _file(folder: Path, name: str, key: str) -> bytes:
    """A file of the devkit of ILSVRC2010, unpacked or not."""
    for place in (folder, folder / "data", folder / "devkit-1.0" / "data"):
        if (place / name).is_file():
            return (place / name).read_bytes()
    try:
        with tarfile.open(folder / DEVKIT) as devkit:
            for info in devkit:
                if info.isreg() and PurePosixPath(info.name).name == name:
                    return devkit.extractfile(info).read()  # type: ignore[union-attr]
    except FileNotFoundError:
        pass
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(
            f"{key}: {str(folder / DEVKIT)!r}: damaged ({error}); download it again"
        ) from None
    wanted = name if name == TRUTH["test"] else DEVKIT
    raise InputError(
        f"{key}={str(folder)!r}: {name} is missing, which the labels of ILSVRC2010 "
        f"need; put {wanted} there"
    )
