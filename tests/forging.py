"""Changes that befall files, by accident or by intention, and whether `jaxae verify` finds them."""

import collections
import contextlib
import json
import re
import shutil
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from jaxae.data.arrayfiles import read_npz
from jaxae.errors import UserError
from jaxae.export import loader
from jaxae.storage import disk, manifest
from jaxae.workflows import verification

# A change takes the file, the folder that is verified, that of another run, and a generator.


def _one(things, rng):
    return [*things][int(rng.integers(len(things)))]


def _bytes(alter):
    def change(path, root, other, rng):
        path.write_bytes(alter(path.read_bytes(), rng))

    return change


def _at(content, rng):
    return int(rng.integers(max(len(content), 1)))


def _flipped(content, rng):
    at = _at(content, rng)
    return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]


def _inserted(content, rng):
    at = _at(content, rng)
    return content[:at] + bytes([int(rng.integers(256))]) + content[at:]


def _shortened(content, rng):
    at = _at(content, rng)
    return content[:at] + content[at + 1 :]


def _deleted(path, root, other, rng):
    path.unlink()


def _to_folder(path, root, other, rng):
    path.unlink()
    path.mkdir()


def _to_nowhere(path, root, other, rng):
    path.unlink()
    path.symlink_to(root / "nowhere")


def _others(path, root, other, rng):
    """Replaced by the file of this name, or else this kind, of another run."""
    name = path.relative_to(root)
    alike = [p for p in files_of(other) if p.suffix == path.suffix] or files_of(other)
    shutil.copy(_one([other / name] if (other / name).is_file() else alike, rng), path)


def _swapped(path, root, other, rng):
    """Exchanged with a file of the same kind, if there is one."""
    files = [p for p in files_of(root) if p != path]
    to = _one([p for p in files if p.suffix == path.suffix] or files, rng)
    mine, theirs = path.read_bytes(), to.read_bytes()
    path.write_bytes(theirs)
    to.write_bytes(mine)


def _beside(path, root, other, rng):
    """A copy of a file in the same folder, under another name."""
    shutil.copy(path, path.with_name(f"copy of {path.name}"))


