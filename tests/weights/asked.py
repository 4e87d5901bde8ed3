"""The answers of a work directory to images, and images to ask about."""

import io
import tarfile
from pathlib import Path

import numpy as np
from pictures import drawn

from alexnet_jax import inference, parallel, workdir
from alexnet_jax.data.images import Record
from alexnet_jax.data.preprocess import Square


def answers(folder: Path, images: np.ndarray) -> np.ndarray:
    """The probabilities that predict reports, of centre views: (B, classes)."""
    config = workdir.read_config(folder)
    mesh = parallel.make_mesh(1, 1, config.network.towers, len(images))
    model, _ = workdir.load_model(folder, config, mesh, views=1)
    return np.asarray(inference.ensemble([model], images))


def drawings(count: int, size: int) -> np.ndarray:
    """uint8 (count, size, size, 3): waves with noise over them."""
    rng = np.random.default_rng(1)
    noise = rng.integers(-40, 41, (count, size, size, 3))
    waves = np.stack([drawn(seed, size, size) for seed in range(count)])
    return np.clip(waves + noise, 0, 255).astype(np.uint8)


def photographs(folder: Path, count: int) -> np.ndarray:
    """uint8 (count, 256, 256, 3) of ImageNet's pictures in ../shared/data."""
    square, images = Square(256), []
    path = folder / "imagenet-samples" / "imagenet-samples-300.tar"
    with tarfile.open(path) as tar:
        names = [m.name for m in tar if m.isfile()]
        for name in names[:: len(names) // count][:count]:
            data = io.BytesIO(tar.extractfile(name).read()).getvalue()
            images.append(square.pixels(Record(name, data, 0)))
    return np.stack(images)


def assert_agree(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Probabilities within 1e-4; prints a line of docs/weights.md's table."""
    difference, likeliest = np.abs(ours - theirs).max(), theirs.max(axis=1)
    print(
        f"\n{name}: largest difference of a probability {difference:.1e}; the "
        f"likeliest have {likeliest.min():.2f} to {likeliest.max():.2f}"
    )
    assert difference < 1e-4


def assert_varied(probabilities: np.ndarray) -> None:
    """A comparison would notice layers or channels in another order."""
    assert probabilities.max(axis=1).min() > 2 / probabilities.shape[1]
    apart = np.abs(probabilities[0] - probabilities[1:]).max(axis=1)
    assert apart.min() > 0.01
