"""The experiments of the paper and of its logs: the 2012 network with one change each.

    python -m alexnet_jax.main --config=configs/variants.py:no_normalisation \
        --workdir=runs/no_normalisation --config.dataset.train=ILSVRC2012/train \
        --config.dataset.validation=ILSVRC2012/val

The known names are the functions below. `PUBLISHED` has the errors of the paper and of
the logs of 2012 (docs/sources.md, 'Logged errors'); docs/results.md has ours.
"""

from ml_collections import ConfigDict

from alexnet_jax.values import one_of
from configs import paper_2012_code

# Top-1 / top-5 error over ten views of ILSVRC-2012's validation images, in per cent;
# with a sign: in points beside the whole network's.
PUBLISHED = {  # (paper, log of 2012)
    "whole": ("40.7 / 18.2", "145: 40.66 / 18.21"),
    "no_normalisation": ("+1.4 / +1.2 (§3.3)", "148: 42.03 / 19.36"),
    "no_overlap": ("+0.4 / +0.3 (§3.4)", "147: 41.06 / 18.51"),
    "half": ("+1.7 / +1.2 (§3.2)", "145-half, ILSVRC-2010: 39.17 / 18.23, 145 37.47"),
    "no_communication": ("", "150: 41.83 / 19.33"),
    "conv2_unnormalised": ("", "167: 40.49 / 18.12"),
    "conv2_normalised_before_relu": ("", "166: 41.10 / 18.67"),
    "no_colour_noise": ("over +1 (§4.1)", ""),
    "without_conv3": ("about +2 (§7)", ""),
    "without_conv4": ("about +2 (§7)", ""),
    "fine_tuned": ("39.0 / 16.6", "146-2012-2011: 38.99 / 16.62"),
}  # fmt: skip
CONV6_BIAS_RATE = 2e-3  # of 146-2009 and 146-2011; all other layers have 2e-2


def whole(config: ConfigDict) -> None:
    """No change: config 145."""


def tanh(config: ConfigDict) -> None:
    """Each unit a hyperbolic tangent in place of a ReLU (§3.1)."""
    _replace(config, {"relu": ("tanh",)})


def logistic(config: ConfigDict) -> None:
    """Each unit a (1 + e^−x)^−1 (§3.1)."""
    _replace(config, {"relu": ("logistic",)})


def abs_tanh(config: ConfigDict) -> None:
    """Each unit a |tanh(x)| (§3.1)."""
    _replace(config, {"relu": ("abs_tanh",)})


def no_normalisation(config: ConfigDict) -> None:
    """Config 148: no response normalisation anywhere (§3.3)."""
    _replace(config, {"normalise": (), "normalise_within_maps": ()})


def batch_normalised(config: ConfigDict) -> None:
    """AlexNet-BN: batch normalisation in place of the paper's (You et al., 2017).

    Of the sums of all layers but the last, ahead of their biases, which start at 0.
    """
    no_normalisation(config)
    hidden = [s for s in config.network.layers[:-1] if s.startswith(("conv", "fc"))]
    _replace(config, {layer: (layer, "batch_normalise") for layer in hidden})
    config.network.biases = (0.0,) * len(config.network.biases)


def conv2_unnormalised(config: ConfigDict) -> None:
    """Config 167: conv1's normalisation alone."""
    layers = config.network.layers
    at = layers.index("conv2")
    below = tuple(s for s in layers[at:] if not s.startswith("normalise"))
    config.network.layers = layers[:at] + below


def conv2_normalised_before_relu(config: ConfigDict) -> None:
    """Config 166: conv2 is normalised and pooled before its ReLU, as conv1 is."""
    block = ("conv2", "relu", "normalise", "normalise_within_maps", "pool")
    layers, at = config.network.layers, config.network.layers.index("conv2")
    moved = (block[0], *block[2:], "relu")
    config.network.layers = layers[:at] + moved + layers[at + len(block) :]


def no_overlap(config: ConfigDict) -> None:
    """Config 147, pooling 2/2 (§3.4); its paddings keep the sizes of the maps."""
    config.network.pool_size = config.network.pool_stride = 2
    config.network.paddings = (0, 1, 1, 1, 0)