def json_value(value, rng):
    """A JSON value with one part of it changed, at any depth."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.9:
        at = _one(value, rng) if isinstance(value, dict) else _at(value, rng)
        changed = value.copy()
        changed[at] = json_value(value[at], rng)
        return changed
    if isinstance(value, dict):
        dropped = dict([*value.items()][:-1])
        return _one([dropped, value | {"more": 1}, *[None][: len(value)]], rng)
    if isinstance(value, list):
        return _one([value[:-1], [*value, 1], value[::-1]], rng)
    if isinstance(value, bool) or value is None:
        return _one([not value, 0, "no"], rng)
    if isinstance(value, (int, float)):
        return _one([value + 1, -value, value * 1.001, str(value), None], rng)
    return _one([f"{value} ", value[1:], 3, None], rng)


def paths_in(value, at=()):
    """Where the values of a JSON value are, those of lists as one."""
    if not isinstance(value, dict):
        return [at]
    return [path for name in value for path in paths_in(value[name], (*at, name))]


def with_other(value, at):
    """A JSON value in which one part is another that looks as right."""
    if at:
        return value | {at[0]: with_other(value[at[0]], at[1:])}
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, list):
        return [*value, *value[-1:]] or ["more"]
    if isinstance(value, str):
        return f"{value}x"
    return value * 1.01 + 0.01 if value % 1 else value + 1


def _json(path, root, other, rng):
    path.write_text(json.dumps(json_value(json.loads(path.read_bytes()), rng), indent=2) + "\n")


def _line(path, root, other, rng):
    """A line of JSON Lines left out, written twice, moved to the end, or changed."""
    lines = path.read_text().splitlines(keepends=True)
    at = _at(lines, rng)
    ways = (
        [],
        [lines[at]] * 2,
        [json.dumps(json_value(json.loads(lines[at]), rng)) + "\n"],
    )
    way = int(rng.integers(4))
    if way < 3:
        lines[at : at + 1] = ways[way]
    else:
        lines.append(lines.pop(at))
    path.write_text("".join(lines))


def array_value(x, rng):
    """An array with one value, its shape or its type changed."""
    way = int(rng.integers(3)) if x.size else 1
    if way == 1:
        return np.concatenate([x.ravel(), x.ravel()[:1]]) if x.size else np.zeros(1, x.dtype)
    if way == 2:
        return (
            x.astype(np.float64 if x.dtype != np.float64 else np.float32, copy=False)
            if (x.dtype.kind in "fiub")
            else x.astype("S")
        )
    x = x.copy()
    at = np.unravel_index(int(rng.integers(x.size)), x.shape)
    x[at] = ~x[at] if x.dtype == bool else f"{x[at]}."[1:] if x.dtype.kind in "US" else x[at] + 1
    return x


def _arrays(path, root, other, rng):
    """An array of an .npz changed, left out, added, or under the name of another."""
    with np.load(path) as stored:
        arrays = dict(stored)
    names = [*arrays]
    one, another = (names[int(i)] for i in rng.integers(len(names), size=2))
    way = int(rng.integers(6))
    if way == 0:
        del arrays[one]
    elif way == 1:
        arrays["more"] = np.ones(2)
    elif way == 2 and one != another:
        arrays[one], arrays[another] = arrays[another], arrays[one]
    else:
        arrays[one] = array_value(arrays[one], rng)
    with path.open("wb") as file:
        np.savez(file, **arrays)


def text(name, content):
    """A change of a folder: the content of a file."""
    return lambda folder: (folder / name).write_text(content)


def gone(name):
    """A change of a folder: without a file, or a folder in it."""
    return lambda folder: (shutil.rmtree if (folder / name).is_dir() else Path.unlink)(
        folder / name
    )


def values(name, *at, value):
    """A change of a folder: one value in a JSON file."""

    def change(folder):
        content = part = json.loads((folder / name).read_text())
        for key in at[:-1]:
            part = part[key]
        part[at[-1]] = value
        (folder / name).write_text(json.dumps(content))

    return change


def arrays(name, **edits):
    """A change of a folder: some arrays in an .npz."""

    def change(folder):
        stored = read_npz(folder / name)
        changed = {key: edit(stored[key]) for key, edit in edits.items()}
        np.savez(folder / name, **stored | changed)

    return change


OF_ANY = {
    "flipped": _bytes(_flipped),
    "inserted": _bytes(_inserted),
    "shortened": _bytes(_shortened),
    "truncated": _bytes(lambda content, rng: content[: _at(content, rng)]),
    "emptied": _bytes(lambda content, rng: b""),
    "deleted": _deleted,
    "to folder": _to_folder,
    "to nowhere": _to_nowhere,
    "another's": _others,
    "swapped": _swapped,
    "copied": _beside,
}
VALUE_OF_SUFFIX = {".json": _json, ".jsonl": _line, ".npz": _arrays}  # changes of one value


def reseal(folder):
    """Write all digests in a folder anew, so that only what is computed again can tell."""
    for path in folder.rglob(manifest.DIGESTS):
        with contextlib.suppress(ValueError, OSError, AttributeError):
            names = [n for n in json.loads(path.read_bytes()) if (path.parent / n).is_file()]
            disk.write_json(path, {name: disk.digest_of(path.parent / name) for name in names})
    for sealed in (*folder.glob("members/*"), folder):
        manifest.seal(sealed, [path.name for path in sealed.glob("*.md")])


def files_of(root):
    """The files below a folder, but the hidden ones, such as locks."""
    return sorted(p for p in root.rglob("*") if p.is_file() and p.name[0] != ".")


def change(root, other, rng):
    """Change one file below a folder in some way; returns what was done."""
    path = _one(files_of(root), rng)
    value = VALUE_OF_SUFFIX.get(path.suffix)
    kind = "value" if value and rng.random() < 0.5 else _one(OF_ANY, rng)
    (OF_ANY | {"value": value})[kind](path, root, other, rng)
    return f"{path.relative_to(root)} {kind}"


def value_of(path):
    """What a file says: the arrays of an .npz that can be read, else its bytes."""
    if path.suffix == ".npz" and path.is_file():
        with contextlib.suppress(Exception), np.load(path) as stored:
            return {name: (x.dtype.str, x.shape, x.tobytes()) for name, x in stored.items()}
    return path.read_bytes() if path.is_file() else None


def content(root):
    """All that is below a folder, by name."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else path.is_symlink()
        for path in root.rglob("*")
    }


