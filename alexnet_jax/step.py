"""One training step, a pure function of (state, batch)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from alexnet_jax import optimizer, parallel
from alexnet_jax.device import by_target
from alexnet_jax.metrics import Sums, score
from alexnet_jax.network.alexnet import AlexNet

KEPT = 0.9  # of an average of batch normalisation, in a step


@flax.struct.dataclass
class State:
    """The arrays that a training step changes."""

    step: jax.Array  # int32, steps done
    params: Any  # {layer: {'kernel', 'bias'}}, float32 (float64 in proofs)
    opt_state: optax.TraceState  # the velocities
    sums: Sums  # since the last line of metrics.jsonl, which a resumed run continues


def initial_params(network: AlexNet, seed: int, side: int) -> Any:
    """Gaussian weights and constant biases (§5) of all towers, for images of `side`."""
    whole = network.clone(towers_here=None, tower_axis=None, fc_axis=None, fc_parts=1)
    return whole.init(jax.random.key(seed), jnp.zeros((1, side, side, 3)))["params"]


def parameter_shapes(network: AlexNet, side: int) -> dict:
    """Shapes and dtypes of a network's parameters, for an input of `side` pixels."""
    return jax.eval_shape(lambda: initial_params(network, 0, side))


def state_of(params: Any, rule: optax.GradientTransformation) -> State:
    """The state before the first step: velocities of 0 (§5)."""
    sums = Sums.zero(jax.tree.leaves(params)[0].dtype)
    return State(jnp.zeros((), jnp.int32), params, rule.init(params), sums)


def state_shardings(state: State, network: AlexNet, mesh: Mesh) -> State:
    """Sharding of each array of a state: velocities as their parameters."""
    by_parameter = parallel.parameter_shardings(network, mesh)
    shardings = jax.tree.map(lambda _: parallel.replicated(mesh), state)
    return shardings.replace(
        params=by_parameter, opt_state=optax.TraceState(trace=by_parameter)
    )


def make_train_step(
    network: AlexNet,
    rule: optax.GradientTransformationExtraArgs,
    mesh: Mesh,
    seed: int,
    side: int,
    mean_at: str,
    micro_batches: int = 1,
) -> Callable[..., tuple[State, jax.Array]]:
    """Build the training step.

    Args:
        network: with all towers.
        rule: `optimizer.momentum_with_decay`.
        mesh: `parallel.make_mesh`.
        seed: of the dropout masks.
        side: of the network's input, in pixels.
        mean_at: see `training_pixels`.
        micro_batches: into which the batch is cut, computed in sequence: less memory,
            and the same step (gradient accumulation).

    Returns:
        train_step(state, batch, mean_image, rates) → (state, loss of the batch).
    """
    forward = parallel.training_forward(network, mesh)

    def train_step(state: State, batch: dict, mean_image: jax.Array, rates):
        dropout_key = jax.random.fold_in(jax.random.key(seed), state.step)
        images = batch["weight"].sum()

        def share_of_loss(replicas, examples: dict):
            pixels = training_pixels(examples, mean_image, side, mean_at)
            logits, seen = forward(replicas, pixels, examples["row"], dropout_key)
            log_probs = jax.nn.log_softmax(logits)
            sums = score(log_probs, examples["label"], examples["weight"])
            return sums.loss / images, (sums, seen)

        replicas, add_up = jax.vjp(
            lambda params: parallel.replicas(network, mesh, params), state.params
        )
        replica_gradients, (sums, seen) = _summed(
            lambda examples: jax.grad(share_of_loss, has_aux=True)(replicas, examples),
            parallel.micro_batches(mesh, batch, micro_batches),
        )
        (gradients,) = add_up(replica_gradients)
        moves, opt_state = rule.update(
            gradients, state.opt_state, state.params, rates=rates
        )
        params = optax.apply_updates(state.params, moves)
        params = averaged(params, seen, micro_batches)
        after = State(state.step + 1, params, opt_state, state.sums + sums)
        return after, sums.loss / images

    return train_step


def averaged(params: Any, seen: Any, micro_batches: int) -> Any:
    """Let the averages of batch normalisation follow the statistics of a batch.

    Args:
        params: {layer: {'kernel', 'bias', …}}.
        seen: {layer: {'mean', 'variance'}}, sums over the micro-batches.
        micro_batches: their number.
    """

    def follow(average, seen):
        return KEPT * average + (1 - KEPT) / micro_batches * seen

    moved = {
        layer: {name: follow(params[layer][name], own[name]) for name in own}
        for layer, own in seen.items()
    }
    return {layer: own | moved.get(layer, {}) for layer, own in params.items()}


