"""The network once more, in PyTorch, written from the tables of the 2012 source.

Nothing here comes from alexnet_jax: two readings of the same facts, to be compared.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class TorchAlexNet(nn.Module):
    """Both towers in one, groups=2 where a tower reads its own maps alone.

    Args:
        params: {layer: {'kernel', 'bias'}} of `alexnet_jax`, any float arrays.
        version: 'paper' (§3 as printed) or 'code' (config 145: conv1 is normalised
            before its ReLU, α is over n, conv2 is normalised in its maps as well).
        stride: of conv1.
        towers_normalised: 1 for windows that do not end with a tower.
        response: False leaves all normalisation's denominators at k.
        dtype: of everything.
    """

    def __init__(
        self,
        params,
        *,
        version: str,
        stride: int = 4,
        towers_normalised: int = 2,
        response: bool = True,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.code = version == "code"
        self.stride, self.towers_normalised = stride, towers_normalised
        # torch divides by n, as the 2012 code does; the paper's formula does not.
        self.alpha = 0.0 if not response else 1e-4 if self.code else 5e-4
        self.spatial_alpha = 0.001 if self.code and response else 0.0
        for layer, arrays in params.items():
            kernel = torch.tensor(np.asarray(arrays["kernel"]), dtype=dtype)
            bias = torch.tensor(np.asarray(arrays["bias"]), dtype=dtype)
            if layer.startswith("conv"):
                kernel = kernel.permute(3, 2, 0, 1)
            self.register_parameter(f"{layer}_kernel", nn.Parameter(kernel))
            self.register_parameter(f"{layer}_bias", nn.Parameter(bias))

    def forward(self, x: Tensor, masks: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Maps (B, H, W, 3) to logits.

        Args:
            x: mean-free grey levels.
            masks: of fc6 and fc7, 1 where a unit is kept; None halves all units.
        """
        x = x.permute(0, 3, 1, 2)
        size = self.conv1_kernel.shape[-1]
        missing = -(x.shape[-1] - size) % self.stride
        x = functional.pad(x, (0, missing, 0, missing))
        x = self.convolve("conv1", x, stride=self.stride)
        if self.code:
            x = self.pool(self.across_maps(x)).relu()
        else:
            x = self.pool(self.across_maps(x.relu()))
        x = self.convolve("conv2", x, padding=2, groups=2).relu()
        x = self.pool(self.within_maps(self.across_maps(x)))
        x = self.convolve("conv3", x, padding=1).relu()
        x = self.convolve("conv4", x, padding=1, groups=2).relu()
        x = self.convolve("conv5", x, padding=1, groups=2)
        x = self.pool(x).relu()
        x = x.permute(0, 2, 3, 1).flatten(1)
        for i, layer in enumerate(("fc6", "fc7")):
            x = self.connect(layer, x).relu()
            x = x * (0.5 if masks is None else masks[i])
        return self.connect("fc8", x)

    def gradients(self):
        """Of all parameters, in the layout of `alexnet_jax`."""
        gradients = {}
        for name, parameter in self.named_parameters():
            layer, kind = name.split("_")
            gradient = parameter.grad
            if gradient.dim() == 4:
                gradient = gradient.permute(2, 3, 1, 0)
            gradients.setdefault(layer, {})[kind] = gradient.numpy()
        return gradients

    def convolve(self, layer: str, x: Tensor, **options) -> Tensor:
        kernel, bias = self.parameters_of(layer)
        return functional.conv2d(x, kernel, bias, **options)

    def connect(self, layer: str, x: Tensor) -> Tensor:
        kernel, bias = self.parameters_of(layer)
        return x @ kernel + bias

    def parameters_of(self, layer: str) -> tuple[Tensor, Tensor]:
        return (
            self.get_parameter(f"{layer}_kernel"),
            self.get_parameter(f"{layer}_bias"),
        )

    def across_maps(self, x: Tensor) -> Tensor:
        normalised = [
            functional.local_response_norm(maps, 5, self.alpha, 0.75, 2.0)
            for maps in x.chunk(self.towers_normalised, dim=1)
        ]
        return torch.cat(normalised, dim=1)

    def within_maps(self, x: Tensor) -> Tensor:
        # Zeros around the maps count in the average, so that it is always over 25.
        mean = functional.avg_pool2d(x**2, 5, 1, 2, count_include_pad=True)
        return x * (1 + self.spatial_alpha * mean) ** -0.75

    def pool(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(x, 3, 2, ceil_mode=True)
