"""App: weights out of a work directory and into one, in the formats of docs/weights.md.

python -m alexnet_jax.convert --source=runs/paper --destination=weights.safetensors
python -m alexnet_jax.convert --source=weights.safetensors --destination=runs/copy
python -m alexnet_jax.convert --source=bvlc_alexnet.caffemodel \
    --mean=imagenet_mean.binaryproto --destination=runs/bvlc_alexnet
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import optax
from absl import flags
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from alexnet_jax import cli, experiment, parallel, workdir
from alexnet_jax.checkpoint import Checkpoints, holds_any
from alexnet_jax.config import parsed
from alexnet_jax.config_file import load_config
from alexnet_jax.data import ilsvrc
from alexnet_jax.data.files import UNFINISHED, locked, replaced, write_lines
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import InputError
from alexnet_jax.metrics import Sums
from alexnet_jax.step import State
from alexnet_jax.weights import (
    caffe,
    jax_export,
    onnx_file,
    safetensors_file,
    torch_file,
    torchvision,
)
from alexnet_jax.weights.layout import Found, Tensors, as_params, with_outputs_first

# File endings: what can be read, and what can be written.
INTO_A_RUN = (".safetensors", ".caffemodel", ".pth", ".pt")
OUT_OF_A_RUN = (".safetensors", ".pth", ".pt", ".onnx", ".jax_export")


def convert(
    source: Path,
    destination: Path,
    config: ConfigDict | None = None,
    *,
    mean: Path | None = None,
    classes: Path | None = None,
    skip_damaged: bool = False,
) -> None:
    """Convert in the direction that the file endings give.

    Args:
        source: a work directory, or a file ending in one of `INTO_A_RUN`.
        destination: a file ending in one of `OUT_OF_A_RUN`, or a work directory;
            nothing is overwritten.
        config: of the network, where the file does not show it.
        mean: the mean image that a *.caffemodel was trained with.
        classes: a file with a class name a line, in label order, where the weights'
            file has none; without it, classes are numbered.
        skip_damaged: as for `load_run`.
    """
    inward = source.suffix in INTO_A_RUN
    outward = destination.suffix in OUT_OF_A_RUN
    if inward == outward:
        raise InputError(
            f"--source={source}, --destination={destination}: one must be a work "
            f"directory and the other a file: a source ending in "
            f"{', '.join(INTO_A_RUN)}, or a destination in {', '.join(OUT_OF_A_RUN)}"
        )
    if mean and source.suffix != ".caffemodel":
        raise InputError(f"--mean={mean}: goes with a --source=*.caffemodel alone")
    if inward:
        into_run(source, destination, config, mean, classes)
    elif config or classes:
        raise InputError(
            f"--source={source}: has a config and classes of its own; leave out "
            "--config and --classes"
        )
    else:
        out_of_run(source, destination, skip_damaged)


def out_of_run(folder: Path, file: Path, skip_damaged: bool = False) -> None:
    """Write the newest checkpoint's weights.

    Args:
        folder: a work directory.
        file: to write, in the format that its ending names.
        skip_damaged: as for `load_run`.
    """
    if file.exists():
        raise InputError(f"--destination={file}: exists already; give a new name")
    config = workdir.read_config(folder)
    mesh = parallel.make_mesh(1, 1, config.network.towers, 1)
    model, classes = workdir.load_model(folder, config, mesh, 1, False, skip_damaged)
    network = experiment.make_network(config, len(classes)).clone(dtype="float32")
    params = {
        name: np.asarray(array, np.float32)
        for name, array in flatten_dict(model.params, sep=".").items()
    }
    mean_image, crop = np.asarray(model.mean_image, np.float32), config.augment.crop
    with _new_file(file) as temporary:
        match file.suffix:
            case ".safetensors":
                safetensors_file.write(temporary, params, folder)
            case ".jax_export":
                jax_export.write(temporary, params, network, mean_image, crop)
            case ".onnx":
                tensors = with_outputs_first(params, network, crop)
                onnx_file.write(temporary, tensors, network, mean_image, crop, classes)
            case _:
                tensors = with_outputs_first(params, network, crop)
                torch_file.write(temporary, tensors, mean_image)


@contextmanager
def _new_file(file: Path) -> Iterator[Path]:
    """A temporary path whose content becomes the file, or nothing."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replaced(file) as temporary:
            yield temporary
    except OSError as error:
        raise InputError(
            f"--destination={file}: cannot be written: {error.strerror or error}"
        ) from None


