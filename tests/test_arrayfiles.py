"""Files of anybody's: read as they are, or refused in one line, whatever is in them."""

import pickle
import struct
import zipfile

import numpy as np
import pytest

from jaxae.data import arrayfiles
from jaxae.errors import UserError

ARRAYS = {
    "empty": np.zeros((0, 3)),
    "row-major": np.arange(6, dtype=np.int32).reshape(2, 3),
    "column-major": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "scalar": np.float32(3),
    "text": np.array(["a", "bc"]),
    "records": np.zeros(3, [("x", "f4")]),
    "big-endian": np.arange(3, dtype=">f4"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_as_it_was(name, tmp_path):
    x = ARRAYS[name]
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", only=x)
    np.savez_compressed(tmp_path / "z.npz", other=np.ones(2), x_test=x)
    for path in tmp_path.iterdir():
        found = arrayfiles.read_rows(path)
        assert found.dtype == x.dtype
        np.testing.assert_array_equal(found, x)


def refused(path):
    with pytest.raises(UserError) as caught:
        arrayfiles.read_rows(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_that_is_read_runs(tmp_path):
    trap = np.array([Trap(tmp_path / "sprung")], object)
    np.save(tmp_path / "x.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "x.npz", trap, allow_pickle=True)
    (tmp_path / "y.npy").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    for name in ("x.npy", "x.npz", "y.npy"):
        refused(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def header(text):
    """A .npy file with a header of one's own and eight bytes of values."""
    text = text.encode().ljust(118 - 10) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(8)


HEADERS = {
    "huge": "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }",
    "overflowing": "{'descr': '<f8', 'fortran_order': False, 'shape': (2**62, 2**62), }",
    "negative": "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
    "too small": "{'descr': '<f8', 'fortran_order': False, 'shape': (0,), }",
    "not a tuple": "{'descr': '<f8', 'fortran_order': False, 'shape': 1, }",
    "code": "{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (1,), }",
    "open string": "{'descr': '<f8",
    "brackets": "(" * 100,
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_is_held_against_the_bytes_that_there_are(name, tmp_path):
    (tmp_path / "x.npy").write_bytes(header(HEADERS[name]))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.write(tmp_path / "x.npy", "x.npy")
    for path in (tmp_path / "x.npy", tmp_path / "x.npz"):
        assert "not a readable" in refused(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.txt", b"1,2"), ("x", b""), ("x.npy", b""), ("x.npz", b""), ("x.csv", b"1,2")],
)  # fmt: skip
def test_other_files_are_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name)


def test_folders_missing_files_and_many_arrays_are_refused(tmp_path):
    (tmp_path / "x.npy").mkdir()
    refused(tmp_path / "x.npy")
    refused(tmp_path / "y.npz")
    np.savez(tmp_path / "z.npz", a=np.ones(2), b=np.ones(3))
    assert "a, b" in refused(tmp_path / "z.npz")
    with zipfile.ZipFile(tmp_path / "none.npz", "w"):
        pass
    assert "nothing" in refused(tmp_path / "none.npz")
