"""What the images of a run are known by, kept in images.json."""

from pathlib import Path
from typing import Any

from alexnet_jax import manifest, processes
from alexnet_jax.cli import say
from alexnet_jax.data.images import Source, fingerprint
from alexnet_jax.errors import InputError

IMAGES = "images.json"


def fingerprints_of(training: Source, validation: Source) -> dict[str, dict[str, Any]]:
    """The fingerprints of a run's images.

    Args:
        training: all training images, those that cannot be decoded included.
        validation: all validation images.
    """
    return {
        "dataset.train": fingerprint(training),
        "dataset.validation": fingerprint(validation),
    }


def note_images(sets: dict[str, dict[str, Any]], workdir: Path) -> None:
    """Write the fingerprints into images.json, once a run has accepted the images.

    A line names those that changed where they are.
    """
    for key, begun in known_images(workdir).items():
        if sets[key] != begun:
            change = compared(begun, sets[key])
            say(f"warning: {key}: not the images that the run was begun with: {change}")
    if processes.first():
        manifest.write_sealed(sets, workdir / IMAGES)


def known_images(workdir: Path) -> dict[str, dict[str, Any]]:
    """The fingerprints in images.json; {} where an earlier version wrote none."""
    path = workdir / IMAGES
    try:
        sets = manifest.read_sealed(path, old=True)
        for own in sets.values():
            compared(own, own)
        return {key: sets[key] for key in ("dataset.train", "dataset.validation")}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not two fingerprints of images in JSON ({error!r}); restore or "
            "delete it"
        ) from None


def compared(there: dict[str, Any], here: dict[str, Any]) -> str:
    """The sizes of two sets of images, for a message."""
    one, other = (
        f"{own['images']:,} images in {own['classes']:,} classes"
        for own in (there, here)
    )
    if one == other:
        return f"{one} both, with other names or contents"
    return f"{one} there, {other} here"
