"""The same network in PyTorch: what our numbers and our speed are compared with.

PyTorch comes with the 'peers' extra, and is imported by these functions alone.
"""

import contextlib
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.benchmark.clock import Times
from alexnet_jax.network.alexnet import AlexNet


class Mode(NamedTuple):
    """How PyTorch is asked to compute."""

    channels_last: bool
    compiled: bool


MODES = {
    "eager": Mode(channels_last=False, compiled=False),
    "channels_last": Mode(channels_last=True, compiled=False),
    "compile": Mode(channels_last=False, compiled=True),
    "compile_channels_last": Mode(channels_last=True, compiled=True),
}


class Peer:
    """A network on one device, ready to train and to answer.

    It is given pixels from which the mean is subtracted already, on its device.
    """

    def __init__(
        self,
        network: AlexNet,
        params: Any,
        pixels: np.ndarray,
        labels: np.ndarray,
        mode: Mode,
        device: str,
    ):
        """Trains and answers once, which is when it is compiled.

        Args:
            network: of which only the fields are read; its dtype is the precision.
            params: {layer: {'kernel', 'bias'}} of `alexnet_jax`.
            pixels: float32 (B, H, W, 3).
            labels: int (B,).
            mode: how to compute.
            device: such as 'cpu' or 'cuda'.
        """
        import torch
        from torch.nn import functional

        format = torch.channels_last if mode.channels_last else torch.contiguous_format
        tensors = as_tensors(params, device=device, memory_format=format)
        nchw = torch.tensor(pixels, device=device).permute(0, 3, 1, 2)
        x = nchw.contiguous(memory_format=format)
        y = torch.tensor(labels, dtype=torch.int64, device=device)
        forward, rate = make_forward(network), network.dropout_rate
        # Weights and velocities stay float32, as ours do.
        rounded = np.dtype(network.dtype).name == "bfloat16"

        def precision() -> Any:
            if rounded:
                return torch.autocast(device, torch.bfloat16)
            return contextlib.nullcontext()

        def loss(x, y):
            def drop(units, layer):
                return functional.dropout(units, rate) * (1 - rate)

            with precision():
                logits = forward(tensors, x, drop)
            return functional.cross_entropy(logits.float(), y)

        def probabilities(x):
            with precision():
                logits = forward(tensors, x, lambda units, layer: units * (1 - rate))
            return logits.float().softmax(dim=1)

        if mode.compiled:
            loss, probabilities = torch.compile(loss), torch.compile(probabilities)
        kernels = [own["kernel"] for own in tensors.values()]
        biases = [own["bias"] for own in tensors.values()]
        decaying: dict[str, Any] = {"params": kernels, "weight_decay": 0.0005}
        optimizer = torch.optim.SGD(
            [decaying, {"params": biases}], lr=0.01, momentum=0.9, fused=True
        )

        def wait() -> None:
            if device == "cuda":
                torch.cuda.synchronize()

        def train(times: int) -> None:
            for _ in range(times):
                optimizer.zero_grad()
                loss(x, y).backward()
                optimizer.step()
            wait()

        def answer(times: int) -> None:
            with torch.inference_mode():
                for _ in range(times):
                    probabilities(x)
            wait()

        self.train, self.answer = train, answer
        self.train(1)
        self.answer(1)


