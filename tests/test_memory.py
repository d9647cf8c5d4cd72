import jax
import numpy as np
import pytest
from probes import DEVICES, SHAPE, images, initial, tiny

from jaxae import data
from jaxae.devices import memory, parallel
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.training import feeds, train


class Device:
    """As much of an accelerator as is asked for its memory."""

    platform = "gpu"

    def __init__(self, stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats


def state_of(**changes):
    cfg = tiny(**changes)
    return train.abstract_state(learners.build(cfg, SHAPE), SHAPE, cfg.ensemble)


def needed(state):
    """Parameters twice, for their gradients, and all else once."""
    return sum(leaf.nbytes for leaf in map(_filled, jax.tree.leaves((state, state.params))))


def _filled(leaf):
    return np.zeros(leaf.shape, leaf.dtype)


@pytest.mark.parametrize("size", [1, 3])
def test_a_device_must_hold_the_state_and_the_gradients(size):
    state = state_of(ensemble=size)
    memory.check(state, [Device({"bytes_limit": needed(state)})] * 4)
    with pytest.raises(UserError, match=r"parameters .* GB, but .*; lower model\.latent"):
        memory.check(state, [Device({"bytes_limit": needed(state) - 1})] * 4)


@pytest.mark.parametrize("stats", [None, {}])
def test_a_device_that_does_not_say_is_trusted(stats):
    memory.check(state_of(), [Device(stats)])


def test_host_devices_share_the_memory_of_the_machine(monkeypatch, capsys):
    state, devices = state_of(), jax.local_devices()[:4]
    monkeypatch.setattr(memory, "held", lambda device: 4 * needed(state))
    memory.check(state, devices)
    assert capsys.readouterr().out == ""  # small ones need no words
    monkeypatch.setattr(memory, "held", lambda device: 4 * needed(state) - 1)
    memory.check(state, devices[:3])
    with pytest.raises(UserError, match="GB"):
        memory.check(state, devices)


def test_what_a_large_model_needs_is_said(capsys):
    memory.check(state_of(model__latent=1_000_000), [Device(None)] * 2)
    assert capsys.readouterr().out == ""  # .53 GB on each
    memory.check(state_of(model__latent=2_000_000), [Device(None)])
    said = capsys.readouterr().out
    assert said == "66,002,144 parameters with gradients and moments need 1.1 GB\n"


def test_the_memory_of_this_machine_is_known():
    assert memory.held(jax.local_devices()[0]) > 2**28


def test_a_control_group_grants_less_than_the_machine_has(tmp_path):
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "cgroup").write_text("1:cpu:/old\n0::/job/step\n")
    (tmp_path / "memory.max").write_text("9000\n")
    (tmp_path / "job" / "memory.max").write_text("5000\n")
    (tmp_path / "job" / "step" / "memory.max").write_text("max\n")
    assert memory._granted(tmp_path / "cgroup", tmp_path) == [5000, 9000]
    assert memory._granted(tmp_path / "nowhere", tmp_path) == []


@pytest.mark.parametrize("unit", [1, 2, 4, 6])
@pytest.mark.parametrize("fixed", [0, 1000])
@pytest.mark.parametrize("room", [0, 999, 1001, 2500, 4321, 30_000])
def test_the_suggested_batch_fits_and_is_more_than_half_of_the_largest(unit, fixed, room):
    found = memory.largest_batch(lambda b: float(fixed + 10 * b), 4096, unit, float(room))
    ideal = max(0, (room - fixed) // 10)
    assert found % unit == 0
    assert found <= min(ideal, 4096)
    assert found > 0.5 * min(ideal, 4095) - 2 * unit


def test_a_batch_that_cannot_be_compiled_is_halved():
    found = memory.largest_batch(lambda b: 4.0 * b, 1 << 20, 2, float("inf"))
    assert found == 1 << 19


def fed(feed, x, batch, count=2, method="dense"):
    """A feed on some devices, not yet compiled."""
    cfg, devices = tiny(method, train__batch_size=batch), DEVICES[:count]
    learner = learners.build(cfg, SHAPE)
    apart = train.ensemble(learner, cfg, len(x))
    start = parallel.place((initial(learner), apart.noise, apart.settings), devices)
    plan, layout = data.index_plan(0, 0, len(x), batch, count), parallel.Layout(devices)
    return feeds.Feed(feed == "streaming", learner, x, layout, (*start, apart.steps), plan)


@pytest.mark.parametrize("feed", ["resident", "streaming"])
def test_what_a_batch_takes_is_known_before_it_runs_and_after(feed):
    x = images(2048)
    found = fed(feed, x, 512)
    small, large = found.needed(64), found.needed(512)
    assert 0 < small < large
    found.compile()
    assert found.needed(512) == large, "from shapes as from what it was compiled for"
    rows = 4 * x[0].size * (len(x) if feed == "resident" else 512)
    assert large > rows


@pytest.mark.parametrize("feed", ["resident", "streaming"])
def test_a_batch_that_no_device_holds_is_refused_with_one_that_fits(feed, monkeypatch):
    x, devices = images(2048), DEVICES[:2]
    room = fed(feed, x, 512).needed(256)
    monkeypatch.setattr(memory, "held", lambda device: 2 * room)  # host devices share it
    cfg = tiny("dense", train__batch_size=512, train__feed=feed)
    with pytest.raises(
        UserError, match=r"train\.batch_size 512 does not fit .*; \d+ would"
    ) as caught:
        train.fit(learners.build(cfg, SHAPE), x, cfg, devices, quiet=True)
    fits = int(str(caught.value).split("; ")[-1].split()[0])
    assert 256 <= fits < 512
    cfg = tiny("dense", train__batch_size=fits, train__feed=feed, train__epochs=1)
    train.fit(learners.build(cfg, SHAPE), x, cfg, devices, quiet=True)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
            r"64 does not fit .*allocating 9 bytes.*; \d+ would fit",
        ),
        (MemoryError(), r"64 does not fit .*out of memory.*; \d+ would fit"),
    ],
)
def test_memory_that_ends_while_training_is_one_line_too(error, words, monkeypatch):
    def exhausted(tree):
        raise error

    monkeypatch.setattr(parallel.layout, "fetch", exhausted)
    cfg, x = tiny("dense", train__batch_size=64), images(128)
    with pytest.raises(UserError, match=words):
        train.fit(learners.build(cfg, SHAPE), x, cfg, DEVICES[:1], quiet=True)


def test_another_error_stays_what_it_was():
    def broken(epoch, state, metrics):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    cfg = tiny("dense")
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        train.fit(
            learners.build(cfg, SHAPE), images(32), cfg, DEVICES[:1], on_epoch=broken, quiet=True
        )
