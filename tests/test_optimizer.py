"""§5's update against plain statements of it, and the schedules of its rates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from compare import relative_difference

from alexnet_jax.experiment import make_schedule
from alexnet_jax.optimizer import momentum_with_decay
from alexnet_jax.schedules import (
    Drop,
    EpochSchedule,
    Plateau,
    PolynomialSchedule,
    chance_error,
)
from configs import paper, paper_2012_code, paper_2012_run4

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")

SHAPES = {
    "conv1": {"kernel": (3, 3, 2, 4), "bias": (4,)},
    "fc8": {"kernel": (6, 5), "bias": (5,)},
}


def trees(count: int, scale: float = 1.0):
    """That many trees of random float32 arrays like SHAPES."""
    rng = np.random.default_rng(4)

    def leaf(shape):
        return rng.normal(0, scale, shape).astype(np.float32)

    return [
        jax.tree.map(leaf, SHAPES, is_leaf=lambda x: isinstance(x, tuple))
        for _ in range(count)
    ]


def rates(kernel: float, bias: float, **layers):
    """The same rates for all layers, but for those given as (kernel, bias)."""
    pairs = {layer: layers.get(layer, (kernel, bias)) for layer in SHAPES}
    return {layer: {"kernel": k, "bias": b} for layer, (k, b) in pairs.items()}


def updated(params, gradients, schedule, momentum=0.9, weight_decay=0.0005, trust=0.0):
    """The parameters after each update, and the last state."""
    optimizer = momentum_with_decay(momentum, weight_decay, trust=trust)
    update = jax.jit(lambda g, state, p, r: optimizer.update(g, state, p, rates=r))
    state, history = optimizer.init(params), []
    for gradient, now in zip(gradients, schedule, strict=True):
        moves, state = update(gradient, state, params, now)
        params = optax.apply_updates(params, moves)
        history.append(params)
    return history, state


def stated_by_section_5(params, gradients, schedule):
    """v ← 0.9 v − 0.0005 ε w − ε g; w ← w + v, in float64, biases without decay."""
    params = jax.tree.map(np.float64, params)
    velocity = jax.tree.map(np.zeros_like, params)
    history = []
    for gradient, now in zip(gradients, schedule, strict=True):
        for layer, leaves in params.items():
            for name, w in leaves.items():
                rate = now[layer][name]
                decay = 0.0005 * rate * w if name == "kernel" else 0
                v = 0.9 * velocity[layer][name] - decay - rate * gradient[layer][name]
                velocity[layer][name] = v
                params[layer][name] = w + v
        history.append(jax.tree.map(np.copy, params))
    return history, velocity


DROP = [rates(0.01, 0.02)] * 5 + [rates(0.001, 0.002)] * 5


def test_ten_updates_across_a_tenfold_drop_are_section_5s():
    params, *gradients = trees(11)
    history, state = updated(params, gradients, DROP)
    expected, velocity = stated_by_section_5(params, gradients, DROP)
    # What moved is compared, not the weights, beside which it is small.
    start = jax.tree.map(np.float64, params)
    moved, should = (
        [jax.tree.map(np.subtract, now, start) for now in steps]
        for steps in (history, expected)
    )
    difference = relative_difference(moved, should)
    print(f"\nlargest relative difference over ten updates {difference:.2e}")
    assert difference <= 1e-5
    assert relative_difference(state.trace, velocity) <= 1e-5


def test_layers_with_a_decay_of_their_own_as_on_cifar10():
    # Weights of 1 and no gradient: one step is −ε · decay, and biases never decay.
    params = jax.tree.map(np.ones_like, trees(1)[0])
    optimizer = momentum_with_decay(0.9, 0.004, {"fc8": 1.0})
    nothing = jax.tree.map(np.zeros_like, params)
    moves, _ = optimizer.update(
        nothing, optimizer.init(params), params, rates=rates(0.01, 0.02)
    )
    for layer, leaves in moves.items():
        decay = 1.0 if layer == "fc8" else 0.004
        np.testing.assert_allclose(leaves["kernel"], -0.01 * decay, rtol=1e-6)
        np.testing.assert_array_equal(leaves["bias"], 0)


def test_torch_sgd_agrees_until_the_rate_drops_and_then_no_more():
    params, *gradients = trees(11)
    schedule = [rates(0.01, 0.01)] * 5 + [rates(0.001, 0.001)] * 5
    history, _ = updated(params, gradients, schedule)

    w = torch.tensor(params["fc8"]["kernel"], requires_grad=True)
    sgd = torch.optim.SGD([w], lr=0.01, momentum=0.9, weight_decay=0.0005)
    steps = []
    for gradient, now in zip(gradients, schedule, strict=True):
        sgd.param_groups[0]["lr"] = now["fc8"]["kernel"]
        w.grad = torch.tensor(gradient["fc8"]["kernel"])
        sgd.step()
        steps.append(w.detach().numpy().copy())
    ours = [now["fc8"]["kernel"] for now in history]
    start = params["fc8"]["kernel"]
    for i in range(5):
        assert relative_difference(ours[i] - start, steps[i] - start) <= 1e-5
    # Here the velocity keeps its size, there it shrinks tenfold at once.
    assert relative_difference(ours[5] - ours[4], steps[5] - steps[4]) > 2


def test_after_a_drop_the_velocity_coasts():
    # docs/sources.md, 'Update rule'.
    params, gradient = trees(2)
    nothing = jax.tree.map(np.zeros_like, gradient)
    schedule = [rates(0.01, 0.02), rates(0.001, 0.002)]
    history, _ = updated(params, [gradient, nothing], schedule, weight_decay=0.0)
    first = jax.tree.map(np.subtract, history[0], params)
    second = jax.tree.map(np.subtract, history[1], history[0])
    nine_tenths = jax.tree.map(lambda step: 0.9 * step, first)
    assert relative_difference(second, nine_tenths) <= 1e-4  # of w's rounding


def test_a_bias_steps_twice_as_far_and_only_weights_decay():
    # docs/sources.md, 'Update rule'.
    (params,) = trees(1)
    for gradient, step, bias_step in ((1.0, -0.01, -0.02), (0.0, 0.0, 0.0)):
        same = jax.tree.map(lambda p, g=gradient: np.full_like(p, g), params)
        _, state = updated(params, [same], [rates(0.01, 0.02)])
        for layer, leaves in state.trace.items():
            w = params[layer]["kernel"]
            np.testing.assert_allclose(leaves["bias"], bias_step, rtol=1e-6)
            np.testing.assert_allclose(
                leaves["kernel"], step - 5e-4 * 0.01 * w, rtol=1e-5, atol=1e-12
            )


def test_a_frozen_layer_and_its_velocity_stand_still():
    params, *gradients = trees(9)
    warm, frozen = rates(0.01, 0.02), rates(0.01, 0.02, conv1=(0.0, 0.0))
    history, state = updated(params, gradients[:4], [warm] * 4)
    later, later_state = updated(params, gradients, [warm] * 4 + [frozen] * 4)
    jax.tree.map(
        np.testing.assert_array_equal,
        (later[-1]["conv1"], later_state.trace["conv1"]),
        (history[-1]["conv1"], state.trace["conv1"]),
    )
    # The others go on as if nothing had happened.
    expected, _ = stated_by_section_5(params, gradients, [warm] * 8)
    assert relative_difference(later[-1]["fc8"], expected[-1]["fc8"]) <= 1e-5

    # Thawed, it continues with the velocity that it had.
    thawed, _ = updated(
        params,
        [*gradients[:4], gradients[7], gradients[4]],
        [warm] * 4 + [frozen, warm],
    )
    never_frozen, _ = updated(params, gradients[:5], [warm] * 5)
    jax.tree.map(
        np.testing.assert_array_equal, thawed[-1]["conv1"], never_frozen[-1]["conv1"]
    )


def test_a_weight_can_freeze_while_its_bias_learns():
    params, gradient = trees(2)
    (now,), _ = updated(params, [gradient], [rates(0.01, 0.02, fc8=(0.0, 0.02))])
    np.testing.assert_array_equal(now["fc8"]["kernel"], params["fc8"]["kernel"])
    assert (now["fc8"]["bias"] != params["fc8"]["bias"]).all()


def test_rates_can_be_traced():
    params, gradient = trees(2)
    as_arrays = jax.tree.map(jnp.float32, rates(0.01, 0.02, conv1=(0.0, 0.0)))
    (traced,), _ = updated(params, [gradient], [as_arrays])
    np.testing.assert_array_equal(traced["conv1"]["bias"], params["conv1"]["bias"])


def test_rates_by_layer_are_those_of_optax_lars():
    params, *gradients = trees(9)
    # Weights that say nothing, and a gradient that says nothing, keep their own rate.
    params["conv1"]["kernel"][:] = 0
    gradients[3]["fc8"]["kernel"][:] = -0.0005 * params["fc8"]["kernel"]

    def kernels(tree):
        path = jax.tree_util.tree_map_with_path
        return path(lambda path, _: path[-1].key == "kernel", tree)

    lars = optax.lars(
        2.0, 0.0005, kernels, trust_coefficient=0.001, trust_ratio_mask=kernels
    )
    state, now, expected = lars.init(params), params, []
    for gradient in gradients:
        moves, state = lars.update(gradient, state, now)
        now = optax.apply_updates(now, moves)
        expected.append(now)
    history, _ = updated(params, gradients, [rates(2.0, 2.0)] * 8, trust=0.001)
    moved, should = (
        [jax.tree.map(np.subtract, now, params) for now in steps]
        for steps in (history, expected)
    )
    assert relative_difference(moved, should) <= 1e-5
    plain, _ = updated(params, gradients, [rates(2.0, 2.0)] * 8)
    assert relative_difference(plain[0], history[0]) > 0.1


# --- schedules -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "common", "conv1"),
    [
        (0, (1e-2, 2e-2), (1e-2, 2e-2)),
        (24.9, (1e-2, 2e-2), (1e-2, 2e-2)),
        (25, (1e-3, 2e-2), (1e-3, 2e-2)),
        (50.9, (1e-3, 2e-2), (1e-3, 2e-2)),
        (51, (1e-4, 2e-2), (1e-4, 2e-2)),
        (67, (1e-4, 2e-2), (1e-5, 2e-2)),
        (72, (1e-4, 2e-2), (0.0, 0.0)),
        (79, (1e-5, 2e-2), (0.0, 0.0)),
        (90.9, (1e-5, 2e-2), (0.0, 0.0)),
    ],
)
def test_config_145_was_lowered_by_hand(epoch, common, conv1):
    rates = make_schedule(paper_2012_code.get_config()).rates(epoch, LAYERS)
    assert list(rates) == list(LAYERS)
    for layer, rate in rates.items():
        kernel, bias = conv1 if layer == "conv1" else common
        assert rate == pytest.approx({"kernel": kernel, "bias": bias}, rel=1e-12)


@pytest.mark.parametrize(
    ("epoch", "common", "first_two"),
    [
        (0, (1e-2, 2e-2), (1e-2, 2e-2)),
        (21.9, (1e-2, 2e-2), (1e-2, 2e-2)),
        (22, (1e-3, 2e-3), (1e-3, 2e-3)),
        (48.9, (1e-3, 2e-3), (1e-3, 2e-3)),
        (49, (1e-4, 2e-3), (1e-4, 2e-3)),
        (66, (1e-4, 2e-3), (1e-5, 2e-3)),
        (73, (1e-4, 2e-3), (0.0, 0.0)),
        (81, (1e-5, 2e-3), (0.0, 0.0)),
        (94.9, (1e-5, 2e-3), (0.0, 0.0)),
    ],
)
def test_run4_was_scripted_and_froze_two_layers(epoch, common, first_two):
    rates = make_schedule(paper_2012_run4.get_config()).rates(epoch, LAYERS)
    for layer, rate in rates.items():
        kernel, bias = first_two if layer in ("conv1", "conv2") else common
        assert rate == pytest.approx({"kernel": kernel, "bias": bias}, rel=1e-12)


def test_the_two_schedules_of_2012_end_their_noise_and_themselves_apart():
    ends = {
        module: (config.epochs, config.augment.colour_noise_until_epoch)
        for module in (paper_2012_code, paper_2012_run4)
        for config in [module.get_config()]
    }
    assert ends == {paper_2012_code: (91.0, 67.0), paper_2012_run4: (95.0, 66.0)}


def test_a_layers_own_drops_go_before_the_common_ones():
    schedule = EpochSchedule(
        [Drop(0, 1.0, 2.0), Drop(4, 0.1, 0.2)], {"fc8": [Drop(2, 5.0, 6.0)]}
    )

    def of_fc8(epoch):
        return schedule.rates(epoch, ["conv1", "fc8"])["fc8"]["kernel"]

    assert [of_fc8(epoch) for epoch in (0, 1.99, 2, 4, 9)] == [1.0, 1.0, 5.0, 5.0, 5.0]


def test_polynomial_rates_rise_and_fall_to_nothing():
    schedule = PolynomialSchedule(8.0, 16.0, power=2.0, warmup=5.0, epochs=25.0)
    for epoch, share in (
        *((0.0, 0.0), (1.0, 0.2), (4.5, 0.9), (5.0, 1.0)),
        *((10.0, 0.5625), (15.0, 0.25), (24.0, 0.0025), (25.0, 0.0), (26.0, 0.0)),
    ):
        own = schedule.rates(epoch, LAYERS)["fc8"]
        assert own == pytest.approx({"kernel": 8 * share, "bias": 16 * share})
    steep = PolynomialSchedule(8.0, 16.0, power=1.0, warmup=0.0, epochs=4.0)
    assert steep.rates(0, LAYERS)["conv1"]["kernel"] == 8
    assert steep.rates(3, LAYERS)["conv1"]["kernel"] == 2


def test_a_run_of_so_many_steps_falls_to_nothing_at_its_last():
    config = paper.get_config()
    config.optimizer.schedule, config.steps, config.batch_size = "polynomial", 90, 10
    schedule = make_schedule(config, 10, training_images=100)
    assert (schedule.epochs, schedule.finished) == (9.0, False)


def seen(plateau: Plateau, *errors: float) -> Plateau:
    for error in errors:
        plateau = plateau.after_validation(error)
    return plateau


def rate_of(plateau: Plateau) -> tuple[float, float]:
    own = plateau.rates(epoch=50, names=LAYERS)["fc6"]
    return own["kernel"], own["bias"]


def test_plateau_drops_after_so_many_validations_without_a_better_one():
    plateau = make_schedule(paper.get_config())
    assert (plateau.patience, plateau.drops) == (3, 3)
    assert rate_of(plateau) == (0.01, 0.01)

    plateau = seen(plateau, 0.9, 0.8, 0.8, 0.85)  # twice no better: an equal one is not
    assert rate_of(plateau) == (0.01, 0.01)
    assert rate_of(seen(plateau, 0.79, 0.8, 0.8)) == (0.01, 0.01), "a better one resets"
    plateau = seen(plateau, 0.81)
    assert rate_of(plateau) == pytest.approx((0.001, 0.001))
    assert rate_of(seen(plateau, 0.81, 0.81)) == pytest.approx((0.001, 0.001))
    assert rate_of(seen(plateau, 0.81, 0.81, 0.81)) == pytest.approx((1e-4, 1e-4))


def test_plateau_drops_three_times_and_then_ends():
    plateau, history = seen(Plateau(0.01, 0.02, 10.0, drops=3, patience=2), 0.5), []
    while not plateau.finished:
        history.append(rate_of(plateau))
        plateau = plateau.after_validation(0.6)
    expected = [(0.01 / 10**d, 0.02 / 10**d) for d in (0, 0, 1, 1, 2, 2, 3, 3)]
    np.testing.assert_allclose(history, expected)
    np.testing.assert_allclose(rate_of(plateau), expected[-1])


def test_plateau_takes_nan_for_no_improvement():
    plateau = Plateau(0.01, 0.01, 10.0, drops=3, patience=2)
    assert seen(plateau, 0.5, float("nan"), float("nan")).dropped == 1


def test_plateau_goes_on_from_its_memory():
    start = Plateau(0.01, 0.02, 10.0, drops=3, patience=2)
    errors = (0.9, 0.7, 0.8, 0.7, 0.75, 0.6, 0.6, 0.6, 0.6, 0.6)
    for cut in range(len(errors)):
        before = seen(start, *errors[:cut])
        resumed = start.with_memory(before.memory())
        assert resumed == before
        assert seen(resumed, *errors[cut:]) == seen(start, *errors)


def test_an_error_at_chance_has_not_stopped_improving():
    # Ten classes, 1,000 images: guessing errs on 900 of them, give or take 9.5.
    chance = chance_error(classes=10, images=1000)
    assert chance == pytest.approx(0.9 - 3 * (0.9 * 0.1 / 1000) ** 0.5)
    start = Plateau(0.01, 0.02, 10.0, drops=3, patience=3, chance=chance)
    waiting = seen(start, *[0.9] * 20, 0.893, 0.9, 0.88, *[0.9] * 9)
    assert (waiting.waited, waiting.dropped) == (0, 0)
    begun = seen(waiting, 0.8, 0.81, 0.82)
    assert (begun.waited, begun.dropped) == (2, 0)
    assert seen(begun, 0.8).dropped == 1
