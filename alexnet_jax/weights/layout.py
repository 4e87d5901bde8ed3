"""Two layouts of weights: inputs first, as here, and outputs first, as elsewhere.

Here a kernel is (height, width, channels a group, outputs) or (inputs, units), inputs
in height, width, channel order. In Caffe and PyTorch it is (outputs, channels a group,
height, width) or (units, inputs), inputs in channel, height, width order. In both, the
outputs of a group (a tower) are contiguous and read the channels of that group alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from alexnet_jax.errors import InputError
from alexnet_jax.network.alexnet import AlexNet
from alexnet_jax.network.layers import AVERAGES, EPSILON
from alexnet_jax.network.shapes import Stage, stages

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Found:
    """What a file of weights holds."""

    tensors: Tensors  # 'conv1.kernel', inputs first, or 'conv1.weight', outputs first
    # Other files of a work directory, by name:
    companions: dict[str, bytes] = field(default_factory=dict)
    mean_image: np.ndarray | None = None  # float32 (S, S, 3), RGB, in grey levels
    order: tuple[str, ...] = ()  # layers with weights, 'normalise' and 'pool'
    config: str = ""  # the config of its network, such as 'configs/caffe.py:caffenet'


def as_params(found: Found, network: AlexNet, side: int, source: str) -> Tensors:
    """{'conv1.kernel': float32 array, …}, inputs first, of a network.

    Args:
        found: in a file.
        network: that the weights are for.
        side: of its input in pixels.
        source: flag and name of the file, for messages: all that does not fit is in
            one line.
    """
    outputs_first = any(name.endswith(".weight") for name in found.tensors)
    wanted = shapes(network, side, outputs_first)
    if mistakes := list(_mistakes(found, wanted, network)):
        raise InputError(
            f"{source}: {'; '.join(mistakes)}; give the --config of that network"
        )
    tensors = {name: found.tensors[name] for name in wanted}
    if broken := list(_broken(tensors)):
        raise InputError(f"{source}: {'; '.join(broken)}; give an undamaged file")
    if outputs_first:
        tensors = {
            f"{stage.name}.{ours}": change(tensors[f"{stage.name}.{theirs}"], stage)
            for stage in with_weights(network, side)
            for ours, theirs, change in (
                ("kernel", "weight", inputs_first),
                ("bias", "bias", lambda bias, _: bias),
            )
        }
    return {
        name: np.ascontiguousarray(own, np.float32) for name, own in tensors.items()
    }


def with_outputs_first(params: Tensors, network: AlexNet, side: int) -> Tensors:
    """{'conv1.weight': …, 'conv1.bias': …} of {'conv1.kernel': …, 'conv1.bias': …}.

    Batch normalisation, which in a test pass is a factor and an offset of every map,
    becomes a part of them.
    """
    tensors, params = {}, dict(params)
    for layer in network.batch_normalised:
        deviation = np.sqrt(params[f"{layer}.variance"] + EPSILON)
        factor = params[f"{layer}.scale"] / deviation
        params[f"{layer}.kernel"] = params[f"{layer}.kernel"] * factor
        offset = params[f"{layer}.mean"] * factor
        params[f"{layer}.bias"] = params[f"{layer}.bias"] - offset
    for stage in with_weights(network, side):
        kernel = outputs_first(params[f"{stage.name}.kernel"], stage)
        tensors[f"{stage.name}.weight"] = np.ascontiguousarray(kernel)
        tensors[f"{stage.name}.bias"] = params[f"{stage.name}.bias"]
    return tensors


def with_weights(network: AlexNet, side: int) -> list[Stage]:
    """The stages that have weights."""
    return [stage for stage in stages(network, side) if stage.kernel]


def shapes(
    network: AlexNet, side: int, outputs_first: bool = False
) -> dict[str, tuple[int, ...]]:
    """Shapes by name, in one of the two layouts."""
    of: dict[str, tuple[int, ...]] = {}
    for stage in with_weights(network, side):
        kernel = stage.kernel
        if outputs_first and not stage.local:
            *sides, inputs, outputs = kernel
            kernel = (outputs, inputs, *sides)
        of[f"{stage.name}.{'weight' if outputs_first else 'kernel'}"] = kernel
        of[f"{stage.name}.bias"] = stage.output if stage.local else stage.output[-1:]
        if stage.name in network.batch_normalised:
            more = (f"{stage.name}.{name}" for name in ("scale", *AVERAGES))
            of |= dict.fromkeys(more, stage.output[-1:])
    return of


def outputs_first(kernel: np.ndarray, stage: Stage) -> np.ndarray:
    """A kernel of this package in the other layout; a local layer's stays as it is."""
    if stage.local:
        return kernel
    if kernel.ndim == 4:
        return kernel.transpose(3, 2, 0, 1)
    if len(stage.input) == 1:
        return kernel.T
    maps = kernel.reshape(*stage.input[:2], -1, kernel.shape[-1])
    return maps.transpose(3, 2, 0, 1).reshape(kernel.shape[::-1])


def inputs_first(weight: np.ndarray, stage: Stage) -> np.ndarray:
    """The inverse of `outputs_first`."""
    if stage.local:
        return weight
    if weight.ndim == 4:
        return weight.transpose(2, 3, 1, 0)
    if len(stage.input) == 1:
        return weight.T
    maps = weight.reshape(len(weight), -1, *stage.input[:2])
    return maps.transpose(2, 3, 1, 0).reshape(weight.shape[::-1])


def _mistakes(
    found: Found, wanted: dict[str, tuple[int, ...]], network: AlexNet
) -> Iterator[str]:
    """Where a file and a network differ."""
    given = {name: tensor.shape for name, tensor in found.tensors.items()}
    for name in sorted(wanted.keys() | given.keys()):
        there, here = given.get(name, "absent"), wanted.get(name, "absent")
        if there != here:
            yield f"{name} is {there} there and {here} in the config's network"
    kinds = (*network.weighted, "normalise", "pool")
    order = tuple(stage for stage in network.layers if stage in kinds)
    if found.order and found.order != order:
        yield (
            f"its order is {' '.join(found.order)}, and {' '.join(order)} in the "
            "config's network"
        )


def _broken(tensors: Tensors) -> Iterator[str]:
    """The tensors that cannot be weights."""
    for name, tensor in tensors.items():
        if not np.issubdtype(tensor.dtype, np.floating):
            yield f"{name} is of {tensor.dtype}, not floats"
        elif not np.isfinite(tensor).all():
            yield f"{name} is not finite everywhere"
