"""The same network in PyTorch: a second opinion on its numbers and its speed.

PyTorch comes with the 'peers' extra; only these functions import it.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from alexnet_jax.benchmark.clock import Runs, Times
from alexnet_jax.network.alexnet import BATCH_NORMALISE, DROPOUTS, AlexNet
from alexnet_jax.network.layers import EPSILON

MODES = {  # how PyTorch computes: channels last, compiled
    "eager": (False, False),
    "channels_last": (True, False),
    "compile": (False, True),
    "compile_channels_last": (True, True),
}


def make_runs(
    network: AlexNet, arrays: Any, mode: tuple[bool, bool], device: str
) -> Runs:
    """{'train': a run of steps, 'inference': a run of predictions}.

    Args:
        network: only its fields are read; its dtype is the precision.
        arrays: (parameters of `alexnet_jax`, mean-free pixels (B, H, W, 3), labels).
        mode: of `MODES`.
        device: such as 'cpu' or 'cuda'.
    """
    import torch
    from torch.nn import functional

    (params, pixels, labels), (channels_last, compiled) = arrays, mode
    format = torch.channels_last if channels_last else torch.contiguous_format
    tensors = as_tensors(params, device=device, memory_format=format)
    nchw = torch.tensor(pixels, device=device).permute(0, 3, 1, 2)
    x = nchw.contiguous(memory_format=format)
    y = torch.tensor(labels, dtype=torch.int64, device=device)
    forward, rate = make_forward(network), network.dropout
    # Weights and velocities stay float32, as ours do.
    rounded = np.dtype(network.dtype).name == "bfloat16"

    def logits(x, drop, trains):
        with torch.autocast(device, torch.bfloat16, enabled=rounded):
            return forward(tensors, x, drop, trains).float()

    def loss(x, y):
        def drop(units, layer):
            return functional.dropout(units, rate) * (1 - rate)

        return functional.cross_entropy(logits(x, drop, True), y)

    def probabilities(x):
        return logits(x, lambda units, layer: units * (1 - rate), False).softmax(dim=1)

    if compiled:
        loss, probabilities = torch.compile(loss), torch.compile(probabilities)
    kernels = [own["kernel"] for own in tensors.values()]
    biases = [own["bias"] for own in tensors.values()]
    biases += [own["scale"] for own in tensors.values() if "scale" in own]
    decaying: dict[str, Any] = {"params": kernels, "weight_decay": 0.0005}
    groups = [decaying, {"params": biases}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, fused=True)

    def train() -> None:
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()

    def infer() -> None:
        with torch.inference_mode():
            probabilities(x)

    def run(once: Callable[[], None], times: int) -> None:
        for _ in range(times):
            once()
        if device == "cuda":
            torch.cuda.synchronize()

    runs = {"train": partial(run, train), "inference": partial(run, infer)}
    for first in runs.values():
        first(1)  # compiles it
    return runs


def start(
    network: AlexNet, arrays: Any, platform: str, modes: Mapping[str, tuple[bool, bool]]
) -> Runs:
    """The runs 'train MODE' and 'inference MODE' of all modes that work here.

    Args:
        network: as for `make_runs`.
        arrays: as there.
        platform: JAX's name of its kind of device, such as 'cpu' or 'gpu'.
        modes: such as `MODES`; for one that fails, a line is printed.
    """
    try:
        import torch
    except ImportError:
        print("no PyTorch to compare with: pip install 'alexnet_jax[peers]'")
        return {}
    if platform != "cpu" and not (platform == "gpu" and torch.cuda.is_available()):
        print(f"nothing to compare with: this PyTorch cannot use a {platform}")
        return {}
    device = "cpu" if platform == "cpu" else "cuda"
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as XLA chooses there
        torch.backends.cudnn.benchmark = True
    runs: dict[str, Callable[[int], None]] = {}
    for name, mode in modes.items():
        try:
            made = make_runs(network, arrays, mode, device)
        except Exception as error:  # a missing compiler raises many kinds
            first_line = str(error).strip().partition("\n")[0]
            print(f"PyTorch, {name}: {type(error).__name__}: {first_line}")
        else:
            runs |= {f"{kind} {name}": run for kind, run in made.items()}
    return runs


def speeds(times: Mapping[str, Times], images: int) -> dict[str, Any] | None:
    """The best mode's images a second, and each mode's; None without any run of one."""
    modes: dict[str, dict[str, float]] = {}
    for name, taken in times.items():
        kind, _, mode = name.partition(" ")
        if mode in MODES:
            speed = {f"{kind}_images_per_second": images / taken.median}
            modes[mode] = modes.get(mode, {}) | speed
    if not modes:
        return None
    result: dict[str, Any] = {"torch": version("torch")}
    for kind in ("train", "inference"):
        key = f"{kind}_images_per_second"
        best = max(modes, key=lambda mode: modes[mode][key])
        result |= {key: modes[best][key], f"{kind}_mode": best}
    return result | {"modes": modes}


def as_tensors(
    params: Any, *, device: str = "cpu", dtype: Any = None, memory_format: Any = None
) -> Any:
    """{layer: {'kernel', 'bias'}} in PyTorch's layout: outputs before inputs.

    Args:
        params: of `alexnet_jax`.
        device: PyTorch's, as are the next two.
        dtype: None keeps that of the arrays.
        memory_format: of kernels with four axes.
    """
    import torch

    def tensor(path: Any, array: Any) -> Any:
        made = torch.tensor(np.asarray(array), device=device, dtype=dtype)
        if array.ndim == 4 and not _is_local(path):
            format = memory_format or torch.contiguous_format
            made = made.permute(3, 2, 0, 1).contiguous(memory_format=format)
        if array.ndim == 2:
            made = made.T.contiguous()
        return made.detach().requires_grad_()

    return jax.tree_util.tree_map_with_path(tensor, params)


def _is_local(path: Any) -> bool:
    return path[0].key.startswith("local")  # kernels in our layout, not PyTorch's


def gradients(tensors: Any) -> Any:
    """The gradients of `as_tensors`, in the layout of `alexnet_jax`."""

    def array(path: Any, tensor: Any) -> np.ndarray:
        if tensor.grad is None:  # averages of batch normalisation, in training
            return np.zeros(tensor.shape, np.float32)
        gradient = tensor.grad.cpu().numpy()
        if _is_local(path):
            return gradient
        return gradient.transpose(2, 3, 1, 0) if gradient.ndim == 4 else gradient.T

    return jax.tree_util.tree_map_with_path(array, tensors)


def make_forward(network: AlexNet) -> Callable[..., Any]:
    """The stages of a network in PyTorch's functions, written without ours.

    Args:
        network: only its fields are read.

    Returns:
        forward(tensors, pixels (B, 3, H, W), drop, trains=False) → logits (B, classes),
        where drop(units, layer) is applied at 'dropout' to the units of that layer;
        `trains` is for batch normalisation.
    """
    import torch
    from torch.nn import functional

    layers, towers = network.layers, network.towers
    size, step = network.pool_size, network.pool_stride
    pairs = [p if isinstance(p, tuple) else (p, p) for p in network.paddings]
    how = zip(network.sizes, network.strides, pairs, strict=True)
    grids = dict(zip(network.convolutions, how, strict=True))
    depth, beta, k = network.response_depth, network.response_beta, network.response_k
    # torch divides by n, as the 2012 code does; the paper's formula does not.
    alpha, spatial_alpha = network.response_alpha * depth, network.spatial_alpha
    ranges = 1 if network.response_range == "layer" else towers

    def across_maps(x):
        parts = x.chunk(ranges, dim=1)
        lrn = functional.local_response_norm
        return torch.cat([lrn(maps, depth, alpha, beta, k) for maps in parts], dim=1)

    def within_maps(x):
        # Zeros around the maps count in the average, so that it is always over 25.
        side = network.spatial_size
        mean = functional.avg_pool2d(x**2, side, 1, side // 2, count_include_pad=True)
        return x * (1 + side**2 * spatial_alpha * mean) ** -0.75

    operations = {
        "relu": torch.relu,
        "tanh": torch.tanh,
        "logistic": torch.sigmoid,
        "abs_tanh": lambda x: x.tanh().abs(),
        "normalise": across_maps,
        "normalise_within_maps": within_maps,
        "pool": lambda x: functional.max_pool2d(x, size, step, ceil_mode=True),
        "average_pool": lambda x: functional.avg_pool2d(x, size, step, ceil_mode=True),
    }

    def padded(x, size, stride, padding):
        before, behind = padding
        below, right = (  # the grid covers the image
            behind + -(side + before + behind - size) % stride for side in x.shape[-2:]
        )
        return functional.pad(x, (before, right, before, below))

    def convolve(x, kernel, bias, groups, size, stride, padding):
        spare = {(side + 2 * padding[0] - size) % stride for side in x.shape[-2:]}
        if padding[0] != padding[1] or spare != {0}:
            x, padding = padded(x, size, stride, padding), (0, 0)
        return functional.conv2d(x, kernel, bias, stride, padding[0], groups=groups)

    def connect_locally(x, kernel, bias, groups, size, stride, padding):
        x = padded(x, size, stride, padding)
        patches = functional.unfold(x, size, stride=stride)  # (B, C · size², positions)
        patches = patches.unflatten(1, (groups, x.shape[1] // groups, size**2))
        patches = patches.permute(0, 4, 1, 3, 2).flatten(3)  # as ours: places, C
        kernel = kernel.flatten(0, 1).unflatten(-1, (groups, -1))
        units = torch.einsum("bpgi,pigk->bpgk", patches, kernel).flatten(2)
        return (units + bias.flatten(0, 1)).mT.unflatten(2, bias.shape[:2])

    def connect(x, kernel, bias, groups):
        x = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
        x = torch.cat([own.flatten(1) for own in x.chunk(groups, -1)], 1)
        if groups > 1:  # each tower's units read its own inputs
            kernel = torch.block_diag(*kernel.chunk(groups))
        return functional.linear(x, kernel, bias)

    def batch_normalise(x, own, trains):
        # The layer's bias, which x has already, cancels, and is added behind.
        scale, bias = own["scale"], own["bias"]
        if trains:
            norm = partial(functional.batch_norm, training=True, eps=EPSILON)
            parts = x.split(network.batch_group)
            return torch.cat([norm(part, None, None, scale, bias) for part in parts])
        factor = scale * (own["variance"] + EPSILON).rsqrt()
        offset = bias - (own["mean"] + bias) * factor
        shape = (-1, *[1] * (x.ndim - 2))
        return x * factor.reshape(shape) + offset.reshape(shape)

    def forward(tensors, x, drop, trains=False):
        groups, layer = 1, ""
        for stage in layers:
            if stage == "exchange":
                groups = 1
            elif stage in DROPOUTS:
                x = drop(x, layer)
                x = x if stage == "dropout" else x / (1 - network.dropout)
            elif stage == BATCH_NORMALISE:
                x = batch_normalise(x, tensors[layer], trains)
            elif stage in operations:
                x = operations[stage](x)
            else:
                own = tensors[stage]["kernel"], tensors[stage]["bias"], groups
                if stage in grids:
                    local = stage.startswith("local")
                    x = (connect_locally if local else convolve)(x, *own, *grids[stage])
                else:
                    x = connect(x, *own)
                layer, groups = stage, towers
        return x

    return forward