def start(
    network: AlexNet,
    params: Any,
    pixels: np.ndarray,
    labels: np.ndarray,
    platform: str,
    modes: Mapping[str, Mode],
) -> dict[str, Callable[[int], None]]:
    """'train MODE' and 'answer MODE' of a peer in each mode that works here.

    Says in a line which do not.

    Args:
        network: as for a `Peer`.
        params: likewise.
        pixels: likewise.
        labels: likewise.
        platform: JAX's name of its kind of device, such as 'cpu' or 'gpu'.
        modes: such as `MODES`.

    Returns:
        For each, a function of how many times to do it.
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
            peer = Peer(network, params, pixels, labels, mode, device)
        except Exception as error:  # whatever a compiler that is not there leads to
            first_line = str(error).strip().partition("\n")[0]
            print(f"PyTorch, {name}: {type(error).__name__}: {first_line}")
        else:
            runs |= {f"train {name}": peer.train, f"answer {name}": peer.answer}
    return runs


def speeds(times: Mapping[str, Times], images: int) -> dict[str, Any] | None:
    """The best mode's images a second, and each mode's; None without any.

    Args:
        times: among others, of 'train MODE' and 'answer MODE'.
        images: in a batch.
    """
    modes = {
        mode: {
            "train_images_per_second": images / times[f"train {mode}"].median,
            "inference_images_per_second": images / times[f"answer {mode}"].median,
        }
        for mode in MODES
        if f"train {mode}" in times
    }
    if not modes:
        return None
    result: dict[str, Any] = {"torch": version("torch")}
    for kind in ("train", "inference"):
        speed = f"{kind}_images_per_second"
        best = max(modes, key=lambda mode: modes[mode][speed])
        result |= {speed: modes[best][speed], f"{kind}_mode": best}
    return result | {"modes": modes}


def as_tensors(
    params: Any, *, device: str = "cpu", dtype: Any = None, memory_format: Any = None
) -> Any:
    """Parameters as PyTorch keeps them: outputs first, kernels (K, C, size, size).

    Args:
        params: {layer: {'kernel', 'bias'}} of `alexnet_jax`.
        device: where they will live.
        dtype: of the tensors, torch's; None: that of the arrays.
        memory_format: of kernels with four axes, torch's.
    """
    import torch

    def tensor(array: Any) -> Any:
        array = np.array(array)  # a copy, for the tensor shares its memory
        made = torch.from_numpy(array).to(device=device, dtype=dtype)
        if array.ndim == 4:
            format = memory_format or torch.contiguous_format
            made = made.permute(3, 2, 0, 1).contiguous(memory_format=format)
        if array.ndim == 2:
            made = made.T.contiguous()
        return made.detach().requires_grad_()

    return {
        layer: {kind: tensor(array) for kind, array in arrays.items()}
        for layer, arrays in params.items()
    }


def gradients(tensors: Any) -> Any:
    """The gradients of `as_tensors`, in the layout of `alexnet_jax`."""

    def array(tensor: Any) -> np.ndarray:
        gradient = tensor.grad.cpu().numpy()
        return gradient.transpose(2, 3, 1, 0) if gradient.ndim == 4 else gradient.T

    return {
        layer: {kind: array(tensor) for kind, tensor in kinds.items()}
        for layer, kinds in tensors.items()
    }


def make_forward(network: AlexNet) -> Callable[..., Any]:
    """Both towers in one, groups=2 where a tower reads its own maps alone.

    Written from the tables of the 2012 source, without a look at our operations.

    Args:
        network: of which only the fields are read.

    Returns:
        forward(tensors, pixels (B, 3, H, W), drop) → logits (B, classes), where
        drop(units, layer) makes of fc6's and fc7's units what the next layer reads.
    """
    import torch
    from torch.nn import functional

    size, stride, towers = network.conv1_size, network.conv1_stride, network.towers
    depth, beta, k = network.response_depth, network.response_beta, network.response_k
    # torch divides by n, as the 2012 code does; the paper's formula does not.
    alpha, spatial_alpha = network.response_alpha * depth, network.spatial_alpha
    ranges = 1 if network.response_range == "layer" else towers
    normalise_before_relu = network.normalise_before_relu

    def across_maps(x):
        parts = [
            functional.local_response_norm(maps, depth, alpha, beta, k)
            for maps in x.chunk(ranges, dim=1)
        ]
        return torch.cat(parts, dim=1)

    def within_maps(x):
        # Zeros around the maps count in the average, so that it is always over 25.
        mean = functional.avg_pool2d(x**2, 5, 1, 2, count_include_pad=True)
        return x * (1 + 25 * spatial_alpha * mean) ** -0.75

    def pool(x):
        return functional.max_pool2d(x, 3, 2, ceil_mode=True)

    def forward(tensors, x, drop):
        def convolve(layer, x, **options):
            own = tensors[layer]
            return functional.conv2d(x, own["kernel"], own["bias"], **options)

        def connect(layer, x):
            own = tensors[layer]
            return functional.linear(x, own["kernel"], own["bias"])

        missing = -(x.shape[-1] - size) % stride
        x = functional.pad(x, (0, missing, 0, missing))
        x = convolve("conv1", x, stride=stride)
        if normalise_before_relu:
            x = pool(across_maps(x)).relu()
        else:
            x = pool(across_maps(x.relu()))
        x = across_maps(convolve("conv2", x, padding=2, groups=towers).relu())
        x = pool(within_maps(x) if spatial_alpha else x)
        x = convolve("conv3", x, padding=1).relu()
        x = convolve("conv4", x, padding=1, groups=towers).relu()
        x = convolve("conv5", x, padding=1, groups=towers)
        x = pool(x).relu().permute(0, 2, 3, 1).flatten(1)
        x = drop(connect("fc6", x).relu(), "fc6")
        x = drop(connect("fc7", x).relu(), "fc7")
        return connect("fc8", x)

    return forward
