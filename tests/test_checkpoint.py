import errno
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from probes import DEVICES, METHODS, SHAPE, assert_same, tiny

from jaxae import config
from jaxae.devices import members, parallel
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.storage import checkpoint, disk, run_folder
from jaxae.training import train


def state_of(cfg, shape=SHAPE):
    """A state with no two leaves alike, as training would leave it."""
    learner = learners.build(cfg, shape)
    abstract = train.abstract_state(learner, shape, cfg.ensemble)
    numbers = iter(range(1000))

    def fill(leaf):
        return np.random.default_rng(next(numbers)).uniform(0, 99, leaf.shape).astype(leaf.dtype)

    return abstract, jax.tree.map(fill, abstract)


def saved(folder, cfg, state, epochs=(3,), keep=0, chosen=None):
    manager = checkpoint.open_manager(folder, keep)
    for epoch in epochs:
        checkpoint.save(manager, epoch, state, run_folder.about(cfg, "digest"), chosen)
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


def test_a_checkpoint_is_due_by_epochs_and_by_minutes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    changes = {"train__epochs": 50, "train__checkpoint_every": 10}
    is_due = checkpoint.due(tiny(**changes).train)
    assert [e for e in range(1, 51) if is_due(e)] == [10, 20, 30, 40, 50]
    is_due = checkpoint.due(tiny(**changes, train__checkpoint_minutes=0.5).train)
    found = []
    for epoch in range(1, 51):
        now[0] += 12.0
        found += [epoch] if is_due(epoch) else []
    # 36 seconds are the first that are more than half a minute; the tenth epoch starts them anew.
    assert found == [3, 6, 9, 10, 13, 16, 19, 20, 23, 26, 29, 30, 33, 36, 39, 40, 43, 46, 49, 50]


def test_damaged_checkpoints_are_put_aside_where_an_older_one_is_whole(tmp_path, capsys):
    cfg, folder = tiny(), tmp_path / "checkpoints"
    abstract, state = state_of(cfg)
    with saved(folder, cfg, state, epochs=(1, 2, 3, 4)):
        pass
    next((folder / "4" / "state").glob("d/*")).write_bytes(b"")
    (folder / "3" / "about" / "metadata").unlink()
    with checkpoint.open_manager(folder, 0, fall_back=True) as manager:
        assert checkpoint.epochs(manager) == [1, 2]
        assert_same(checkpoint.restore(manager, abstract), state)
    assert {path.name for path in (tmp_path / "damaged").iterdir()} == {"4-0", "3-0"}
    said = capsys.readouterr().out
    assert "the checkpoint of epoch 4 is damaged" in said
    assert "the checkpoint of epoch 3 is damaged" in said
    with checkpoint.open_manager(folder, 0, fall_back=True) as manager:  # nothing more to do
        assert checkpoint.epochs(manager) == [1, 2]


def test_where_none_is_whole_nothing_is_moved(tmp_path):
    cfg, folder = tiny(), tmp_path / "checkpoints"
    _, state = state_of(cfg)
    with saved(folder, cfg, state, epochs=(1, 2)):
        pass
    for epoch in "12":
        next((folder / epoch / "state").glob("d/*")).write_bytes(b"")
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged: .*damaged"):
        checkpoint.open_manager(folder, 0, fall_back=True)
    assert {path.name for path in folder.iterdir()} >= {"1", "2"}
    assert not (tmp_path / "damaged").exists()


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


def damages(file):
    """What may become of a file."""
    held = file.read_bytes()
    middle = len(held) // 2
    flipped = bytes([held[middle] ^ 16]) if held else b""
    yield held[:middle]
    yield held[:middle] + flipped + held[middle + 1 :]
    yield None


def test_any_file_that_is_damaged_is_named_before_it_is_used(tmp_path):
    cfg = tiny()
    abstract, state = state_of(cfg)
    chosen = {"epoch": np.asarray(2, np.int32), "variables": state.variables}
    saved(tmp_path, cfg, state, chosen=chosen).close()
    parts = ("about", "state", "chosen")
    files = [path for part in parts for path in (tmp_path / "3" / part).rglob("*")]
    template = parallel.placed_like(abstract, DEVICES[:1])
    with checkpoint.open_manager(tmp_path, 1) as manager:
        for file in filter(Path.is_file, [*files, tmp_path / "3" / checkpoint.DIGESTS]):
            held = file.read_bytes()
            for damage in damages(file):
                if damage is None:
                    file.unlink()
                else:
                    file.write_bytes(damage)
                if damage is None and file.name == checkpoint.DIGESTS:
                    continue  # as an older version left it
                with pytest.raises(UserError, match=r"is damaged; .*--train.fall-back") as caught:
                    checkpoint.restore(manager, template)
                assert damage is None or str(tmp_path / "3") in str(caught.value)
                file.write_bytes(held)
        file.write_bytes(held)
        assert_same(checkpoint.restore(manager, template), state)
        assert_same(checkpoint.restore_chosen(manager, chosen, 3), chosen)


def test_a_checkpoint_that_keeps_no_epoch_says_so(tmp_path):
    _, state = state_of(tiny())
    with (
        saved(tmp_path, tiny(), state) as manager,
        pytest.raises(UserError, match="3 cannot be read"),
    ):
        checkpoint.restore_chosen(manager, state.variables, 3)


def test_a_checkpoint_is_committed_with_its_digests(tmp_path, monkeypatch):
    """No moment comes at which a checkpoint is in its place without them."""
    replaced = []
    write = disk.write_json

    def noted(path, value):
        replaced.append(sorted(p.name for p in tmp_path.iterdir()))
        write(path, value)

    monkeypatch.setattr(disk, "write_json", noted)
    _, state = state_of(tiny())
    saved(tmp_path, tiny(), state, epochs=(1, 2)).close()
    assert [["1" in names, "2" in names] for names in replaced] == [[False, False], [True, False]]
    for epoch in ("1", "2"):
        assert len(json.loads((tmp_path / epoch / checkpoint.DIGESTS).read_bytes())) > 5


def test_a_checkpoint_without_digests_is_taken_as_it_is(tmp_path):
    cfg = tiny()
    abstract, state = state_of(cfg)
    saved(tmp_path, cfg, state).close()
    (tmp_path / "3" / checkpoint.DIGESTS).unlink()
    with checkpoint.open_manager(tmp_path, 1) as manager:
        assert_same(checkpoint.restore(manager, parallel.placed_like(abstract, DEVICES[:1])), state)
        (tmp_path / "3" / "about" / "metadata").write_text("{\n")
        with pytest.raises(UserError, match="3 cannot be read"):
            checkpoint.about(manager, 3)


def test_errors_of_the_store_are_errors_of_the_system(tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing\nthere [os_error_code='28']")

    _, state = state_of(tiny())
    with checkpoint.open_manager(tmp_path, 0) as manager, monkeypatch.context() as patch:
        patch.setattr(checkpoint.ocp.CheckpointManager, "save", fails)
        with pytest.raises(OSError, match="No space") as caught:
            checkpoint.save(manager, 1, state, {})
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path)