def into_run(
    file: Path,
    folder: Path,
    config: ConfigDict | None = None,
    mean: Path | None = None,
    classes: Path | None = None,
) -> None:
    """Make a work directory that predicts with the weights of a file.

    What the file does not hold (a config, class names, statistics of the images) is to
    be given, or copied into the work directory from the run that was trained.

    Args:
        file: with the weights.
        folder: the work directory to make.
        config: of the network; None: that of the file.
        mean: as for `convert`.
        classes: as for `convert`.
    """
    if holds_any(folder / "checkpoints"):
        raise InputError(
            f"--destination={folder}: holds checkpoints already; give another folder"
        )
    found = _read(file, mean)
    config = _own_config(found, file) if config is None else config
    experiment.check(config)
    network = experiment.make_network(config, ilsvrc.CLASSES)
    last = f"{network.weighted[-1]}.bias"
    if last in found.tensors:
        network = network.clone(classes=found.tensors[last].size)
    params = as_params(found, network, config.augment.crop, f"--source={file}")
    found = replace(found, tensors={})  # their memory is not needed twice
    names = _class_names(found, classes, file, network.classes)
    statistics = _statistics(found, config, mean or file)
    made = {"classes.txt": names, "statistics.npz": statistics}
    new = [name for name, content in made.items() if content is not None]
    begun = folder / f"convert{UNFINISHED}"  # by a convert that was killed or failed
    for name in ("config.json", *found.companions, *new):
        if (folder / name).exists() and not begun.exists():
            raise InputError(
                f"--destination={folder}: has a {name} already; give another folder"
            )
    with locked(folder, "--destination", "run"):
        begun.touch()
        for name, data in found.companions.items():
            with replaced(folder / name) as temporary:
                temporary.write_bytes(data)
        if names is not None:
            write_lines(folder / "classes.txt", names)
        if statistics is not None:
            statistics.save(folder / "statistics.npz")
        workdir.write_config(config, folder / "config.json")
        with closing(Checkpoints(folder / "checkpoints", keep=1)) as checkpoints:
            checkpoints.save(_untrained(params), {})
        begun.unlink()


def _read(file: Path, mean: Path | None) -> Found:
    match file.suffix:
        case ".caffemodel":
            return caffe.read(file, mean)
        case ".safetensors":
            found = safetensors_file.read(file)
        case _:
            found = torch_file.read(file)
    if torchvision.recognised(found.tensors):
        return torchvision.for_grey_levels(found.tensors)
    return found


def _own_config(found: Found, file: Path) -> ConfigDict:
    """The config that a file carries, or that its network is known by."""
    if "config.json" in found.companions:
        text = found.companions["config.json"].decode(errors="replace")
        return parsed(text, f"--source={file}")
    if not found.config:
        raise InputError(
            f"--source={file}: carries no config of its network; add "
            "--config=configs/X.py"
        )
    return load_config(found.config)


def _class_names(
    found: Found, given: Path | None, file: Path, count: int
) -> list[str] | None:
    """The lines for classes.txt; None where the user is to copy that file."""
    if "classes.txt" in found.companions:
        text = found.companions["classes.txt"].decode(errors="surrogateescape")
        source = f"--source={file}"
        if given:
            raise InputError(f"--classes={given}: {file} names its classes; leave out")
    elif given:
        source = f"--classes={given}"
        try:
            text = given.read_text("utf-8-sig", "surrogateescape")
        except OSError as error:
            raise InputError(f"{source}: cannot be read: {error.strerror}") from None
    elif found.mean_image is None:
        return None
    else:
        digits = len(str(count - 1))
        return [f"class {label:0{digits}}" for label in range(count)]
    names = text.removesuffix("\n").split("\n")
    if len(names) != count:
        raise InputError(
            f"{source}: names {len(names)} classes, and the weights are for {count}; "
            "give one name a line, in label order"
        )
    return names


def _statistics(found: Found, config: ConfigDict, file: Path) -> Statistics | None:
    """The mean image of a file, and no colour noise; None where it has none."""
    if found.mean_image is None:
        return None
    side = config.dataset.image_size
    if found.mean_image.shape not in ((1, 1, 3), (side, side, 3)):
        raise InputError(
            f"{file}: its mean image is {found.mean_image.shape}, and must be of "
            f"dataset.image_size={side}"
        )
    mean_image = np.broadcast_to(found.mean_image, (side, side, 3))
    return Statistics(mean_image, np.zeros(3, np.float32), np.eye(3, dtype=np.float32))


def _untrained(params: Tensors) -> State:
    """The state before the first step, as `step.state_of` makes it, on the host."""
    tree = unflatten_dict(params, sep=".")
    zeros = {name: np.zeros_like(own) for name, own in params.items()}
    velocities = optax.TraceState(trace=unflatten_dict(zeros, sep="."))
    step, sums = np.zeros((), np.int32), Sums(*np.zeros(4, np.float32))
    return State(step, tree, velocities, sums)  # type: ignore[arg-type]


if __name__ == "__main__":
    weights = f"Work directory, or a file ending in {', '.join(INTO_A_RUN)}."
    SOURCE = flags.DEFINE_string("source", None, weights, required=True)
    DESTINATION = flags.DEFINE_string(
        "destination",
        None,
        f"A file ending in {', '.join(OUT_OF_A_RUN)}, or a work directory.",
        required=True,
    )
    MEAN = flags.DEFINE_string(
        "mean", None, "Mean image of a *.caffemodel: *.binaryproto or *.npy."
    )
    CLASS_NAMES = flags.DEFINE_string(
        "classes", None, "File with a class name a line, in label order."
    )
    SKIP_DAMAGED = cli.define_skip_damaged()
    CONFIG = cli.define_config()

    def main(argv: Sequence[str]) -> None:
        """Convert as the flags say."""
        cli.no_more_arguments(argv)
        convert(
            cli.path(SOURCE.value, "--source"),
            cli.path(DESTINATION.value, "--destination"),
            CONFIG.value,
            mean=Path(MEAN.value) if MEAN.value else None,
            classes=Path(CLASS_NAMES.value) if CLASS_NAMES.value else None,
            skip_damaged=SKIP_DAMAGED.value,
        )
        print(f"{SOURCE.value} → {DESTINATION.value}")

    cli.run(main)
