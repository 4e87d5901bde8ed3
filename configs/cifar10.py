"""The CIFAR-10 networks of 2012, those of §3.3's footnote and Figure 1's among them.

    python -m alexnet_jax.prepare --source=cifar10 --destination=cifar10-32 \
        --image_size=32 --encoding=raw
    python -m alexnet_jax.main --config=configs/cifar10.py:norm18 \
        --workdir=runs/norm18 \
        --config.dataset.train=cifar10-32 \
        --config.dataset.validation=cifar10-32

The names are those of NETWORKS, described where they are made. Errors are those of the
files' headers on the original pixels (docs/sources.md, 'CIFAR-10 networks'), of 2012
and, for norm11, of 2014.
"""

from ml_collections import ConfigDict

from alexnet_jax.config import base_config
from alexnet_jax.values import one_of
from configs import variants

PUBLISHED = {  # test error: (paper, headers of the files)
    "norm18": ("", "18 %"),
    "no_norm19": ("", "19 %"),
    "no_norm13": ("13 % (footnote of §3.3)", "13 %"),
    "norm11": ("11 % (footnote of §3.3)", "11 %"),
}


def _cifar10() -> ConfigDict:
    """What all of them share: one tower, 32-pixel images, 5×5 kernels, no noise."""
    config = base_config()
    config.dataset.source = "records"
    config.dataset.image_size = 32
    config.dataset.threads = 1  # small images: more only wait for one another
    config.checkpoint_every_steps = 2000
    config.log_every_steps = 100

    network = config.network
    network.towers = 1
    network.units = ()

    optimizer = config.optimizer
    optimizer.rate = 0.001
    optimizer.bias_rate_multiple = 2.0
    optimizer.schedule = "epochs"

    augment = config.augment
    augment.crop, augment.offsets, augment.reflect = 32, 1, False
    augment.mean_at = "centre"
    augment.colour_noise = 0.0
    return config


def norm18() -> ConfigDict:
    """layers-18pct.cfg: 18 % test error; three convolutions, no augmentation."""
    config = _cifar10()
    config.epochs = 140.0
    network = config.network
    network.layers = (
        "conv1", "pool", "relu", "normalise_within_maps",           # 32×32 → 16×16×32
        "conv2", "relu", "average_pool", "normalise_within_maps",   # → 8×8×32
        "conv3", "relu", "average_pool",                            # → 4×4×64
        "fc10",
    )  # fmt: skip
    network.kernels = (32, 32, 64)
    network.sizes, network.strides, network.paddings = (5,) * 3, (1,) * 3, (2,) * 3
    network.spatial_size, network.spatial_alpha = 3, 5e-5 / 9
    network.stddevs = (0.0001, 0.01, 0.01, 0.01)
    network.biases = (0.0,) * 4

    optimizer = config.optimizer
    optimizer.weight_decay = 0.004
    optimizer.layer_decays = (("fc10", 1.0),)
    optimizer.drops = ((120.0, 1e-4, 2e-4), (130.0, 1e-5, 2e-5))
    return config


def no_norm19() -> ConfigDict:
    """layers-19pct.cfg: the same without normalisation, and fc10 decays faster."""
    config = norm18()
    variants.no_normalisation(config)
    config.optimizer.layer_decays = (("fc10", 3.0),)
    return config


def no_norm13() -> ConfigDict:
    """layers-conv-local-13pct.cfg: 13 %; four layers and the softmax, no normalisation.

    24-pixel crops and reflections. The length is that of cifar10-11pct's recipe.
    """
    config = norm11()
    variants.no_normalisation(config)
    config.network.kernels = (64, 64, 32, 32)
    config.optimizer.layer_decays = tuple(
        (layer, 0.004) for layer in ("local3", "local4", "fc10")
    )
    return config


def norm11() -> ConfigDict:
    """layers-cifar10-11pct.cfg: 11 %, with response normalisation (footnote of §3.3).

    It differs from `no_norm13` in more than normalisation: local3 is twice as wide, and
    fc10 decays faster. The file's header trains 350 epochs on four of five batches, 150
    on all five and 20 at lower rates of the weights; here all 500 are on all images,
    and the biases' rates fall too.
    """
    config = _cifar10()
    config.epochs = 520.0
    network = config.network
    network.layers = (
        "conv1", "relu", "pool", "normalise",    # 24×24 → 12×12×64
        "conv2", "relu", "normalise", "pool",    # → 6×6×64
        "local3", "relu",                        # 6×6×64
        "local4", "relu",                        # 6×6×32
        "fc10",
    )  # fmt: skip
    network.kernels = (64, 64, 64, 32)
    network.sizes, network.strides = (5, 5, 3, 3), (1,) * 4
    network.paddings = (2, 2, 1, 1)
    network.response_depth = 9
    network.response_k, network.response_alpha = 1.0, 0.001 / 9
    network.stddevs = (0.0001, 0.01, 0.04, 0.04, 0.01)
    network.biases = (0.0,) * 5

    optimizer = config.optimizer
    optimizer.weight_decay = 0.0
    optimizer.layer_decays = (("local3", 0.004), ("local4", 0.004), ("fc10", 0.01))
    optimizer.drops = ((500.0, 1e-4, 2e-4), (510.0, 1e-5, 2e-5))

    augment = config.augment
    augment.crop, augment.offsets, augment.reflect = 24, 9, True
    return config


def short_norm11() -> ConfigDict:
    """norm11 in 30 epochs of the 520: the footnote of §3.3 at a length for a laptop."""
    config = norm11()
    config.epochs = 30.0
    config.optimizer.drops = ((24.0, 1e-4, 2e-4), (27.0, 1e-5, 2e-5))
    return config


def short_no_norm11() -> ConfigDict:
    """The same without normalisation, and nothing else changed."""
    config = short_norm11()
    variants.no_normalisation(config)
    return config


def figure1(unit: str) -> ConfigDict:
    """Figure 1: units compared by the epochs until 25 % training error.

    The paper does not name its network ('a four-layer convolutional network', no
    regularisation). This one is `no_norm19`'s: three convolutions and fc10, without
    weight decay; a constant rate for each unit, the fastest of a search. |tanh| has
    one of its own for conv1, whose units are otherwise soon at 1 for every image.
    """
    config = no_norm19()
    config.epochs = 80.0
    if unit != "relu":
        variants.VARIANTS[unit](config)
    optimizer = config.optimizer
    optimizer.weight_decay = 0.0
    optimizer.layer_decays = ()
    optimizer.drops = ()
    optimizer.rate = FIGURE_1_RATES[unit]
    if unit == "abs_tanh":
        optimizer.layer_drops = (("conv1", 0.0, 3e-6, 6e-6),)
    return config


# Half and twice as much is slower; |tanh| at four times as much is faster at first, and
# then saturates (docs/results.md).
FIGURE_1_RATES = {"relu": 0.004, "tanh": 0.016, "logistic": 0.064, "abs_tanh": 0.004}
NETWORKS = {
    make.__name__: make
    for make in (norm18, no_norm19, no_norm13, norm11, short_norm11, short_no_norm11)
}


def get_config(name: str = "norm18") -> ConfigDict:
    """A network of NETWORKS, or 'figure1_UNIT'."""
    one_of(name, [*NETWORKS, *(f"figure1_{u}" for u in FIGURE_1_RATES)], "network")
    kind, _, unit = name.partition("_")
    return figure1(unit) if kind == "figure1" else NETWORKS[name]()