def _summed(function: Callable[[Any], Any], micro_batches: Any) -> Any:
    """The sum of function(micro-batch) over the leading axis."""
    first = jax.tree.map(lambda x: x[0], micro_batches)
    if all(len(x) == 1 for x in jax.tree.leaves(micro_batches)):
        return function(first)

    def add(total, micro_batch):
        return jax.tree.map(jnp.add, total, function(micro_batch)), None

    zero = jax.tree.map(jnp.zeros_like, jax.eval_shape(function, first))
    return jax.lax.scan(add, zero, micro_batches)[0]


def norms(params: Any, velocities: Any, rates: Any) -> dict[str, jax.Array]:
    """Euclidean norms of the weights and of their changes in the last step.

    Args:
        params: {layer: {'kernel', 'bias'}}.
        velocities: alike; §5 adds them to the weights.
        rates: learning rates, alike; layers whose rate is 0 do not move.

    Returns:
        {'norm/conv1/kernel', …, 'update_norm/conv1/kernel', …}.
    """
    moves = optimizer.moves(velocities, rates)
    trees = {"norm": params, "update_norm": moves}
    return {
        name: jnp.sqrt(jnp.sum(jnp.square(array)))
        for name, array in flatten_dict(trees, sep="/").items()
    }


def batch_shapes(batch_size: int, image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch of `data.loader.training_batches`."""

    def array(dtype: str, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

    return {
        "image": array("uint8", image_size, image_size, 3),
        "crop": array("int32", 2),
        "flip": array("bool"),
        "colour_offset": array("float32", 3),
        "scale": array("float32"),
        "label": array("int32"),
        "weight": array("float32"),
    }


def training_pixels(
    batch: dict, mean_image: jax.Array, side: int, mean_at: str
) -> jax.Array:
    """Images → mean-free, reflected, colour-shifted crops (§4.1).

    Args:
        batch: see `batch_shapes`.
        mean_image: (S, S, 3); its dtype is the result's.
        side: of the crops, in pixels.
        mean_at: 'crop' subtracts the mean image where the crop was taken, as §2 reads;
            'centre' its central window from every crop, as 2012 convdata_jpeg.py did.

    Returns:
        (B, side, side, 3).
    """
    arrays = (batch["image"], batch["crop"], batch["flip"], mean_image)
    moving = mean_at == "crop"
    pixels = by_target(
        *arrays,
        default=partial(_sliced, side=side, mean_is_cropped=moving),
        tpu=partial(_selected, side=side, mean_is_cropped=moving),
    )
    if not moving:
        margin = (mean_image.shape[0] - side) // 2
        pixels -= _crop(mean_image, (margin, margin), side)
    pixels += batch["colour_offset"][:, None, None, :]
    return pixels * batch["scale"][:, None, None, None]


def _crop(image, corner, side: int) -> jax.Array:
    y, x = jnp.asarray(corner, jnp.int32)
    return jax.lax.dynamic_slice(image, (y, x, jnp.int32(0)), (side, side, 3))


def _sliced(images, corners, flips, mean, *, side: int, mean_is_cropped: bool):
    """Reflected crops, of the images less their mean or of the images alone."""
    crop = partial(_crop, side=side)
    pixels = jax.vmap(crop)(images, corners).astype(mean.dtype)
    if mean_is_cropped:
        pixels -= jax.vmap(crop, (None, 0))(mean, corners)
    return jnp.where(flips[:, None, None, None], pixels[:, :, ::-1], pixels)


def _selected(images, corners, flips, mean, *, side: int, mean_is_cropped: bool):
    """The same numbers as products with zeros and ones.

    XLA for TPUs makes a loop over the images of the slices: 2.9 ms for 128 of them on a
    v5e by its compiler, and these 1.0. In HIGHEST precision they are exact.
    """
    at = jnp.arange(side)
    rows = corners[:, :1] + at
    columns = corners[:, 1:] + jnp.where(flips[:, None], side - 1 - at, at)
    of_rows, of_columns = (
        jax.nn.one_hot(places, size, dtype=mean.dtype)
        for places, size in zip((rows, columns), images.shape[1:3], strict=True)
    )
    images = images.astype(mean.dtype) - (mean if mean_is_cropped else 0)
    product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    pixels = product("byh,bhwc->bywc", of_rows, images)
    return product("bxw,bywc->byxc", of_columns, pixels)
