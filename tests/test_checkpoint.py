import jax
import numpy as np
import pytest
from probes import DEVICES, METHODS, SHAPE, assert_same, tiny

from jaxae import checkpoint, config, learners, members, parallel, runlog, train
from jaxae.errors import UserError


def state_of(cfg, shape=SHAPE):
    """A state with no two leaves alike, as training would leave it."""
    learner = learners.build(cfg, shape)
    abstract = train.abstract_state(learner, shape, cfg.ensemble)
    numbers = iter(range(1000))

    def fill(leaf):
        return np.random.default_rng(next(numbers)).uniform(0, 99, leaf.shape).astype(leaf.dtype)

    return abstract, jax.tree.map(fill, abstract)


def saved(folder, cfg, state, epochs=(3,), keep=0):
    manager = checkpoint.open_manager(folder, keep)
    for epoch in epochs:
        checkpoint.save(manager, epoch, state, runlog.about(cfg, "digest"))
    manager.wait_until_finished()
    return manager


@pytest.mark.parametrize(
    ("method", "ensemble"), [*((method, 1) for method in METHODS), ("dense", 2)]
)
def test_a_state_comes_back_bit_for_bit_on_any_devices(method, ensemble, tmp_path):
    cfg = tiny(method, ensemble=ensemble)
    abstract, state = state_of(cfg)
    with saved(tmp_path, cfg, parallel.place(state, DEVICES)) as manager:
        for devices in (DEVICES, DEVICES[:1], DEVICES[2:]):
            found = checkpoint.restore(manager, parallel.placed_like(abstract, devices))
            assert jax.tree.structure(found) == jax.tree.structure(state)
            assert_same(found, state)
            assert found.step.devices() == set(devices)


def test_the_newest_checkpoints_stay_and_carry_their_configuration(tmp_path):
    cfg = tiny(seed=5)
    _, state = state_of(cfg)
    with saved(tmp_path, cfg, state, epochs=(1, 2, 3), keep=2) as manager:
        assert sorted(manager.all_steps()) == [2, 3]
        about = checkpoint.about(manager, 3)
    assert config.from_dict(about["config"]) == cfg
    assert about["data_digest"] == "digest"


def test_opening_again_finds_what_was_saved(tmp_path):
    cfg = tiny()
    abstract, state = state_of(cfg)
    saved(tmp_path, cfg, state).close()
    with checkpoint.open_manager(tmp_path, 1) as manager:
        assert manager.latest_step() == 3
        template = parallel.placed_like(abstract, DEVICES[:1])
        assert_same(checkpoint.restore(manager, template, 3), state)


def test_an_epoch_without_checkpoint_is_named_with_those_that_exist(tmp_path):
    cfg = tiny()
    abstract, state = state_of(cfg)
    with (
        saved(tmp_path, cfg, state) as manager,
        pytest.raises(UserError, match=r"no checkpoint of epoch 7 .* \[3\]"),
    ):
        checkpoint.restore(manager, abstract, 7)


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    abstract, _ = state_of(tiny())
    with (
        checkpoint.open_manager(tmp_path, 1) as manager,
        pytest.raises(UserError, match="no checkpoint"),
    ):
        checkpoint.restore(manager, abstract)


@pytest.mark.parametrize(
    "other",
    [
        {"model__latent": 7},
        {"model__hidden": (16, 16)},
        {"optim__name": "sgd"},
        {"ensemble": 2},
        {"method": "conv"},
    ],
)
def test_a_template_of_another_model_is_refused(other, tmp_path):
    cfg = tiny()
    _, state = state_of(cfg)
    abstract, _ = state_of(tiny(**other))
    with (
        saved(tmp_path, cfg, state) as manager,
        pytest.raises(UserError, match=r"epoch 3 .* of another model"),
    ):
        checkpoint.restore(manager, parallel.placed_like(abstract, DEVICES[:1]))


def test_a_state_without_an_axis_of_members_is_refused(tmp_path):
    cfg = tiny()
    abstract, state = state_of(cfg)
    with (
        saved(tmp_path, cfg, members.pick(state, 0)) as manager,
        pytest.raises(UserError, match=r"epoch 3 .* of another model"),
    ):
        checkpoint.restore(manager, parallel.placed_like(abstract, DEVICES[:1]))
