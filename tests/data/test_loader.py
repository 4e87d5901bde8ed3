import threading
import time
from contextlib import closing
from itertools import islice

import jax
import numpy as np
import pytest
from pictures import Numbered, augmentation

from alexnet_jax.data.loader import evaluation_batches, training_batches
from alexnet_jax.data.preprocess import Square
from alexnet_jax.errors import ImageError, InputError
from alexnet_jax.step import batch_shapes

COUNT = 100


def train(steps, batch_size=8, source=None, **options):
    """That many batches of numbered pictures, which the pixels tell apart."""
    options = {"batch_size": batch_size, "seed": 5, "threads": 2, **options}
    batches = training_batches(
        source or Numbered(COUNT), Square(40), augmentation(), **options
    )
    with closing(batches):
        return [
            {key: np.array(value) for key, value in batch.items()}
            for batch in islice(batches, steps)
        ]


class Gradients(Numbered):
    """Red is the picture's number; green and blue say where a pixel lies."""

    def __getitem__(self, i):
        picture = np.full((40, 40, 3), i, np.uint8)
        picture[..., 1], picture[..., 2] = np.mgrid[:40, :40]
        return f"n/{i}", picture, i % 3


def evaluate(source, **options):
    options = {"batch_size": 8, "threads": 2, **options}
    with closing(evaluation_batches(source, Square(40), **options)) as batches:
        return [{k: np.array(v) for k, v in batch.items()} for batch in batches]


def numbers(batches):
    return np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches])


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key, value in batch.items():
            np.testing.assert_array_equal(value, other[key], err_msg=key)


def test_every_picture_once_an_epoch_in_a_new_order():
    seen = numbers(train(75, batch_size=8)).reshape(6, COUNT)  # batches straddle epochs
    np.testing.assert_array_equal(np.sort(seen), [range(COUNT)] * 6)
    assert len(np.unique(seen, axis=0)) == 6
    assert (seen[0] != range(COUNT)).any()


def test_a_batch_holds_what_its_positions_say():
    batches = train(3, source=Gradients(COUNT))
    places = np.broadcast_to(np.moveaxis(np.mgrid[:40, :40], 0, -1), (8, 40, 40, 2))
    for step, batch in enumerate(batches):
        expected = augmentation().draw(8 * step, 8, 40)
        for key, value in expected.items():
            np.testing.assert_array_equal(batch[key], value)
            assert batch[key].dtype == value.dtype
        np.testing.assert_array_equal(batch["image"][..., 1:], places)
        np.testing.assert_array_equal(batch["label"], numbers([batch]) % 3)
        np.testing.assert_array_equal(batch["weight"], np.ones(8, np.float32))
        assert (batch["label"].dtype, batch["weight"].dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_threads_change_nothing(threads):
    assert_same(train(20, threads=threads), train(20))


def test_a_later_start_goes_on_where_it_was():
    assert_same(train(20, start_step=17), train(37)[17:])


def test_a_far_start_reads_nothing_before_it():
    class Counting(Numbered):
        reads = 0

        def __getitem__(self, i):
            self.reads += 1
            return super().__getitem__(i)

    source = Counting(COUNT)
    train(1, source=source, start_step=10**9, threads=0)
    assert source.reads == 8


@pytest.mark.parametrize("processes", [2, 4])
def test_parts_of_processes_make_up_the_batch(processes):
    parts = [
        train(15, start_step=3, process_index=p, process_count=processes)
        for p in range(processes)
    ]
    whole = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(whole, train(15, start_step=3))


def test_another_seed_another_order():
    assert (numbers(train(5)) != numbers(train(5, seed=6))).any()


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_an_unreadable_image_stops_training_in_its_turn(threads):
    source, options = Numbered(COUNT, 3), {"batch_size": 8, "threads": threads}
    whole = train(20)
    before = next(i for i, batch in enumerate(whole) if 3 in numbers([batch]))
    batches = training_batches(source, Square(40), augmentation(), seed=5, **options)
    with closing(batches):
        assert_same([next(batches) for _ in range(before)], whole[:before])
        with pytest.raises(ImageError) as caught:
            next(batches)
    assert str(caught.value) == "n/3: cannot be decoded: not a known picture format"


def test_parts_must_be_equal():
    with pytest.raises(InputError, match="batch_size=8: not a multiple of the 3"):
        train(1, process_count=3)
    with pytest.raises(InputError, match="batch_size=8: not a multiple of the 3"):
        evaluate(Numbered(9), process_count=3)


@pytest.mark.parametrize("count", [3, 8, 21])
def test_evaluation_sees_each_picture_once_in_order(count):
    batches = evaluate(Numbered(count))
    assert {len(batch["image"]) for batch in batches} == {8}
    weight, label, image, unreadable = (
        np.concatenate([batch[key] for batch in batches])
        for key in ("weight", "label", "image", "unreadable")
    )
    assert (weight.dtype, label.dtype, image.dtype) == (np.float32, np.int32, np.uint8)
    assert len(weight) == -(-count // 8) * 8
    np.testing.assert_array_equal(weight, np.arange(len(weight)) < count)
    np.testing.assert_array_equal(label[:count], np.arange(count) % 3)
    np.testing.assert_array_equal(image[:count, 0, 0, 0], np.arange(count))
    assert image.shape[1:] == (40, 40, 3)
    assert not image[count:].any()
    assert not label[count:].any()
    assert (unreadable == -1).all()


@pytest.mark.parametrize("threads", [0, 3])
def test_evaluation_ends_and_closing_ends_the_threads(threads):
    before = threading.active_count()
    batches = evaluation_batches(
        Numbered(50), Square(40), batch_size=8, threads=threads
    )
    assert len(list(batches)) == 7
    with pytest.raises(StopIteration):
        next(batches)
    batches.close()
    batches = training_batches(
        Numbered(50), Square(40), augmentation(), batch_size=8, seed=5, threads=threads
    )
    next(batches)
    batches.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_evaluation_by_processes_and_threads():
    whole = evaluate(Numbered(19))
    assert_same(evaluate(Numbered(19), threads=4), whole)
    parts = [evaluate(Numbered(19), process_index=p, process_count=4) for p in range(4)]
    assert {len(part) for part in parts} == {3}
    joined = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)


@pytest.mark.parametrize("threads", [0, 2])
def test_an_unreadable_image_stops_evaluation(threads):
    with pytest.raises(ImageError) as caught:
        evaluate(Numbered(19, 12), threads=threads)
    assert str(caught.value) == "n/12: cannot be decoded: not a known picture format"


def test_an_unreadable_picture_is_allowed_and_named():
    first, second, third = evaluate(Numbered(19, 12), allow_unreadable=True)
    np.testing.assert_array_equal(second["weight"], [1, 1, 1, 1, 0, 1, 1, 1])
    np.testing.assert_array_equal(second["unreadable"], [-1] * 4 + [12] + [-1] * 3)
    assert first["weight"].sum() + third["weight"].sum() == 11


def test_batches_are_as_the_update_is_compiled_for():
    (batch,) = train(1, batch_size=4)
    given = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in batch.items()}
    assert given == batch_shapes(4, 40)
