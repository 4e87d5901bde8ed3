"""The ILSVRC2010 development kit: classes, and labels of the numbered images.

It is in the same folder as the tars, packed or unpacked. ILSVRC2012 needs none: TFDS
ships its classes and validation labels.
"""

import io
import tarfile
from pathlib import Path, PurePosixPath

from alexnet_jax.data.ilsvrc import CLASSES, Split
from alexnet_jax.errors import InputError

DEVKIT = "ILSVRC2010_devkit-1.0.tar.gz"
META = "meta.mat"
TRUTH = {
    Split.VALIDATION: "ILSVRC2010_validation_ground_truth.txt",
    Split.TEST: "ILSVRC2010_test_ground_truth.txt",
}


def synsets(folder: Path, key: str) -> tuple[tuple[str, ...], dict[int, int]]:
    """The WordNet ids in label order (sorted), and the label of each ILSVRC2010_ID.

    Ids above 1,000 are inner nodes of the hierarchy and are left out.
    """
    from scipy.io import loadmat  # imported here: it takes 0.2 s

    try:
        table = loadmat(io.BytesIO(_read(folder, META, key)), squeeze_me=True)
        numbers = [int(number) for number in table["synsets"]["ILSVRC2010_ID"]]
        names = [str(name) for name in table["synsets"]["WNID"]]
    except InputError:
        raise
    except Exception as error:  # loadmat raises many kinds
        raise InputError(
            f"{key}={str(folder)!r}: {META} is not that of ILSVRC2010 ({error}); "
            f"put {DEVKIT} there"
        ) from None
    by_id = {n: name for n, name in zip(numbers, names, strict=True) if n <= CLASSES}
    classes = tuple(sorted(by_id.values()))
    label_of = {name: label for label, name in enumerate(classes)}
    return classes, {number: label_of[name] for number, name in by_id.items()}


def truth(folder: Path, split: Split, by_id: dict[int, int], key: str) -> list[int]:
    """The labels of the validation or test images, by number; `by_id` of `synsets`."""
    name = TRUTH[split]
    text = _read(folder, name, key).decode(errors="replace").split()
    try:
        return [by_id[int(number)] for number in text]
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{key}={str(folder)!r}: {name} must hold a number from 1 to "
            f"{len(by_id)} on each line, but has {error}; download it again"
        ) from None


def _read(folder: Path, name: str, key: str) -> bytes:
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
    wanted = name if name == TRUTH[Split.TEST] else DEVKIT
    raise InputError(
        f"{key}={str(folder)!r}: {name} is missing; the labels of ILSVRC2010 need it: "
        f"put {wanted} there"
    )
