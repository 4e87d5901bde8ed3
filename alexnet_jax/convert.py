"""App: weights out of a work directory and into one.

python -m alexnet_jax.convert --source=runs/paper --destination=weights.safetensors
python -m alexnet_jax.convert --source=weights.safetensors --destination=runs/copy
"""

import base64
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from alexnet_jax import cli, experiment, parallel, workdir
from alexnet_jax.checkpoint import Checkpoints, holds_any
from alexnet_jax.config import parsed
from alexnet_jax.data.files import locked, replaced
from alexnet_jax.data.ilsvrc import CLASSES
from alexnet_jax.errors import InputError
from alexnet_jax.step import parameter_shapes, state_of

ENDING = ".safetensors"
# The other files that predict needs, carried in the metadata.
COMPANIONS = ("config.json", "classes.txt", "statistics.npz")


def convert(source: Path, destination: Path, config: ConfigDict | None = None) -> None:
    """Convert in the direction that the file endings give.

    Args:
        source: a work directory or *.safetensors.
        destination: the other of the two; nothing is overwritten.
        config: of the network, where the file does not carry it.
    """
    outward = destination.suffix == ENDING
    if outward == (source.suffix == ENDING):
        raise InputError(
            f"--source={source}, --destination={destination}: one must be a work "
            f"directory and the other a file ending in {ENDING}"
        )
    if outward:
        to_safetensors(source, destination)
    else:
        from_safetensors(source, destination, config)


def to_safetensors(folder: Path, file: Path) -> None:
    """Write the newest checkpoint's weights as 'conv1.kernel', 'conv1.bias', ….

    Kernels are (height, width, input channels per group, output channels), fc kernels
    (inputs in height, width, channel order; outputs); all float32.

    Args:
        folder: a work directory.
        file: to write.
    """
    if file.exists():
        raise InputError(f"--destination={file}: exists already; give a new name")
    config = workdir.read_config(folder)
    mesh = parallel.make_mesh(1, 1, config.network.towers, 1)
    model, _ = workdir.load_model(folder, config, mesh, views=1)
    tensors = {
        name: np.asarray(array, np.float32)
        for name, array in flatten_dict(model.params, sep=".").items()
    }
    metadata = {
        name: base64.b64encode((folder / name).read_bytes()).decode()
        for name in COMPANIONS
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with replaced(file) as temporary:
        temporary.write_bytes(save(tensors, metadata))


def from_safetensors(file: Path, folder: Path, config: ConfigDict | None) -> None:
    """Make a work directory that predicts with the weights of a file.

    Config, classes and statistics come from the metadata that `to_safetensors` wrote; a
    file from elsewhere needs a config, and classes.txt and statistics.npz copied into
    the work directory.

    Args:
        file: with the weights.
        folder: the work directory to make.
        config: of the network; None: that of the file.
    """
    if holds_any(folder / "checkpoints"):
        raise InputError(
            f"--destination={folder}: holds checkpoints already; give another folder"
        )
    tensors, companions = _read(file)
    if config is None:
        if "config.json" not in companions:
            raise InputError(
                f"--source={file}: carries no config of its network; add "
                "--config=configs/X.py"
            )
        text = companions["config.json"].decode(errors="replace")
        config = parsed(text, f"--source={file}")
    experiment.check(config)
    params = _as_params(tensors, config, file)
    state = state_of(params, experiment.make_optimizer(config))
    for name in ("config.json", *companions):
        if (folder / name).exists():
            raise InputError(
                f"--destination={folder}: has a {name} already; give another folder"
            )
    with locked(folder, "--destination", "run"):
        for name, data in companions.items():
            with replaced(folder / name) as temporary:
                temporary.write_bytes(data)
        workdir.write_config(config, folder / "config.json")
        with closing(Checkpoints(folder / "checkpoints", keep=1)) as checkpoints:
            checkpoints.save(state, {})


def _read(file: Path) -> tuple[dict[str, np.ndarray], dict[str, bytes]]:
    """The tensors of a file, and those of `COMPANIONS` that it carries."""
    try:
        with safe_open(file, framework="numpy") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"--source={file}: cannot be read ({error})") from None
    carried = {name: metadata[name] for name in COMPANIONS if name in metadata}
    try:
        return tensors, {
            name: base64.b64decode(own, validate=True) for name, own in carried.items()
        }
    except ValueError as error:
        raise InputError(f"--source={file}: damaged metadata ({error})") from None


def _as_params(tensors: dict[str, np.ndarray], config: ConfigDict, file: Path) -> Any:
    """{'conv1.kernel': array, …} → {layer: {'kernel', 'bias'}} of the same network."""
    network = experiment.make_network(config, CLASSES)
    bias = f"{network.weighted[-1]}.bias"
    if bias in tensors:
        network = network.clone(classes=tensors[bias].size)
    shapes = parameter_shapes(network, config.augment.crop)
    wanted = {n: leaf.shape for n, leaf in flatten_dict(shapes, sep=".").items()}
    for name in sorted(wanted.keys() | tensors.keys()):
        given = tensors[name].shape if name in tensors else "absent"
        if given != wanted.get(name, "absent"):
            raise InputError(
                f"--source={file}: {name} is {given} there and "
                f"{wanted.get(name, 'absent')} in the config's network; give the "
                "--config of that network"
            )
    for name, tensor in tensors.items():
        if not np.issubdtype(tensor.dtype, np.floating):
            raise InputError(
                f"--source={file}: {name} is of {tensor.dtype}, not floats"
            )
        if not np.isfinite(tensor).all():
            raise InputError(f"--source={file}: {name} is not finite everywhere")
    params = {name: jnp.asarray(own, "float32") for name, own in tensors.items()}
    return unflatten_dict(params, sep=".")


if __name__ == "__main__":
    SOURCE = flags.DEFINE_string(
        "source", None, f"Work directory or *{ENDING} file.", required=True
    )
    DESTINATION = flags.DEFINE_string(
        "destination", None, "The other of the two.", required=True
    )
    CONFIG = cli.define_config()

    def main(argv: Sequence[str]) -> None:
        """Convert as the flags say."""
        cli.no_more_arguments(argv)
        source = cli.path(SOURCE.value, "--source")
        convert(source, cli.path(DESTINATION.value, "--destination"), CONFIG.value)
        print(f"{SOURCE.value} → {DESTINATION.value}")

    cli.run(main)
