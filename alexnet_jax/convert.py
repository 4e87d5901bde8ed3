"""App: weights out of a work directory and into one.

python -m alexnet_jax.convert --source=runs/paper --destination=weights.safetensors
python -m alexnet_jax.convert --source=weights.safetensors --destination=runs/copy
"""

import base64
import dataclasses
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import flags
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from alexnet_jax import cli, experiment, parallel, runs
from alexnet_jax.checkpoint import Checkpoints, holds_any
from alexnet_jax.data.files import locked
from alexnet_jax.data.ilsvrc import CLASSES
from alexnet_jax.errors import InputError
from alexnet_jax.network.alexnet import LAYERS
from alexnet_jax.program import make_program

ENDING = ".safetensors"
# What predict needs beside the weights, carried in the file's metadata.
COMPANIONS = ("config.json", "classes.txt", "statistics.npz")


def convert(
    source: Path, destination: Path, config: ml_collections.ConfigDict | None = None
) -> None:
    """Converts in the direction that the endings tell.

    Args:
        source: a work directory or *.safetensors.
        destination: the other of the two; nothing is overwritten.
        config: of the network, where the file does not say it.

    Raises:
        InputError: not one of each, or see the functions below.
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


def to_safetensors(workdir: Path, file: Path) -> None:
    """Writes the newest checkpoint's weights as 'conv1.kernel', 'conv1.bias', ….

    Kernels are (height, width, input channels per group, output channels), fc kernels
    (inputs in height, width, channel order; outputs); all float32.

    Raises:
        InputError: no checkpoint there, or the file exists.
    """
    if file.exists():
        raise InputError(f"--destination={file}: exists already; give a new name")
    config = runs.kept_config(workdir)
    mesh = parallel.make_mesh(1, 1, config.network.towers, 1)
    model, _ = runs.trained(workdir, config, mesh, views=1)
    tensors = {
        f"{layer}.{name}": np.asarray(model.params[layer][name])
        for layer in LAYERS
        for name in ("kernel", "bias")
    }
    metadata = {
        name: base64.b64encode((workdir / name).read_bytes()).decode()
        for name in COMPANIONS
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(save(tensors, metadata))
    os.replace(temporary, file)


def from_safetensors(
    file: Path, workdir: Path, config: ml_collections.ConfigDict | None
) -> None:
    """Makes a work directory that evaluates and predicts with a file's weights.

    Config, classes and statistics come from the file where `to_safetensors` wrote
    them; a file from elsewhere needs a config, and classes.txt and statistics.npz put
    into the work directory by hand.

    Raises:
        InputError: the file is of no such network, or the directory holds a run.
    """
    if holds_any(workdir / "checkpoints"):
        raise InputError(
            f"--destination={workdir}: holds checkpoints already; give another folder"
        )
    tensors, metadata = read_safetensors(file)
    try:
        companions = {
            name: base64.b64decode(metadata[name], validate=True)
            for name in COMPANIONS
            if name in metadata
        }
    except ValueError as error:
        raise InputError(f"--source={file}: damaged metadata ({error})") from None
    if config is None:
        if "config.json" not in companions:
            raise InputError(
                f"--source={file}: does not say which network it is of; add "
                "--config=configs/X.py"
            )
        text = companions["config.json"].decode(errors="replace")
        config = cli.as_config(text, f"--source={file}")
    experiment.check(config)
    classes = tensors["fc8.bias"].size if "fc8.bias" in tensors else CLASSES
    mesh = parallel.make_mesh(1, 1, config.network.towers, 1)
    like = make_program(config, classes, mesh).state
    params = as_params(tensors, like.params, file)
    for name in ("config.json", *companions):
        if (workdir / name).exists():
            raise InputError(
                f"--destination={workdir}: has a {name} already; give another folder"
            )
    state = jax.tree.map(lambda a: jax.numpy.zeros(a.shape, a.dtype), like)
    with locked(workdir, "--destination", "run"):
        for name, data in companions.items():
            (workdir / name).write_bytes(data)
        cli.save_config(config, workdir / "config.json")
        with closing(Checkpoints(workdir / "checkpoints", keep=1)) as checkpoints:
            checkpoints.save(dataclasses.replace(state, params=params), {})


def read_safetensors(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and the metadata of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with safe_open(file, framework="numpy") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return tensors, opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"--source={file}: cannot be read ({error})") from None


def as_params(tensors: dict[str, np.ndarray], like: Any, file: Path) -> dict[str, Any]:
    """Tensors by name → {layer: {'kernel', 'bias'}}, shaped as those of a network.

    Raises:
        InputError: a tensor is missing, left over, or of another shape.
    """
    wanted = {
        f"{la}.{n}": like[la][n].shape for la in LAYERS for n in ("kernel", "bias")
    }
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
            raise InputError(f"--source={file}: {name} is of {tensor.dtype}, no floats")
        if not np.isfinite(tensor).all():
            raise InputError(f"--source={file}: {name} is not finite everywhere")
    return {
        layer: {
            name: jax.numpy.asarray(tensors[f"{layer}.{name}"], "float32")
            for name in ("kernel", "bias")
        }
        for layer in LAYERS
    }


if __name__ == "__main__":
    SOURCE = flags.DEFINE_string(
        "source", None, f"Work directory or *{ENDING} file.", required=True
    )
    DESTINATION = flags.DEFINE_string(
        "destination", None, "The other of the two.", required=True
    )
    CONFIG = cli.define_config()

    def main(argv: Sequence[str]) -> None:
        """Converts as the flags say."""
        cli.no_more_arguments(argv)
        convert(
            cli.path(SOURCE.value, "--source"),
            cli.path(DESTINATION.value, "--destination"),
            CONFIG.value,
        )
        print(f"{SOURCE.value} → {DESTINATION.value}")

    cli.run(main)
