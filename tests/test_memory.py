import jax
import numpy as np
import pytest
from probes import SHAPE, tiny

from jaxae import learners, memory, train
from jaxae.errors import UserError


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
    with pytest.raises(UserError, match=r"parameters .* GB, of .*; lower model\.latent"):
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
    assert said == "66,002,144 parameters with gradients and moments take 1.1 GB\n"


def test_the_memory_of_this_machine_is_known():
    assert memory.held(jax.local_devices()[0]) > 2**28
