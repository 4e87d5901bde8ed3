"""The losses of bfloat16, and with convolutions' gradients rounded as cuDNN does.

pytest -n0 -s -m slow tests/test_rounded_gradients.py    # half an hour on two cores
"""

import tarfile
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from runs import logged

from alexnet_jax import experiment
from alexnet_jax.train import train
from configs import tiny_imagenet

CLASSES = (  # goldfish to seashore, the ten of docs/speed.md
    *("n01443537", "n02129165", "n02279972", "n03085013", "n04146614"),
    *("n04486054", "n06596364", "n07583066", "n07720875", "n09428293"),
)


def with_rounded_convolutions(
    rule: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """The same rule, for gradients of convolutions' kernels that are bfloat16s."""

    def once(path, gradient):
        if path[0].key.startswith("conv") and path[-1].key == "kernel":
            return jax.lax.reduce_precision(gradient, exponent_bits=8, mantissa_bits=7)
        return gradient

    def update(gradients, state, params, **rates):
        rounded = jax.tree_util.tree_map_with_path(once, gradients)
        return rule.update(rounded, state, params, **rates)

    return optax.GradientTransformationExtraArgs(rule.init, update)


def ten_classes(shared: Path, folder: Path) -> Path:
    for split in ("train", "val"):
        archive = shared / "tiny-imagenet-100" / f"tiny-imagenet-100-{split}.tar.gz"
        with tarfile.open(archive) as tar:
            ten = [m for m in tar if set(m.name.split("/")) & set(CLASSES)]
            tar.extractall(folder, ten, filter="data")
    return folder / "tiny-imagenet-100"


@pytest.mark.slow
def test_losses_of_400_steps(tmp_path, shared_data, monkeypatch):
    images = ten_classes(shared_data, tmp_path)
    config = tiny_imagenet.get_config()
    config.dataset.train = str(images / "train")
    config.dataset.validation = str(images / "val")
    config.steps, config.log_every_steps, config.mesh.data = 400, 25, 1
    config.validate_every_epochs = 100.0  # at the end
    exact_rule, losses = experiment.make_optimizer, {}
    print("\n| step", *range(50, 401, 50), sep=" | ")
    for name in ("float32", "bfloat16", "bfloat16, rounded"):
        config.precision, *rounded = name.split(", ")
        if rounded:
            monkeypatch.setattr(
                *(experiment, "make_optimizer"),
                lambda config: with_rounded_convolutions(exact_rule(config)),
            )
        train(config, tmp_path / name)
        lines = [line for line in logged(tmp_path / name) if "train/loss" in line]
        assert [line["step"] for line in lines] == list(range(25, 401, 25))
        losses[name] = np.array([line["train/loss"] for line in lines])
        errors = [f"{lines[-1][f'validation/top{k}_error']:.1%}" for k in (1, 5)]
        print(f"| {name}", *losses[name][1::2].round(3), *errors, sep=" | ")

    exact, rounded = losses["bfloat16"], losses["bfloat16, rounded"]
    assert (rounded != exact).any(), "nothing was rounded"
    assert rounded[-8:].mean() == pytest.approx(exact[-8:].mean(), rel=0.05)
    assert rounded[-1] < 1.2  # ln 10 = 2.30 before the first step
