"""Where pictures come from: every storage is one random-access list of records.

A record holds encoded bytes, or pixels where nothing was ever encoded; decoding is
left to `preprocess`, so that one picture gives one set of pixels whatever stored it.
Sources travel to spawned worker processes by pickling, and open their files there.
"""

import os

from alexnet_jax.data import prepared
from alexnet_jax.data.folders import ClassTar
from alexnet_jax.data.generated import Generated
from alexnet_jax.data.ilsvrc import open_folder
from alexnet_jax.data.images import Source, View
from alexnet_jax.data.indexed import Indexed, is_indexed
from alexnet_jax.data.tfds import Tfds
from alexnet_jax.errors import InputError

KINDS = ("generated", "folder", "records", "tfds")


def match_classes(source: Source, classes: tuple[str, ...], key: str) -> Source:
    """Label a source by the classes of training, by name: it may lack some of them.

    Args:
        source: the validation pictures.
        classes: the classes of training, in label order.
        key: the config key or flag that named the source, for messages.

    Raises:
        InputError: the source has a class that training does not know.
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
    test: bool = False,
) -> Source:
    """Open the pictures that a config names.

    Args:
        kind: `dataset.source`, one of KINDS.
        where: a folder or plain tar ('folder'), a folder ('records'), a split of
            `tfds_name` ('tfds') or how many pictures to draw ('generated').
        role: 'train' or 'validation'.
        key: the config key that gave `where`, for messages.
        image_size: side in pixels of generated pictures.
        seed: seed of generated pictures.
        tfds_name: `dataset.tfds_name`.
        test: whether ImageNet's test pictures may be named.

    Raises:
        InputError: there are no such pictures, or only one class to train on.
    """
    if kind not in KINDS:
        raise InputError(f"dataset.source={kind!r}: not one of {', '.join(KINDS)}")
    if kind != "generated" and not where:
        raise InputError(f"{key}={where!r}: says nothing to read; set {key}")
    where = str(where)
    source: Source
    if kind == "generated":
        source = Generated(_count(where, key), image_size, seed, role)
    elif kind == "records":
        prepared.require_size(where, image_size, f"{key}={where!r}")
        if is_indexed(where):
            source = Indexed(role, key, where)
        else:  # TFDS wrote it, or `prepare` before it kept an index
            source = Tfds(role, key, directory=where)
    elif kind == "tfds":
        source = Tfds(where, key, name=tfds_name, test=test)
    elif os.path.isdir(where):
        source = open_folder(where, key)
    else:
        source = ClassTar(where, key)
    if role == "train" and len(source.classes) < 2:
        raise InputError(
            f"{key}={where!r}: has one class, {source.classes[0]!r}; "
            "training needs two or more"
        )
    return source


def _count(where: str, key: str) -> int:
    try:
        return int(where)
    except ValueError:
        raise InputError(
            f"{key}={where!r}: not a number of pictures to generate, such as 4000"
        ) from None
