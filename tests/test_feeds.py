"""Rows that stream and rows that are resident train the same state, bit for bit."""

import threading

import jax
import numpy as np
import pytest
from probes import DEVICES, ON_DEVICES, SHAPE, assert_same, images, tiny

from jaxae.devices import memory, parallel, tuning
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.training import feeds, train

pytestmark = pytest.mark.device

X = images(163)  # 21 steps, the last completed
ROW = 4 * 64  # bytes


def trained(method, feed, count=1, x=X, **changes):
    cfg = tiny(method, train__feed=feed, **changes)
    course = []

    def on_epoch(epoch, state, metrics):
        course.append(metrics["loss"])
        return metrics

    learner = learners.build(cfg, SHAPE)
    fitted = train.fit(learner, x, cfg, DEVICES[:count], on_epoch=on_epoch, quiet=True)
    return jax.device_get(fitted.state), np.array(course)


@pytest.mark.parametrize(("method", "count"), [on for on in ON_DEVICES if on != ("conv", 2)])
def test_a_streaming_feed_trains_the_same_bits(method, count, monkeypatch):
    expected = trained(method, "resident", count)
    for bytes_of_part in (1, 8 * ROW * 5, 8 * ROW * 20):  # 2, 5 and all 21 steps
        monkeypatch.setattr(tuning, "FEED_BYTES", bytes_of_part)
        assert_same(trained(method, "streaming", count), expected)


def test_members_stream_together(monkeypatch):
    monkeypatch.setattr(tuning, "FEED_BYTES", 8 * ROW * 4)
    expected = trained("dense", "resident", 2, ensemble=3)
    assert_same(trained("dense", "streaming", 2, ensemble=3), expected)


@pytest.mark.parametrize("steps", range(1, 60))
def test_no_part_has_a_single_step_of_several(steps):
    for wanted in range(70):
        part = feeds._steps_of_part(steps, wanted)
        assert 1 <= part <= steps
        assert steps == 1 or (part > 1 and steps % part != 1)
        assert part <= max(wanted, 2) + 4  # not far from what was asked for


class Watched:
    """A source that counts what is read of it, and by whom."""

    dtype = np.dtype(np.float32)
    shape = X.shape

    def __init__(self, fails_at=None):
        self.read, self.threads, self.fails_at = [], set(), fails_at

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        self.threads.add(threading.current_thread().name)
        self.read.append(np.arange(len(X))[index])
        if self.fails_at is not None and len(self.read) > self.fails_at:
            raise UserError("the file has gone")
        return X[index]


def test_every_row_is_read_once_an_epoch_in_small_parts(monkeypatch):
    monkeypatch.setattr(tuning, "FEED_BYTES", 8 * ROW * 4)
    source = Watched()
    found = trained("dense", "streaming", x=source, train__epochs=1)
    assert_same(found, trained("dense", "resident", train__epochs=1))
    assert max(map(len, source.read)) <= 8 * 6  # no part of five, which would leave a single step
    counts = np.bincount(np.concatenate(source.read), minlength=len(X))
    assert counts.min() == 1
    assert counts.sum() == 21 * 8  # the last batch is completed with the first rows
    assert all(name.startswith("feed") for name in source.threads)


def test_what_cannot_be_read_ends_training(monkeypatch):
    monkeypatch.setattr(tuning, "FEED_BYTES", 8 * ROW * 4)
    with pytest.raises(UserError, match="the file has gone"):
        trained("dense", "streaming", x=Watched(fails_at=3))
    assert not any(t.name.startswith("feed") for t in threading.enumerate())


def test_the_feed_is_chosen_by_size_and_said(monkeypatch, capsys):
    monkeypatch.setattr(memory, "held", lambda device: len(X) * ROW * 8)
    assert not feeds.is_streaming("auto", Watched(), DEVICES[:2])
    assert feeds.is_streaming("streaming", Watched(), DEVICES[:2])
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(memory, "held", lambda device: len(X) * ROW * 8 - 1)
    assert feeds.is_streaming("auto", Watched(), DEVICES[:2])  # a copy for each host device
    assert "read during training; --train.feed resident keeps them" in capsys.readouterr().out
    assert not feeds.is_streaming("auto", Watched(), DEVICES[:1])
    assert not feeds.is_streaming("resident", Watched(), DEVICES[:2])
    assert not feeds.is_streaming("auto", X, DEVICES[:2]), "what lies in memory stays there"


def test_each_process_makes_the_slices_of_its_own_devices():
    asked = []

    def read(own):
        asked.append(own.tolist())
        return np.stack([np.full((2, 3), d, np.float32) for d in own])

    made = parallel.split_by(read, (4, 2, 3), DEVICES[:4])
    assert asked == [[0, 1, 2, 3]]
    assert made[:, 0, 0].tolist() == [0, 1, 2, 3]
    assert [shard.device for shard in made.addressable_shards] == DEVICES
