"""What a config makes of the images."""

import numpy as np
import pytest
from pictures import AXES, STDDEV
from runs import tiny_config

from alexnet_jax.data.statistics import Statistics
from alexnet_jax.inputs import make_augmentation

STATISTICS = Statistics(
    mean_image=np.zeros((72, 72, 3), np.float32),
    color_stddev=np.array(STDDEV, np.float32),
    color_axes=np.array(AXES, np.float32),
)


def drawn(images: int = 1000, **augment) -> dict[str, np.ndarray]:
    """The random numbers of the first 64 images of a run."""
    changes = {f"augment.{name}": value for name, value in augment.items()}
    augmentation = make_augmentation(tiny_config(changes), STATISTICS, images)
    return augmentation.draw(first=0, count=64, side=72)


@pytest.mark.parametrize(
    ("noise", "rescale", "scale"),
    [
        (0.1, True, 1 / 1.1),  # the code of 2012 divides by 1 + coefficient …
        (0.25, True, 1 / 1.25),
        (0.0, True, 1.0),  # … where there is noise
        (0.1, False, 1.0),  # the paper
    ],
)
def test_noisy_pixels_are_divided_by_one_plus_the_noise(noise, rescale, scale):
    numbers = drawn(colour_noise=noise, rescale_noisy=rescale)
    np.testing.assert_array_equal(numbers["scale"], np.float32(scale))
    deviation = numbers["colour_offset"].std()
    assert (deviation > 0) == (noise > 0)


def test_noise_and_its_scale_end_at_an_epoch():
    numbers = drawn(
        images=20, colour_noise=0.1, rescale_noisy=True, colour_noise_until_epoch=1.5
    )
    np.testing.assert_array_equal(numbers["scale"][:30], np.float32(1 / 1.1))
    np.testing.assert_array_equal(numbers["scale"][30:], 1)
    assert numbers["colour_offset"][:30].all()
    assert not numbers["colour_offset"][30:].any()