def half(config: ConfigDict) -> None:
    """145-half, one GPU of the two (§3.2): 59,798,312 parameters.

    conv5 and the fully-connected layers keep their sizes (footnote 2 of the paper).
    """
    kernels = config.network.kernels
    config.network.towers = 1
    config.network.kernels = (*(count // 2 for count in kernels[:-1]), kernels[-1])


def one_tower(config: ConfigDict) -> None:
    """Every kernel reads all maps of the layer before it: 62,378,344 parameters."""
    config.network.towers = 1


def no_communication(config: ConfigDict) -> None:
    """Config 150, towers that meet in fc8 alone: 60,714,408 parameters."""
    network = config.network
    _replace(config, {"exchange": ()})
    network.layers = (*network.layers[:-1], "exchange", "fc8")
    network.kernels = (96, 320, 384, 384, 256)
    network.units = (8192, 4096)


def without_conv1(config: ConfigDict) -> None:
    """conv2 reads the pixels, at conv1's stride, and is pooled twice (§3.5, §7)."""
    config.network.strides = (4, 4, 1, 1, 1)
    _without(config, "conv1")
    layers = config.network.layers
    at = layers.index("pool")
    config.network.layers = (*layers[:at], "pool", *layers[at:])


def without_conv2(config: ConfigDict) -> None:
    """No conv2; its pooling stays."""
    _without(config, "conv2")


def without_conv3(config: ConfigDict) -> None:
    """No conv3: conv4 reads both towers in its place."""
    _without(config, "conv3")


def without_conv4(config: ConfigDict) -> None:
    """No conv4."""
    _without(config, "conv4")


def without_conv5(config: ConfigDict) -> None:
    """No conv5; its pooling stays."""
    _without(config, "conv5")


def no_dropout(config: ConfigDict) -> None:
    """Without dropout the network overfits (§4.2)."""
    _replace(config, {"dropout": ()})


def no_colour_noise(config: ConfigDict) -> None:
    """The colours as they are (§4.1)."""
    config.augment.colour_noise = 0.0


def no_crops(config: ConfigDict) -> None:
    """The central crop alone, never reflected (§4.1)."""
    config.augment.offsets, config.augment.crop_chunk = 1, 1
    config.augment.reflect = False


def crop_227(config: ConfigDict) -> None:
    """Real pixels where 224 has three implied rows of zeros, as Caffe has them."""
    config.augment.crop, config.augment.offsets = 227, 30


def sixth_convolution(config: ConfigDict) -> None:
    """Config 146: one more convolution over the last pooling layer: 61,555,304 (§6)."""
    network = config.network
    at = network.layers.index("fc6") - 1  # before the exchange
    more = ("exchange", "conv6", "relu")
    network.layers = (*network.layers[:at], *more, *network.layers[at:])
    network.kernels = (*network.kernels, network.kernels[-1])
    network.sizes = (*network.sizes, 3)
    network.strides = (*network.strides, 1)
    network.paddings = (*network.paddings, 1)
    network.stddevs = (*network.stddevs[:5], network.stddevs[4], *network.stddevs[5:])
    network.biases = (*network.biases[:5], network.biases[4], *network.biases[5:])


def pretrained_2009(config: ConfigDict) -> None:
    """146-2009: Fall 2009's 10,184 classes, from the convolutions of 'whole'.

    Give --config.start.checkpoint=runs/whole. conv1 to conv5 continue at 1e-3 and the
    new layers start at 1e-2. The log counts epochs from 1 and writes 'epoch.batch', of
    8,800 batches of 1,024 images: the drop at '2.1600' is after 1.18 epochs, and
    '6.6491', the end, after 5.74.
    """
    sixth_convolution(config)
    _start_at_random(config, ("conv6", "fc6", "fc7", "fc8"))
    config.optimizer.layer_drops = _fast_until(1.18, config.start.fresh)
    config.epochs = 5.74


def pretrained_2011(config: ConfigDict) -> None:
    """146-2011: Fall 2011's 21,843 classes, from 'pretrained_2009'.

    The log's end, '8.11295', is after about 7.8 epochs of 14 million images. In 2012
    fc8 was two bottlenecks of 1,024 linear units, one on each GPU, for the memory; here
    it is one layer.
    """
    sixth_convolution(config)
    _start_at_random(config, ("fc6", "fc7", "fc8"))
    config.optimizer.layer_drops = (
        *_fast_until(6.0, config.start.fresh),
        ("conv6", 0.0, 1e-3, CONV6_BIAS_RATE),
    )
    config.epochs = 7.8


def fine_tuned(config: ConfigDict) -> None:
    """146-2012-2011, '1 CNN*' of §6: all but fc8 from 'pretrained_2011'.

    Give --config.start.checkpoint=runs/pretrained_2011. fc8 starts at 1e-3 as the
    others do, and has 1e-2 from batch 300 of 1,024 images to epoch 9.
    """
    sixth_convolution(config)
    _start_at_random(config, ("fc8",))
    config.epochs = 54.0
    optimizer = config.optimizer
    optimizer.drops = ((22.0, 1e-4, 2e-2), (42.0, 1e-5, 2e-2))
    optimizer.layer_drops = (
        ("conv1", 0.0, 1e-4, 2e-2), ("conv1", 5.0, 1e-5, 2e-2),
        ("conv1", 7.0, 0.0, 0.0),
        ("fc8", 0.0, 1e-3, 2e-2), ("fc8", 0.24, 1e-2, 2e-2), ("fc8", 9.0, 1e-3, 2e-2),
        ("fc8", 22.0, 1e-4, 2e-2), ("fc8", 42.0, 1e-5, 2e-2),
    )  # fmt: skip
    config.augment.colour_noise_until_epoch = 38.0


def _start_at_random(config: ConfigDict, layers: tuple[str, ...]) -> None:
    """Start some layers from random weights; all have 1e-3, and their biases 0.02."""
    config.start.fresh = layers
    optimizer = config.optimizer
    optimizer.rate, optimizer.bias_rate_multiple = 1e-3, 20.0
    optimizer.drops = optimizer.layer_drops = ()


def _fast_until(epoch: float, layers: tuple[str, ...]) -> tuple:
    """Rows of `layer_drops` that give layers 1e-2 until an epoch, and then 1e-3."""
    return tuple(
        (layer, start, rate, CONV6_BIAS_RATE if layer == "conv6" else 2e-2)
        for layer in layers
        for start, rate in ((0.0, 1e-2), (epoch, 1e-3))
    )


def _replace(config: ConfigDict, changes: dict[str, tuple[str, ...]]) -> None:
    """Put other stages in the place of some."""
    config.network.layers = tuple(
        new for stage in config.network.layers for new in changes.get(stage, (stage,))
    )


def _without(config: ConfigDict, layer: str) -> None:
    """Remove a convolution with its unit and normalisations; its pooling stays."""
    network = config.network
    layers, convs = network.layers, [s for s in network.layers if s.startswith("conv")]
    at, index = layers.index(layer), convs.index(layer)
    after = [i for i, s in enumerate(layers) if i > at and s[:2] in ("co", "fc", "ex")]
    block = layers[at : after[0]]
    pools = tuple(stage for stage in block if stage == "pool" and index)
    network.layers = layers[:at] + pools + layers[after[0] :]
    for key in ("kernels", "sizes", "strides", "paddings", "stddevs", "biases"):
        network[key] = tuple(v for i, v in enumerate(network[key]) if i != index)
    optimizer = config.optimizer
    optimizer.layer_drops = tuple(r for r in optimizer.layer_drops if r[0] != layer)


VARIANTS = {
    change.__name__: change
    for change in (
        whole, tanh, logistic, abs_tanh, no_normalisation, batch_normalised,
        conv2_unnormalised, conv2_normalised_before_relu, no_overlap, half, one_tower,
        no_communication, without_conv1, without_conv2, without_conv3, without_conv4,
        without_conv5, no_dropout, no_colour_noise, no_crops, crop_227,
        sixth_convolution, pretrained_2009, pretrained_2011, fine_tuned,
    )
}  # fmt: skip


def get_config(name: str = "whole") -> ConfigDict:
    """The 2012 network with one change."""
    one_of(name, tuple(VARIANTS), "variant")
    config = paper_2012_code.get_config()
    VARIANTS[name](config)
    return config
