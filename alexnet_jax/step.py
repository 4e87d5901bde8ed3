"""One update of the training, a pure function of (state, batch)."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from alexnet_jax import parallel
from alexnet_jax.metrics import Sums, score
from alexnet_jax.network.alexnet import AlexNet


@flax.struct.dataclass
class State:
    """All that an update changes.

    Attributes:
        step: int32, updates done.
        params: {layer: {'kernel', 'bias'}}, float32.
        velocity: the optimizer's state.
        sums: loss and errors since they were last written to metrics.jsonl; part of
            the state so that a resumed run writes the same numbers.
    """

    step: jax.Array
    params: Any
    velocity: optax.OptState
    sums: Sums


def initial_params(network: AlexNet, seed: int, side: int) -> Any:
    """Gaussian weights and constant biases (§5).

    Args:
        network: any of its mesh forms; all towers are initialised.
        seed: of the weights.
        side: of the network's input, in pixels.
    """
    whole = network.clone(
        towers_here=network.towers, tower_axis=None, fc_axis=None, fc_parts=1
    )
    return whole.init(jax.random.key(seed), jnp.zeros((1, side, side, 3)))["params"]


def initial_state(
    network: AlexNet, optimizer: optax.GradientTransformation, seed: int, side: int
) -> State:
    """`initial_params`, with velocities at 0 (§5)."""
    params = initial_params(network, seed, side)
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), Sums.zero())


def state_shardings(state: State, mesh: Mesh) -> State:
    """Where each part of a state lives: velocities beside their parameters."""
    everywhere = parallel.replicated(mesh)
    by_parameter = parallel.parameter_shardings(mesh, state.params)
    shardings = jax.tree.map(lambda _: everywhere, state)
    return shardings.replace(
        params=by_parameter,
        velocity=optax.tree.set(shardings.velocity, trace=by_parameter),
    )


def make_train_step(
    network: AlexNet,
    optimizer: optax.GradientTransformationExtraArgs,
    mesh: Mesh,
    seed: int,
    side: int,
    mean_at: str,
    parts: int = 1,
):
    """Builds the update.

    Args:
        network: the network.
        optimizer: `optimizer.momentum_with_decay`.
        mesh: `parallel.make_mesh`.
        seed: of the dropout masks.
        side: of the network's input, in pixels.
        mean_at: see `training_pixels`.
        parts: in which the batch is computed, one after another: less memory, and the
            same update (gradient accumulation).

    Returns:
        train_step(state, batch, mean_image, rates) → (state, loss of the batch).
    """
    forward = parallel.training(network, mesh)

    def train_step(state: State, batch: dict, mean_image: jax.Array, rates):
        dropout_key = jax.random.fold_in(jax.random.key(seed), state.step)
        images = batch["weight"].sum()

        def share_of_loss(copies, part: dict):
            pixels = training_pixels(part, mean_image, side, mean_at)
            logits = forward(copies, pixels, part["row"], dropout_key)
            sums = score(jax.nn.log_softmax(logits), part["label"], part["weight"])
            return sums.loss / images, sums

        cut = parallel.in_parts(mesh, batch, parts)
        copies, add_up = jax.vjp(lambda p: parallel.copied(mesh, p), state.params)
        of_copies, sums = _summed(
            lambda part: jax.grad(share_of_loss, has_aux=True)(copies, part), cut
        )
        (gradients,) = add_up(of_copies)
        updates, velocity = optimizer.update(
            gradients, state.velocity, state.params, rates=rates
        )
        params = optax.apply_updates(state.params, updates)
        loss = sums.loss / images
        return State(state.step + 1, params, velocity, state.sums + sums), loss

    return train_step


def _summed(function, parts: Any) -> Any:
    """The sum of function(part) over the parts, which lie along the leading axis."""
    first = jax.tree.map(lambda x: x[0], parts)
    if all(len(x) == 1 for x in jax.tree.leaves(parts)):
        return function(first)

    def add(total, part):
        return jax.tree.map(jnp.add, total, function(part)), None

    nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(function, first))
    return jax.lax.scan(add, nothing, parts)[0]


def batch_shapes(batch_size: int, image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch of `data.loader.training_batches`."""
    shapes = {
        "image": ((batch_size, image_size, image_size, 3), "uint8"),
        "crop": ((batch_size, 2), "int32"),
        "flip": ((batch_size,), "bool"),
        "colour_offset": ((batch_size, 3), "float32"),
        "scale": ((batch_size,), "float32"),
        "label": ((batch_size,), "int32"),
        "weight": ((batch_size,), "float32"),
    }
    return {
        name: jax.ShapeDtypeStruct(shape, dtype)
        for name, (shape, dtype) in shapes.items()
    }


def training_pixels(
    batch: dict, mean_image: jax.Array, side: int, mean_at: str
) -> jax.Array:
    """Pictures → mean-free, reflected, colour-shifted crops of them (§4.1).

    Args:
        batch: see `batch_shapes`.
        mean_image: float32 (S, S, 3).
        side: of the crops, in pixels.
        mean_at: 'crop' subtracts the mean image where the crop was taken, as §2 reads;
            'centre' its central window from every crop, as the 2012 code did (facts 6).

    Returns:
        float32 (B, side, side, 3).
    """

    def crop(image, corner) -> jax.Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), (side, side, 3))

    flip = batch["flip"][:, None, None, None]

    def reflected(x: jax.Array) -> jax.Array:
        return jnp.where(flip, x[:, :, ::-1], x)

    pixels = jax.vmap(crop)(batch["image"], batch["crop"]).astype(jnp.float32)
    if mean_at == "crop":
        mean = jax.vmap(crop, (None, 0))(mean_image, batch["crop"])
        pixels = reflected(pixels - mean)
    else:
        margin = (mean_image.shape[0] - side) // 2
        pixels = reflected(pixels) - crop(mean_image, (margin, margin))
    pixels += batch["colour_offset"][:, None, None, :]
    return pixels * batch["scale"][:, None, None, None]