def entries(path):
    """The names and contents of a zip's entries; None if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as zipped:
            return sorted((info.filename, zipped.read(info)) for info in zipped.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error, EOFError):
        return None


def unpacked(path, folder):
    """The folder, with the entries of a zip as files."""
    with zipfile.ZipFile(path) as zipped:
        zipped.extractall(folder)
    return folder


def pack(path, folder, first=()):
    """Write a zip of some entries, then of the files in a folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, part in first:
            zipped.writestr(name, part)
        for file in files_of(folder):
            zipped.write(file, file.relative_to(folder))


def reseal_export(folder):
    """Write all digests of an unpacked export anew."""
    path = folder / loader.MANIFEST
    with contextlib.suppress(ValueError, OSError, TypeError, KeyError):
        said = json.loads(path.read_bytes())
        names = [n for n in said["digests"] if (folder / n).is_file()]
        said["digests"] = {name: disk.digest_of(folder / name) for name in names}
        path.write_bytes(loader.as_text(said | {"digest": loader.digest_of(said)}))


def change_export(path, other, rng, scratch):
    """Change a .zip, its bytes or an entry; returns what was done."""
    if rng.random() < 0.3:
        kind = _one(["flipped", "inserted", "shortened", "truncated", "emptied"], rng)
        OF_ANY[kind](path, path.parent, other, rng)
        return f"whole {kind}"
    before = entries(path)
    mine = unpacked(path, scratch / "mine")
    what = change(mine, unpacked(other, scratch / "others"), rng)
    is_twice = rng.random() < 0.2  # beside the entries that they stand for
    pack(path, mine, before if is_twice else ())
    return f"{what} and twice" if is_twice else what


def failed(path):
    """The names of the checks that fail; a `UserError` fails them all, anything else the test.

    Of an export, and of a folder without a manifest, what is not checked has not passed either.
    """
    try:
        checks = verification.verify(path)
    except UserError as error:
        checks = [verification.Check("refused", "FAILED", str(error))]
    assert not any("\n" in check.words for check in checks)
    found = [check.name for check in checks if check.outcome == "FAILED"]
    is_sealed = (path / manifest.NAME).is_file()
    return found or [check.name for check in checks if not is_sealed and not check.ok]


def tally_of(original, other, count, seed, scratch):
    """How often each check found one of many random changes of a copy; "same": changed nothing."""
    tally, copy = collections.Counter(), scratch / original.name
    for i in range(count):
        scratch.mkdir()
        rng = np.random.default_rng([seed, i])
        if original.is_dir():
            before = content(shutil.copytree(original, copy))
            what, now = change(copy, other, rng), content(copy)
        else:
            before = entries(shutil.copy(original, copy))
            what, now = change_export(copy, other, rng, scratch), entries(copy)
        if is_same(before, now):
            tally["same"] += 1
        else:
            names = failed(copy)
            assert names, f"{original.name}: {what} is not found (change {i} of seed {seed})"
            tally.update(names)
        shutil.rmtree(scratch)
    return tally


def is_same(before, now):
    """Whether all is as it was, but for a file of the user's beside those of the run."""
    if isinstance(before, list) or not now:
        return before == now
    more = now.keys() - before.keys()
    are_users = [re.fullmatch(r"(members/[^/]+/)?copy of [^/]+", name) for name in more]
    return all(are_users) and now == before | {name: now[name] for name in more}
