"""Opens the source that a config names.

A record holds encoded bytes, or pixels where nothing was ever encoded. Decoding is left
to `preprocess`, so that an image has the same pixels in every kind of storage.
"""

import os

from alexnet_jax.data.folders import ClassTar, open_folder
from alexnet_jax.data.generated import Generated
from alexnet_jax.data.images import Source, View
from alexnet_jax.data.prepared import Manifest, Prepared
from alexnet_jax.data.tfds import Tfds
from alexnet_jax.errors import InputError


def match_classes(source: Source, classes: tuple[str, ...], key: str) -> Source:
    """Label a source by the classes of training, by name; it may lack some of them.

    `key` is the config key or flag that named the source, for messages.
    """
    if source.classes == classes:
        return source
    unknown = sorted(set(source.classes) - set(classes))
    if unknown:
        raise InputError(
            f"{key}: the class {unknown[0]!r} ({len(unknown)} such) is not one of the "
            f"{len(classes)} classes of training, {classes[0]!r} … {classes[-1]!r}"
        )
    return View(source, classes=classes)


def open_source(
    kind: str,
    where: str | int,
    role: str,
    *,
    key: str,
    image_size: int,
    seed: int,
    tfds_name: str = "",
) -> Source:
    """Open the images that a config names.

    Args:
        kind: 'generated', 'folder', 'records' or 'tfds'.
        where: the number of images to draw ('generated'), a folder or plain tar
            ('folder'), a folder of `prepare` or TFDS ('records'), or a split of
            `tfds_name` ('tfds').
        role: 'train', 'validation' or 'test'. The last opens the split 'test' of
            'records' or 'tfds', the only way to ImageNet's test images, and elsewhere
            the images that `where` names.
        key: the config key that gave `where`, for messages.
        image_size: side in pixels of generated and of prepared images.
        seed: seed of generated images.
        tfds_name: the TFDS data set.
    """
    where = os.path.expanduser(str(where))
    given = f"{key}={where!r}"
    if kind != "generated" and not where:
        raise InputError(f"{given}: names nothing to read; set {key}")
    source: Source
    if kind == "generated":
        source = Generated(_count(where, given), image_size, seed, role)
    elif kind == "records":
        source = _open_records(where, role, key, image_size)
    elif kind == "tfds":
        source = _open_tfds(tfds_name, where, role, key)
    elif os.path.isdir(where):
        source = open_folder(where, key)
    else:
        source = ClassTar(where, key)
    if role == "train" and len(source.classes) < 2:
        raise InputError(
            f"{given}: has one class, {source.classes[0]!r}; training needs two or more"
        )
    return source


def _count(where: str, given: str) -> int:
    try:
        return int(where)
    except ValueError:
        raise InputError(
            f"{given}: not a number of images to generate, such as 4000"
        ) from None


def _open_records(folder: str, role: str, key: str, image_size: int) -> Source:
    manifest = Manifest.read(folder)
    if manifest is None:  # TFDS wrote the folder
        return Tfds(role, key, directory=folder).labelled()
    manifest.require_size(image_size, f"{key}={folder!r}")
    split = manifest.split_for(role, f"{key}={folder!r}")
    if manifest.indexed:
        return Prepared(folder, manifest, split)
    return Tfds(split, key, directory=folder)


def _open_tfds(name: str, split: str, role: str, key: str) -> Source:
    source = Tfds("test" if role == "test" else split, key, name=name)
    manifest = Manifest.read(source.folder)  # of a prepared folder under this name
    if manifest and role != "test":
        given = f"dataset.tfds_name={name!r}, {key}={split!r}"
        manifest.refuse_test_images(split, given)
    return source.labelled()
