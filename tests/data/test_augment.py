import math

import numpy as np
import pytest
from pictures import AXES, STDDEV, augmentation

from alexnet_jax.errors import InputError


def draw(augment, count, first=0):
    return augment.draw(first, count, 40)


def test_crops_fall_everywhere_alike():
    crop = draw(augmentation(chunk=1), 6600)["crop"]
    assert crop.min() == 0
    assert crop.max() == 32
    counts = np.stack([np.bincount(crop[:, axis], minlength=33) for axis in (0, 1)])
    # χ² of 32 degrees of freedom: 62.5 is passed once in a thousand.
    assert ((counts - 200) ** 2 / 200).sum(1).max() < 62.5
    assert abs(np.corrcoef(crop.T)[0, 1]) < 0.05


def test_fewer_offsets_start_at_the_corner_or_stay_in_the_middle():
    paper = draw(augmentation(offsets=32, chunk=1), 2000)["crop"]
    assert (paper.min(), paper.max()) == (0, 31)
    centre = draw(augmentation(offsets=1, chunk=1), 9)["crop"]
    assert (centre == 16).all()


def test_a_chunk_shares_crop_and_flip_but_not_colour():
    drawn = draw(augmentation(), 320)
    geometry = np.column_stack([drawn["crop"], drawn["flip"]])
    chunks = geometry.reshape(10, 32, 3)
    assert (chunks == chunks[:, :1]).all()
    assert len(np.unique(chunks[:, 0], axis=0)) > 5
    assert len(np.unique(drawn["colour_offset"], axis=0)) == 320


def test_half_are_mirrored_or_none():
    flip = draw(augmentation(chunk=1), 4000)["flip"]
    assert abs(flip.mean() - 0.5) < 0.03
    assert not draw(augmentation(chunk=1, reflect=False), 100)["flip"].any()


def test_mirroring_does_not_depend_on_where_the_crop_falls():
    drawn = draw(augmentation(chunk=1), 4000)
    low = drawn["crop"][:, 0] < 16
    assert abs(drawn["flip"][low].mean() - drawn["flip"][~low].mean()) < 0.06


def test_colour_noise_has_the_spread_of_the_2012_run():
    drawn = draw(augmentation(), 20000)
    # facts.md section 6: 7.40, 7.20 and 7.70 grey levels, before the division by 1.1.
    spread = drawn["colour_offset"].std(0)
    np.testing.assert_allclose(spread, [7.40, 7.20, 7.70], rtol=0.02)
    np.testing.assert_allclose(drawn["colour_offset"].mean(0), 0, atol=0.2)
    along = drawn["colour_offset"] @ np.array([0.5635, 0.5762, 0.5920])
    assert abs(along.std() - 12.178) < 0.25  # the brightness axis
    np.testing.assert_array_equal(drawn["scale"], np.float32(1 / 1.1))


def test_noise_stops_at_its_position():
    drawn = draw(augmentation(noise_until=5), 10)
    assert (drawn["colour_offset"][:5] != 0).all()
    assert (drawn["colour_offset"][5:] == 0).all()
    np.testing.assert_array_equal(drawn["scale"][5:], 1)
    np.testing.assert_array_equal(drawn["scale"][:5], np.float32(1 / 1.1))


def test_position_and_seed_decide_alone():
    one = draw(augmentation(), 50)
    for first in (0, 1, 31, 45):
        again = draw(augmentation(), 5, first)
        for key in one:
            np.testing.assert_array_equal(again[key], one[key][first : first + 5])
    other = draw(augmentation(seed=8), 50)
    assert (one["colour_offset"] != other["colour_offset"]).all()


def test_numbers_are_philox_blocks_and_their_normals_box_and_mullers():
    for position in (0, 3, 70_000, 2**40):
        drawn = draw(augmentation(chunk=1), 1, position)
        drawn = {key: value[0] for key, value in drawn.items()}
        y, x, flip, _ = uniform(1, position)
        assert drawn["crop"].tolist() == [int(33 * y), int(33 * x)]
        assert drawn["flip"] == (flip < 0.5)
        a, b, c, d = uniform(2, position)
        one, other = math.sqrt(-2 * math.log(1 - a)), math.sqrt(-2 * math.log(1 - c))
        b, d = 2 * math.pi * b, 2 * math.pi * d
        normal = [one * math.cos(b), one * math.sin(b), other * math.cos(d)]
        along = 0.1 * np.array(STDDEV) * normal
        np.testing.assert_allclose(drawn["colour_offset"], AXES @ along, rtol=1e-6)


def uniform(stream, place):
    raw = np.random.Philox(key=(7, stream), counter=place).random_raw(4)
    return [int(number >> np.uint64(11)) / 2**53 for number in raw]


def test_more_offsets_than_positions():
    with pytest.raises(InputError, match=r"augment\.offsets=34: .* has 33 positions"):
        draw(augmentation(offsets=34), 1)
