"""Whatever is changed in a run, a grid or an export, `jaxae verify` finds it."""

import json
import re
import shutil
from pathlib import Path

import forging
import numpy as np
import pytest
from probes import images, tiny, write_masked, write_npz

from jaxae.cli import main as cli
from jaxae.config.grids import CrossConfig, ProtocolConfig
from jaxae.workflows import experiment, protocol


def finished(folder, data, **changes):
    """A run of two checkpoints, with the arrays, the table and the figures of studies."""
    settings = {"train__checkpoint_every": 1, "train__keep_checkpoints": 0, "studies": ("costs",)}
    settings |= {"data__name": f"npz:{data}"} | changes
    experiment.run(tiny(run_dir=str(folder), **settings))
    return folder


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Everything that is verified, and an `other` run whose files take the place of its files."""
    root, x, y = tmp_path_factory.mktemp("evidence"), images(70), np.arange(70) % 2
    write_npz(root / "x.npz", n=24)
    for seed, name in enumerate(("run", "other")):
        finished(root / name, root / "x.npz", seed=seed)
        cli.main(["report", str(root / name)])
        cli.main(["export", str(root / name), str(root / f"{name}.zip")])
    np.savez(root / "rows.npz", x_train=x[:30])
    finished(root / "unlabelled", root / "rows.npz", studies=())
    value, is_strange = np.sin(np.arange(400) / 3), np.isin(np.arange(400), [380, 381])
    value = 0.5 + 0.4 * np.where(is_strange, 1, value)
    np.savez(root / "series.npz", X=value, y=is_strange.astype(int))
    of_series = {"data__window": 8, "data__valid_fraction": 0.3, "studies": ()}
    finished(root / "series", "", data__name=f"series:{root / 'series.npz'}", **of_series)
    folder = write_masked(root / "images")
    of_images = {"data__valid_fraction": 0.3, "studies": ()}
    finished(root / "pixels", "", data__name=f"images:{folder}", **of_images)
    x = x * (0.7 + 0.3 * y[:, None, None, None])
    np.savez(root / "two.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])

    def of_tiny(kind, name, data, **more):
        cfg = tiny(data__name=f"npz:{data}", run_dir=str(root / name))
        return kind(**{field: getattr(cfg, field) for field in cfg.__dataclass_fields__}, **more)

    protocol.run(of_tiny(ProtocolConfig, "grid", root / "two.npz", seeds=1, baselines=("pca",)))
    cli.main(["report", str(root / "grid")])
    protocol.cross.run(of_tiny(CrossConfig, "cross", root / "x.npz", folds=2, alpha=0.1))
    for name in ("run", "other", "unlabelled", "series", "pixels", "grid", "cross", "run.zip"):
        assert not forging.failed(root / name), name
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fewest"),
    [("run", 380), ("grid", 380), ("cross", 380), ("unlabelled", 380), ("run.zip", 330)],
)
def test_many_random_changes_are_found(name, fewest, originals, tmp_path):
    other = originals / ("other.zip" if name == "run.zip" else "other")
    tally = forging.tally_of(originals / name, other, 420, 1, tmp_path / "scratch")
    assert tally.pop("same") < 420 - fewest
    assert len(tally) > 3 or name == "run.zip"  # checks of all kinds have something to find


WAYS = ("flipped", "value", "swapped", "another's", "deleted")
# What finds which change, as in the documentation: a file -> three cells.
TABLE = {
    row: cells
    for row, *cells in (
        line.strip("| ").split(" | ")
        for line in (Path(__file__).parents[1] / "docs/scale.md").read_text().splitlines()
    )
    if "`" in row and len(cells) == 3
}
KINDS = {"": "run", "grid": "grid", "cross-conformal": "cross", "export": "run.zip"}
ONE_OF = {  # a file among those that a row names
    "`checkpoints/`, an earlier epoch": "checkpoints/1/state/d/*",
    "`checkpoints/`, the last epoch": "checkpoints/2/state/d/*",
    "`checkpoints/`": "checkpoints/2/state/d/*",
    "`checkpoints/*/digests.json`": "checkpoints/2/digests.json",
    "`costs.md`, or the table of another study": "costs.md",
    "`flatbuffers/`": "flatbuffers/*.py",
}


def place(row):
    """What a row of the table is about: the run, grid or export, and one such file in it."""
    kind, _, name = row.rpartition(": ")
    pattern = ONE_OF.get(name, name.strip("`"))
    return KINDS[kind], f"{pattern}*" if pattern.endswith("/") else pattern


# Values of a record that no other record repeats: with new digests, these alone may change.
ALONE = {
    ("run", "report.json"): {"warnings", "compile_s", "wall_s"},
    ("unlabelled", "report.json"): {"warnings", "compile_s", "wall_s"},
    ("series", "report.json"): {"warnings", "compile_s", "wall_s"},
    ("pixels", "report.json"): {"warnings", "compile_s", "wall_s"},
    ("cross", "report.json"): {"wall_s"},
    ("grid", "report.json"): {"wall_s"},
    ("run", "config.json"): set(),
    ("run", "detector/description.json"): {"format", "jaxae"},
    ("run", "metrics.jsonl"): {"1 epoch", "1 loss", "1 valid_loss"},
    ("run.zip", "manifest.json"): set(),
}
ROUNDED = {"p_value"}  # found if it is off by more than a rank


def sealed(copy, archive, is_forged=True):
    """A folder, or the archive of an unpacked one, with new digests if it is forged."""
    is_export = archive.suffix == ".zip"
    if is_forged:
        (forging.reseal_export if is_export else forging.reseal)(copy)
    if is_export:
        forging.pack(archive, copy)
    return archive if is_export else copy


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file"), ALONE)
def test_every_value_follows_from_others(name, file, originals, tmp_path):
    is_export, copy = name.endswith(".zip"), tmp_path / "copy"
    (forging.unpacked if is_export else shutil.copytree)(originals / name, copy)
    path, passing = copy / file, set()
    as_written = path.read_text()
    is_lines = path.suffix == ".jsonl"
    lines = as_written.splitlines() if is_lines else [as_written]
    of_lines = {str(i): json.loads(line) for i, line in enumerate(lines, 1)}
    value = of_lines if is_lines else of_lines["1"]
    for at in forging.paths_in(value):
        changed = forging.with_other(value, at)
        parts = (
            [json.dumps(line) for line in changed.values()] if is_lines else [json.dumps(changed)]
        )
        path.write_text("\n".join([*parts, ""]))
        is_free = "cost_" in at[-1] or at[-1] == "digest" or at[0] == "digests"  # of studies
        if not (is_free or forging.failed(sealed(copy, tmp_path / name))):
            passing.add(" ".join(at))
    assert passing == ALONE[name, file]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["run", "unlabelled", "series", "pixels", "cross", "grid/members/class0-seed0"]
)
def test_every_array_follows_from_others(name, originals, tmp_path):
    copy = shutil.copytree(originals / name, tmp_path / "copy")
    with np.load(copy / "scores.npz") as stored:
        arrays = dict(stored)
    for one in arrays.keys() - ROUNDED:
        changed = arrays[one].copy()
        changed[0] = ~changed[0] if changed.dtype == bool else forging.with_other(changed[0], ())
        np.savez(copy / "scores.npz", **arrays | {one: changed})
        forging.reseal(copy)
        assert forging.failed(copy), one


def changed_by(way, row, originals, scratch, is_forged):
    """The checks that find a change of a file; None if the change leaves it as it is."""
    name, pattern = place(row)
    original, other, copy = originals / name, originals / "other", scratch / "copy"
    if original.is_file():
        other = forging.unpacked(originals / "other.zip", scratch / "others")
        forging.unpacked(original, copy)
    else:
        shutil.copytree(original, copy)
    path, rng = sorted(copy.glob(pattern))[0], np.random.default_rng(0)
    change = forging.VALUE_OF_SUFFIX.get(path.suffix, forging.OF_ANY["flipped"])
    before = forging.value_of(path)
    if path.suffix == ".json" and way == "value":
        value = json.loads(path.read_bytes())
        places = [at for at in forging.paths_in(value) if "digest" not in "".join(at)]
        path.write_text(json.dumps(forging.with_other(value, places[len(places) // 2])))
    elif way == "flipped":  # in the last quarter, so that no text stays one
        content = path.read_bytes()
        at = len(content) * 3 // 4
        path.write_bytes(content[:at] + bytes([content[at] ^ 128]) + content[at + 1 :])
    else:
        (forging.OF_ANY | {"value": change})[way](path, copy, other, rng)
    found = None
    if forging.value_of(path) != before:
        names = forging.failed(sealed(copy, scratch / name, is_forged))
        found = {re.sub(r" \d+$|^class.*", "", name) or "member" for name in names}
    shutil.rmtree(copy)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("row", TABLE)
def test_the_table_of_changes_is_true(row, originals, tmp_path):
    """Each kind of change of each file is found by the check that the documentation names."""
    plain, forged = (
        [changed_by(way, row, originals, tmp_path, is_forged) for way in WAYS]
        for is_forged in (False, True)
    )
    assert all(names for names in plain if names is not None)
    for cell, by_way in zip(TABLE[row], (plain, forged[:4], forged[4:]), strict=True):
        found, names = [f for f in by_way if f is not None], {*re.findall("`(.+?)`", cell)}
        assert cell == "written anew" or all(found) == (cell != "-")
        assert not names or all(names & f for f in found)
