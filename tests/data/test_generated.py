"""The drawn pictures: always the same, and learnt from shape, not from pixels."""

import numpy as np
import pytest

from alexnet_jax.data import generated
from alexnet_jax.data.generated import Generated
from alexnet_jax.errors import InputError

# Mean R, G and B of the first ten pictures of Generated(10, 64, seed=0, role).
REFERENCE = {
    "train": [
        [49.4, 100.1, 72.3],
        [104.3, 127.5, 42.9],
        [202.6, 139.5, 226.9],
        [79.9, 208.3, 213.9],
        [211.6, 225.0, 56.2],
        [204.6, 141.8, 205.7],
        [167.8, 184.0, 110.9],
        [188.1, 179.5, 27.3],
        [207.4, 119.1, 17.2],
        [41.7, 22.9, 102.2],
    ],
    "validation": [
        [164.2, 164.1, 144.7],
        [60.4, 64.8, 156.4],
        [172.2, 189.4, 103.4],
        [185.3, 29.2, 116.9],
        [204.9, 95.4, 217.9],
        [166.3, 123.4, 102.7],
        [73.2, 227.6, 170.2],
        [42.5, 140.9, 162.6],
        [153.1, 211.5, 183.5],
        [62.1, 171.1, 36.2],
    ],
}


def pictures(count, size, role="train", seed=0):
    """The pictures as one float32 array and their labels."""
    _, images, labels = zip(*Generated(count, size, seed, role), strict=True)
    return np.stack(images).astype(np.float32) / 255, np.array(labels)


def ridge_error(inputs, labels, seen, strength):
    """Closed-form ridge regression to one-hot labels: error rate on the unseen rest."""
    train, test = inputs[:seen], inputs[seen:]
    mean = train.mean(0)
    train, test = train - mean, test - mean
    kernel = train @ train.T + strength * np.eye(seen, dtype=np.float32)
    scores = test @ train.T @ np.linalg.solve(kernel, np.eye(10)[labels[:seen]] - 0.1)
    return np.mean(scores.argmax(1) != labels[seen:])


def test_one_picture_whoever_draws_it():
    source = Generated(40, 48, 7, "train")
    longer = Generated(4000, 48, 7, "train")
    for i in reversed(range(40)):
        for other in (source, longer):
            assert other[i][0] == source[i][0]
            np.testing.assert_array_equal(other[i][1], source[i][1])
            assert other[i][2] == source[i][2]


@pytest.mark.parametrize("role", ["train", "validation"])
def test_reference(role):
    images, _ = pictures(10, 64, role)
    means = (255 * images.mean((1, 2), dtype=np.float64)).round(1)
    np.testing.assert_allclose(
        means,
        REFERENCE[role],
        atol=0.5,
        err_msg=f"The {role} pictures changed, and with them every result on them. If "
        f"that is meant, let REFERENCE[{role!r}] be {means.tolist()}",
    )


def test_no_picture_twice():
    streams = [("train", 0), ("validation", 0), ("train", 1), ("validation", 1)]
    seen = {
        image.tobytes()
        for role, seed in streams
        for _, image, _ in Generated(50, 32, seed, role)
    }
    assert len(seen) == 200


def test_labels_are_balanced_and_names_tell_the_picture():
    source = Generated(1000, 32, 0, "validation")
    names, images, labels = zip(*(source[i] for i in range(100)), strict=True)
    assert np.bincount(labels).tolist() == [10] * 10
    assert len(source) == 1000
    assert len(source.classes) == len(set(source.classes)) == 10
    assert names[12] == "generated/validation/000012"
    assert source.classes[labels[12]] == "square"
    assert all(i.shape == (32, 32, 3) and i.dtype == np.uint8 for i in images)


def test_indices():
    source = Generated(20, 32, 0, "train")
    assert source[-1][0] == source[np.int64(19)][0] == "generated/train/000019"
    with pytest.raises(IndexError):
        source[20]
    assert len(list(source)) == 20


def test_size_changes_the_sharpness_only():
    small, _ = pictures(20, 48)
    large, _ = pictures(20, 96)
    large = large.reshape(20, 48, 2, 48, 2, 3).mean((2, 4))
    assert np.abs(small - large).mean() < 0.05
    assert np.abs(small - large[::-1]).mean() > 0.2


@pytest.mark.parametrize("name", Generated.classes)
def test_no_crop_cuts_the_object(name):
    """A crop of 80 of 90 pixels, wherever it falls, keeps rows 10 to 80."""
    for seed in range(50):
        canvas = np.zeros((90, 90, 3), np.float32)
        rng = np.random.default_rng(seed)
        generated._object(rng, canvas, name, np.ones_like(canvas))
        ink = canvas[..., 0]
        assert ink.sum() > 0.03 * ink.size
        assert ink[10:80, 10:80].sum() > 0.999 * ink.sum()


@pytest.mark.parametrize("name", Generated.classes)
def test_a_mirrored_object_is_the_object_turned(name):
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    distance = {**generated.SHAPES, **generated.TEXTURES}[name](x, y)
    assert min(np.abs(distance - np.flip(distance, k)).max() for k in (0, 1)) < 1e-6


def test_a_linear_model_fails():
    train, labels = pictures(2000, 48)
    validation, truth = pictures(500, 48, "validation")
    images, labels = np.concatenate([train, validation]), np.append(labels, truth)
    # Smoothed to 12×12, a linear model has the fewest weights to overfit with.
    for side in (12, 24):
        cells = images.reshape(-1, side, 48 // side, side, 48 // side, 3)
        inputs = cells.mean((2, 4)).reshape(len(images), -1)
        # The best strength is chosen on the very pictures it is judged by.
        assert min(ridge_error(inputs, labels, 2000, s) for s in (1, 10, 100)) > 0.6


def test_colour_does_not_tell_the_class():
    images, labels = pictures(2000, 32)
    mean = images.mean((1, 2))
    pairs = (mean[:, :, None] * mean[:, None, :]).reshape(-1, 9)
    inputs = np.concatenate([mean, pairs], axis=1)
    assert min(ridge_error(inputs, labels, 1000, s) for s in (0.1, 1, 10)) > 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((9, 64, 0, "train"), r"dataset\.train: 9 .* 10 or more"),
        ((9, 64, 0, "validation"), r"dataset\.validation: 9 .* 10 or more"),
        ((10, 31, 0, "train"), r"dataset\.image_size: 31 pixels.* 32 or more"),
        ((10, 64, 0, "test"), r"no 'test' split, only \('train', 'validation'\)"),
    ],
)
def test_errors_name_the_key(arguments, message):
    with pytest.raises(InputError, match=message):
        Generated(*arguments)
