"""Six small networks, each of which changes one thing, and `small_network` itself."""

from runs import tiny_config

from alexnet_jax.network.alexnet import FIGURE_2

SIXTH = FIGURE_2.index("fc6") - 1  # before the exchange

VARIANTS = {  # attributes of AlexNet
    "figure_2": {},
    "tanh": {"layers": tuple("tanh" if s == "relu" else s for s in FIGURE_2)},
    "no_normalisation": {"layers": tuple(s for s in FIGURE_2 if s != "normalise")},
    "sixth_convolution": {
        "layers": (*FIGURE_2[:SIXTH], "exchange", "conv6", "relu", *FIGURE_2[SIXTH:]),
        "kernels": (8,) * 6,
        "sizes": (11, 5, 3, 3, 3, 3),
        "strides": (4, 1, 1, 1, 1, 1),
        "paddings": (0, 2, 1, 1, 1, 1),
        "stddevs": (0.01, 0.1, 0.1, 0.1, 0.1, 0.1, 0.3, 0.2, 0.2),
        "biases": (0.1,) * 9,
    },
    "one_tower": {"towers": 1},
    "batch_normalised": {
        "layers": ("conv1", "batch_normalise", "relu", *FIGURE_2[3:]),
        "batch_group": 2,
    },
    "pooling_2_2": {"pool_size": 2, "pool_stride": 2},
}


def variant_config(name: str, **changes):
    """`tiny_config` with the network of a variant."""
    network = {f"network.{key}": value for key, value in VARIANTS[name].items()}
    return tiny_config(network | changes)
