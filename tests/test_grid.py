import functools

import jax
import numpy as np
import pytest
from jax import export
from probes import DEVICES, SHAPE, assert_close, assert_same, images, tiny

from jaxae.detectors import evaluation
from jaxae.devices import parallel, tuning
from jaxae.devices.parallel import layout as layouts
from jaxae.devices.parallel import programs
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.training import grid, selection, train
from jaxae.types import AXIS

pytestmark = pytest.mark.device

X = images(150)
SIZES = (40, 25, 60)
RATES = (1e-3, 3e-3, 2e-3)


def members_of(method="dense", **changes):
    """Three members with rows, seeds and rates of their own; their numbers of steps differ."""
    found, first = [], 0
    for seed, (size, lr) in enumerate(zip(SIZES, RATES, strict=True)):
        cfg = tiny(method, seed=seed, optim__lr=lr, optim__eps=1e-7, **changes)
        settings = learners.build(cfg, SHAPE, axis=None).settings
        rows = np.arange(first, first + size)
        found.append(grid.Member(cfg, settings, rows, np.arange(first, first + size // 4)))
        first += size
    return found


def trained(members, devices=1, before=None, on_epoch=lambda epoch, now, found: None, layout=None):
    """State and selected epochs after training, on the host; from those `before`, if there are."""
    axis = AXIS if layout and layout.per_group > 1 else None
    learner = learners.build(members[0].cfg, SHAPE, axis=axis)
    layout = layout or grid.layout_for(members, devices)
    state, best = before or (None, None)
    best = best and best._replace(variables=layout.place(best.variables))
    choice = selection.CHOICES["valid_loss"]

    def now(state):
        return layout.fetch(state), best._replace(variables=layout.fetch(best.variables))

    def each_epoch(epoch, state, found):
        nonlocal best
        best = selection.keep(choice, best, epoch, state.variables, found, len(members), layout)
        on_epoch(epoch, functools.partial(now, state), found)
        return found

    fitted = train.fit(
        learner, X, members[0].cfg, layout, members=grid.members_of(members), state=state,
        measure=grid.valid_losses(learner, X, members, layout), on_epoch=each_epoch, quiet=True,
    )  # fmt: skip
    return now(fitted.state)


def alone(member, state=None):
    """Its state, losses and validation losses by `train.fit`, on one device."""
    learner, devices = learners.build(member.cfg, SHAPE), DEVICES[:1]
    valid_loss = evaluation.loss_fn(learner, X[member.valid], devices)
    settings = {name: np.float32([value]) for name, value in member.settings.items()}
    losses = []

    def on_epoch(epoch, state, found):
        losses.append((found["loss"][0], valid_loss(state.variables, settings)()[0]))
        return found

    rows = X[member.train]
    found = train.fit(learner, rows, member.cfg, devices, on_epoch=on_epoch, quiet=True)
    return found.state, np.array(losses)


def own(tree, i):
    return jax.tree.map(lambda leaf: leaf[i : i + 1], tree)


@pytest.mark.parametrize(
    ("method", "devices"),
    [
        ("dense", 1),
        pytest.param("dense", 2, marks=pytest.mark.slow),
        pytest.param("conv", 1, marks=pytest.mark.slow),
    ],
)
def test_a_member_is_the_same_as_the_member_alone(method, devices):
    # To the bit on one device. Where several work, each has a core of its own, and products may be
    # summed in another order than on one that has all cores.
    rounding = 0 if devices == 1 else 1e-5
    members, course = members_of(method), []

    def on_epoch(epoch, now, found):
        course.append(np.stack([found["loss"], found["valid_loss"]], axis=1))

    end, _ = trained(members, devices, on_epoch=on_epoch)
    assert end.step.tolist() == [2 * -(-size // 8) for size in SIZES]
    for i in range(3 if method == "dense" else 1):
        state, losses = alone(members[i])
        assert_close(own(end, i), jax.device_get(state), rtol=rounding, atol=rounding)
        np.testing.assert_allclose(np.stack(course)[:, i], losses, rtol=rounding)


@pytest.mark.slow
@pytest.mark.thorough
def test_an_adversarial_member_takes_its_course_but_for_rounding():
    # A mean over an axis of one device is not the same program as none; and two networks that
    # fight carry a last digit far, so that only the first epoch is held.
    members = members_of("alocc", train__epochs=1)
    found = []
    trained(members, 2, on_epoch=lambda epoch, now, of: found.append(of))
    _, losses = alone(members[1])
    np.testing.assert_allclose(found[0]["loss"][1], losses[0, 0], rtol=1e-4)


def test_stopped_and_resumed_is_the_same_as_going_on():
    members, saved = members_of(train__epochs=3), {}

    def on_epoch(epoch, now, found):
        saved[epoch] = now()

    whole = trained(members, on_epoch=on_epoch)
    assert_same(trained(members, 1, saved[1]), whole)
    assert_close(trained(members, 2, saved[1]), whole, rtol=1e-5, atol=1e-5)
    assert_same(trained(members, 1, saved[3]), whole)
    # Selected are the weights after the epoch with the lowest validation loss.
    _, best = whole
    for i, epoch in enumerate(best.epoch):
        state, _ = saved[int(epoch)]
        assert_same(own(best.variables, i), own(state.variables, i))


@pytest.mark.parametrize(
    ("driver", "feed", "groups"),
    [
        ("pmap", "resident", 1),
        ("shard_map", "streaming", 2),
        *(
            pytest.param(driver, feed, groups, marks=pytest.mark.slow)
            for driver, feed, groups in [
                ("pmap", "resident", 2),
                ("pmap", "streaming", 1),
                ("pmap", "streaming", 2),
                ("shard_map", "resident", 1),
                ("shard_map", "resident", 2),
                ("shard_map", "streaming", 1),
            ]
        ),
    ],
)
def test_batches_of_members_are_split_over_the_devices_of_a_group(groups, feed, driver):
    members = members_of(train__feed=feed)
    layout = parallel.Layout(DEVICES[: 2 * groups], [member.steps for member in members], groups)
    parallel.use(driver)
    try:
        state, best = trained(members, layout=layout)
    finally:
        parallel.use("pmap")
    alone_state, alone_best = trained(members)
    assert_close(state, alone_state, rtol=1e-4, atol=1e-5)
    assert_close(best, alone_best, rtol=1e-4, atol=1e-5)


def test_rows_of_a_grid_may_be_read_while_training(monkeypatch):
    monkeypatch.setattr(tuning, "FEED_BYTES", 1)  # parts of two or three steps
    for devices in (1, 2):
        streamed = trained(members_of(train__feed="streaming"), devices)
        assert_same(streamed, trained(members_of(), devices))


def test_who_has_fewer_rows_or_sees_some_twice():
    members = members_of()
    twice = [members[0]._replace(train=np.repeat(members[0].train[:20], 2)), members[1]]
    state, _ = trained(twice)
    assert state.step.tolist() == [10, 8]
    assert_same(own(state, 1), own(trained(members)[0], 1))


def test_a_batch_larger_than_the_rows_of_a_member():
    members = members_of()
    few = [members[0], members[1]._replace(train=members[1].train[:5])]
    with pytest.raises(UserError, match=r"train\.batch_size 8 exceeds the 5 training rows"):
        trained(few)


@pytest.mark.parametrize("devices", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_members_are_shared_out_evenly(devices, count):
    steps = np.random.default_rng(count).integers(1, 50, count)
    found = layouts.share_out(steps.tolist(), devices)
    assert found.shape == (devices, -(-count // devices))
    assert sorted(found[found >= 0]) == list(range(count))
    if count >= devices:
        loads = [steps[lane[lane >= 0]].sum() for lane in found]
        assert max(loads) - min(loads) <= 2 * steps.max()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_members_go_side_by_side_on_accelerators(platform):
    cfg = members_of()[0].cfg
    learner = learners.build(cfg, SHAPE, axis=None)
    epoch = programs.device_epoch(learner, platform, has_axis=False)
    state = train.abstract_state(learner, SHAPE, 3)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 3))
    settings = {name: jax.ShapeDtypeStruct((3,), "float32") for name in learner.settings}
    plan = jax.ShapeDtypeStruct((3, 8, 8), "int32")
    counts, rows = jax.ShapeDtypeStruct((3,), "int32"), jax.ShapeDtypeStruct(X.shape, "float32")
    lowered = export.export(jax.jit(epoch), platforms=[platform])(
        state, rows, plan, keys, settings, counts
    )
    assert "tensor<3x64x16xf32>" in lowered.mlir_module()  # weights of all, in one product
