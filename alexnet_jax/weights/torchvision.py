"""torchvision's `alexnet`: its names, and its images brought to grey levels.

torchvision's network sees (x / 255 − mean) / deviation, and zeros around it. The same
numbers come from x − 255·mean, zeros around it, and kernels divided by 255·deviation.
"""

import numpy as np

from alexnet_jax.weights.layout import Found, Tensors

LAYERS = {
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3",
    "features.8": "conv4",
    "features.10": "conv5",
    "classifier.1": "fc6",
    "classifier.4": "fc7",
    "classifier.6": "fc8",
}
MEAN = 255 * np.array([0.485, 0.456, 0.406])  # grey levels, RGB; of ImageNet
STDDEV = 255 * np.array([0.229, 0.224, 0.225])
CONFIG = "configs/one_weird_trick.py:torchvision"


def recognised(tensors: Tensors) -> bool:
    """Whether the names are torchvision's."""
    return "features.0.weight" in tensors


def for_grey_levels(tensors: Tensors) -> Found:
    """The network under the names of this package, for grey levels less their mean.

    Args:
        tensors: {'features.0.weight': …}; names that torchvision's network has not are
            kept, to be refused.
    """
    named = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        named[f"{LAYERS[layer]}.{kind}" if layer in LAYERS else name] = tensor
    first = named["conv1.weight"]
    of_rgb = first.ndim == 4 and first.shape[1] == 3
    if of_rgb and np.issubdtype(first.dtype, np.floating):
        named["conv1.weight"] = first / STDDEV[:, None, None]
    mean = MEAN.astype(np.float32).reshape(1, 1, 3)
    return Found(named, mean_image=mean, config=CONFIG)
