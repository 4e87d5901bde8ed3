import threading
import time

import numpy as np
import pytest

from alexnet_jax.errors import ImageError
from alexnet_jax.feed import CachedTransfer, Feed
from alexnet_jax.parallel import make_mesh


class Batches:
    """Batch i is full of i; each waits until it is let go."""

    def __init__(self):
        self.gates = [threading.Event() for _ in range(9)]
        self.given, self.closed = 0, False

    def __next__(self):
        self.gates[self.given].wait(timeout=60)
        self.given += 1
        return {"image": np.full((2, 4), self.given - 1, np.uint8)}

    def close(self):
        self.closed = True


class Devices:
    """What they computed last: `block_until_ready` ends when they are done."""

    def __init__(self, when_done):
        self.when_done, self.asked = when_done, False

    def block_until_ready(self):
        self.asked = True
        self.when_done()


@pytest.fixture
def batches():
    batches = Batches()
    yield batches
    for gate in batches.gates:
        gate.set()


def test_batches_come_in_order_two_ahead_on_the_mesh(batches):
    for gate in batches.gates:
        gate.set()
    feed = Feed(batches, make_mesh(2, 1, 2, 2))
    for i in range(3):
        for future in feed._ahead:
            future.result()
        assert batches.given == i + 2
        image = feed.take(Devices(lambda: None))["image"]
        np.testing.assert_array_equal(image, np.full((2, 4), i))
        assert image.sharding.spec[0] == "data"
        assert len(image.sharding.device_set) == 2
    feed.close()
    assert batches.closed


def test_waiting_counts_only_while_the_devices_are_idle(batches):
    feed = Feed(batches, make_mesh(1, 1, 2, 2))

    # The devices compute for longer than the batch takes: nobody waits for data.
    def compute():
        time.sleep(0.2)
        batches.gates[0].set()
        feed._ahead[0].result()

    feed.take(Devices(compute))
    assert feed.waited < 0.1

    # They are done at once, and the batch takes another 0.2 s.
    threading.Timer(0.2, batches.gates[1].set).start()
    feed.take(Devices(lambda: None))
    assert feed.waited > 0.1

    # A batch that is there needs no look at the devices.
    batches.gates[2].set()
    feed._ahead[0].result()
    waited, devices = feed.waited, Devices(lambda: None)
    feed.take(devices)
    assert feed.waited == waited
    assert not devices.asked
    for gate in batches.gates:
        gate.set()
    feed.close()


def test_an_error_of_the_data_reaches_the_training(batches):
    def fail(self):
        raise ImageError("cat.jpg: cannot be decoded")

    batches.__class__ = type("Failing", (Batches,), {"__next__": fail})
    feed = Feed(batches, make_mesh(1, 1, 2, 2))
    with pytest.raises(ImageError, match=r"cat\.jpg"):
        feed.take(Devices(lambda: None))
    feed.close()
    assert batches.closed


def test_rates_are_sent_when_they_are_others_than_before():
    rates = CachedTransfer(make_mesh(2, 1, 2, 2))
    first = rates.put({"conv1": {"kernel": 0.01, "bias": 0.02}})
    assert rates.put({"conv1": {"kernel": 0.01, "bias": 0.02}}) is first
    assert first["conv1"]["bias"] == np.float32(0.02)
    assert len(first["conv1"]["bias"].sharding.device_set) == 2

    dropped = rates.put({"conv1": {"kernel": 0.001, "bias": 0.02}})
    assert dropped["conv1"]["kernel"] == np.float32(0.001)
    assert first["conv1"]["kernel"] == np.float32(0.01)
