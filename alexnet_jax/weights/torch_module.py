"""The network as a PyTorch module, for the weights that `convert` writes to *.pth.

This file imports PyTorch and nothing else, so that it can be copied beside a program:

    config = json.load(open("runs/mine/config.json"))
    state = torch.load("mine.pth", weights_only=True)
    model = make_module(state, config["network"], config["augment"]["crop"]).eval()
    probabilities = model(images).softmax(1)   # images: (B, 3, 256, 256), RGB, 0 to 255
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Pixels(nn.Module):
    """Centre views less the mean image: (B, 3, S, S) → (B, 3, crop, crop)."""

    def __init__(self, mean_image: torch.Tensor, crop: int):
        super().__init__()
        self.mean_image = nn.Buffer(mean_image)
        margin = (mean_image.shape[-1] - crop) // 2
        self.centre = slice(margin, margin + crop)

    def forward(self, x):
        """Grey levels, of any type, as float32."""
        centre = self.centre
        return x[..., centre, centre].float() - self.mean_image[:, centre, centre]


class ResponseNormalisation(nn.Module):
    """§3.3, with windows that end where one of `ranges` ends."""

    def __init__(self, depth: int, k: float, alpha: float, beta: float, ranges: int):
        super().__init__()
        # PyTorch divides the sum by its depth; the paper does not.
        self.constants = depth, alpha * depth, beta, k
        self.ranges = ranges

    def forward(self, x):
        """(B, C, H, W), the same."""
        parts = x.chunk(self.ranges, dim=1)
        normalise = functional.local_response_norm
        return torch.cat([normalise(maps, *self.constants) for maps in parts], dim=1)


class NormalisationWithinMaps(nn.Module):
    """The 2012 code's second normalisation, over the neighbourhood in the same map."""

    def __init__(self, size: int, alpha: float):
        super().__init__()
        self.size, self.factor = size, alpha * size**2

    def forward(self, x):
        """(B, C, H, W), the same."""
        mean = functional.avg_pool2d(x * x, self.size, 1, self.size // 2)
        return x * (1 + self.factor * mean) ** -0.75


class Dropout(nn.Module):
    """§4.2: units are dropped in training and all are scaled at test time."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        """Of any shape."""
        return functional.dropout(x, self.rate, self.training) * (1 - self.rate)


class AbsTanh(nn.Module):
    """|tanh(x)|."""

    def forward(self, x):
        """Of any shape."""
        return x.tanh().abs()


class GroupedLinear(nn.Module):
    """A linear layer whose units read the inputs of their own tower."""

    def __init__(self, weight: torch.Tensor, groups: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty_like(weight))
        self.bias = nn.Parameter(weight.new_empty(len(weight)))
        self.groups = groups

    def forward(self, x):
        """(B, inputs) → (B, units)."""
        parts = zip(
            x.chunk(self.groups, 1), self.weight.chunk(self.groups), strict=True
        )
        return torch.cat([own @ weight.T for own, weight in parts], dim=1) + self.bias


class LocallyConnected(nn.Module):
    """A kernel a position: (H', W', size · size · C a group, K), C innermost."""

    def __init__(self, weight: torch.Tensor, size: int, stride: int, groups: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty_like(weight))
        self.bias = nn.Parameter(weight.new_empty((*weight.shape[:2], weight.shape[3])))
        self.size, self.stride, self.groups = size, stride, groups

    def forward(self, x):
        """(B, C, H, W), with its margins → (B, K, H', W')."""
        patches = functional.unfold(x, self.size, stride=self.stride)
        patches = patches.unflatten(1, (self.groups, -1, self.size**2))
        patches = patches.permute(0, 4, 1, 3, 2).flatten(3)  # positions, groups, inputs
        kernel = self.weight.flatten(0, 1).unflatten(-1, (self.groups, -1))
        units = torch.einsum("bpgi,pigk->bpgk", patches, kernel).flatten(2)
        return (units + self.bias.flatten(0, 1)).mT.unflatten(2, self.bias.shape[:2])


def make_module(
    state: Mapping[str, torch.Tensor], network: Mapping[str, Any], crop: int
) -> nn.Sequential:
    """The network, with its weights: grey levels to logits.

    Args:
        state: the file that `convert` wrote, read by `torch.load`.
        network: the 'network' of the run's config.json.
        crop: its 'augment.crop'.

    Returns:
        A module from (B, 3, S, S), RGB grey levels, to (B, classes).
    """
    pool = {
        "kernel_size": network["pool_size"],
        "stride": network["pool_stride"],
        "ceil_mode": True,
    }
    towers, rate = network["towers"], network["dropout"]
    ranges = 1 if network["response_range"] == "layer" else towers
    operations: dict[str, Callable[[], nn.Module]] = {
        "relu": nn.ReLU,
        "tanh": nn.Tanh,
        "logistic": nn.Sigmoid,
        "abs_tanh": AbsTanh,
        "normalise": lambda: ResponseNormalisation(
            network["response_depth"],
            network["response_k"],
            network["response_alpha"],
            network["response_beta"],
            ranges,
        ),
        "normalise_within_maps": lambda: NormalisationWithinMaps(
            network["spatial_size"], network["spatial_alpha"]
        ),
        "pool": lambda: nn.MaxPool2d(**pool),
        "average_pool": lambda: nn.AvgPool2d(**pool),
        "dropout": lambda: Dropout(rate),
        "inverted_dropout": lambda: nn.Dropout(rate),
    }
    grids = zip(network["sizes"], network["strides"], network["paddings"], strict=True)
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    modules["pixels"] = Pixels(torch.empty_like(state["pixels.mean_image"]), crop)
    side, groups, layer, flat = crop, 1, "pixels", False
    for place, stage in enumerate(network["layers"]):
        if stage == "exchange":
            groups = 1
        elif stage == "batch_normalise":
            continue  # it is a part of the weights that `convert` wrote
        elif stage in operations:
            modules[f"{layer}_{stage}_{place}"] = operations[stage]()
            if stage in ("pool", "average_pool"):
                side = 1 + -(-(side - network["pool_size"]) // network["pool_stride"])
        else:
            weight, layer = state[f"{stage}.weight"], stage
            if stage.startswith("fc"):
                if not flat:
                    modules["flatten"], flat = nn.Flatten(), True
                modules[stage] = (
                    nn.Linear(*weight.shape[::-1])
                    if groups == 1
                    else GroupedLinear(weight, groups)
                )
            else:
                size, stride, padding = next(grids)
                before, behind = (
                    padding if isinstance(padding, (list, tuple)) else (padding,) * 2
                )
                behind += -(side + before + behind - size) % stride  # covers the image
                side = 1 + (side + before + behind - size) // stride
                if before or behind:
                    margins = (before, behind) * 2
                    modules[f"{stage}_padding"] = nn.ZeroPad2d(margins)
                modules[stage] = (
                    LocallyConnected(weight, size, stride, groups)
                    if stage.startswith("local")
                    else nn.Conv2d(
                        weight.shape[1] * groups,
                        len(weight),
                        size,
                        stride,
                        groups=groups,
                    )
                )
            groups = towers
    module = nn.Sequential(modules)
    module.load_state_dict(state)
    return module
