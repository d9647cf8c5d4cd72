"""A thousand mutations of every format that is read: an array within the file's bytes, or one line.

`JAXAE_FUZZ=10000` asks for more of them.
"""

import gzip
import os
import struct

import numpy as np
import pytest

from jaxae.data import arrayfiles
from jaxae.data.own import arrays, files
from jaxae.data.own.schema import Schema
from jaxae.data.published import download
from jaxae.errors import UserError

MUTATIONS = int(os.environ.get("JAXAE_FUZZ", "1000"))
X = np.random.default_rng(0).random((5, 3), np.float32)


def npy(path):
    np.save(path, X)


def npz(path):
    np.savez(path, x_test=X)


def compressed(path):
    np.savez_compressed(path, x_test=X)


def data_set(path):
    np.savez(path, x_train=X, x_test=X[:2], y_test=np.arange(2))


def csv(path):
    np.savetxt(path, X, delimiter=",", header="a,b,c", comments="")


def gzipped(path):
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", 9) + bytes(9), mtime=0))


def rows(path):
    return [arrayfiles.read_rows(path)]


def raw(path):
    return [part for part in arrays.npz(path) if isinstance(part, np.ndarray)]


FORMATS = {
    "x.npy": (npy, rows),
    "x.npz": (npz, rows),
    "z.npz": (compressed, rows),
    "set.npz": (data_set, raw),
    "x.csv": (csv, lambda path: [files.rows(path, Schema()).x]),
    "labels.gz": (gzipped, lambda path: [np.frombuffer(download.read(path), np.uint8)]),
}


def mutated(whole, generator):
    """A few bytes changed, doubled or lost, or an end cut off."""
    content = bytearray(whole)
    for _ in range(generator.integers(1, 4)):
        at = generator.integers(len(content))
        match generator.integers(4):
            case 0:
                content[at] ^= 1 << generator.integers(8)
            case 1:
                del content[at : at + generator.integers(1, 4)]
            case 2:
                content[at:at] = generator.bytes(generator.integers(1, 4))
            case 3:
                content[at] = generator.integers(256)
        content = content or bytearray(1)
    return content[: generator.integers(len(content))] if generator.random() < 0.2 else content


@pytest.mark.filterwarnings("ignore")  # of numpy and Python, about headers that they mend
@pytest.mark.parametrize("name", FORMATS)
def test_mutations_are_read_within_their_bytes_or_refused(name, tmp_path):
    write, read = FORMATS[name]
    path, generator = tmp_path / name, np.random.default_rng(len(name))
    write(path)
    assert all(np.isfinite(array).all() for array in read(path))
    whole, ended = path.read_bytes(), {"read": 0, "refused": 0}
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(whole, generator))
        try:
            found = read(path)
        except UserError as error:
            said, found = str(error), []
        else:
            said = ""
        assert "\n" not in said
        assert all(array.nbytes <= 64 * len(whole) for array in found)
        ended["refused" if said else "read"] += 1
    assert ended["refused"]
    assert ended["read"] or name.endswith("gz")  # a gzip file says of every byte that it is wrong
