import errno
import gzip
import hashlib
import http.server
import io
import os
import struct
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest

from jaxae.data import published
from jaxae.data.own import arrays
from jaxae.data.published import download, formats, prepared
from jaxae.data.raw_data import Raw, to_float
from jaxae.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXAE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXAE_DATA_DIR", raising=False)
    monkeypatch.setenv("no_proxy", "*")


def idx_bytes(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def image_contents(n_train=1203, n_test=30, seed=0):
    """Four IDX files, more training rows than one block holds."""
    rng = np.random.default_rng(seed)
    arrays = []
    for n in (n_train, n_test):
        arrays += [rng.integers(0, 256, (n, 4, 5), np.uint8), np.arange(n, dtype=np.uint8) % 10]
    return [idx_bytes(array) for array in arrays]


def image_publication(contents, **changes):
    digests = tuple(hashlib.sha256(content).hexdigest() for content in contents)
    publication = published.MNIST._replace(name="tiny", content=digests)
    return publication._replace(**changes)


def write_folder(root, publication, contents, compress=True):
    folder = root / publication.name
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(publication.names, contents, strict=True):
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return root


def table_of(text):
    return np.array([line.split() for line in text.decode().splitlines()], np.float64)


def series_publication(texts):
    digests = tuple(formats.ucr_digest(table_of(text)) for text in texts)
    return published.ECG5000._replace(name="beats", content=digests)


def series_text(n, length=6, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.column_stack([rng.integers(1, 6, n), rng.normal(size=(n, length))])
    return "\n".join(" ".join(f"{value:15.7e}" for value in row) for row in rows).encode()


@pytest.fixture
def server():
    """Serve `replies` on loopback: path -> (status, body, announced length)."""
    replies = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, body, length = replies.get(self.path, (404, b"", 0))
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/", replies
        httpd.shutdown()
        thread.join()


def serve_images(replies, contents):
    for name, content in zip(published.IDX_FILES, contents, strict=True):
        body = gzip.compress(content)
        replies[f"/{name}.gz"] = (200, body, len(body))


def nothing_kept(tmp_path):
    cache = tmp_path / "cache"
    return not cache.exists() or not list(cache.iterdir())


# Formats


def sha(content):
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (0, 4, 5)])
def test_idx_round_trip(shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    content = idx_bytes(array)
    (found,) = formats.idx(content, sha(content), "f")
    np.testing.assert_array_equal(found, array if array.ndim == 1 else array[..., None])


@pytest.mark.parametrize("content", [b"", b"<html>", idx_bytes(np.zeros(3, np.uint8))[:-1]])
def test_other_content_than_the_published_is_refused(content):
    with pytest.raises(UserError, match="images differs from the published data set"):
        formats.idx(content, sha(idx_bytes(np.zeros(3, np.uint8))), "images")


def test_ucr_text():
    table = np.array([[1, 2.5, -3], [2, 4, 5]])
    x, y = formats.ucr(b"  1.0e+00  2.5 -3\n\n2,4,5\n", formats.ucr_digest(table), "f")
    np.testing.assert_array_equal(x[..., 0], table[:, 1:])
    np.testing.assert_array_equal(y, [1, 2])
    assert x.shape == (2, 2, 1)
    assert (x.dtype, y.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"1 2 3\n1 2\n", "f: the number of columns changed from 3 to 2 at row 2"),
        (b"1 2 ?\n", r"f: could not convert string '\?' to float64 at row 0, column 3;"),
        (b"\xff\xfe\x00", "f: could not convert"),
        (b"1 2 nan\n", "differs"),
        (b"1.5 2 3\n", "differs"),
        (b"\n", "differs"),
    ],
)
def test_ucr_rejects(text, says):
    with pytest.raises(UserError, match=says):
        formats.ucr(text, formats.ucr_digest(np.array([[1.0, 2, 3]])), "f")


def test_the_digest_sees_values_and_classes_but_not_order_or_trailing_digits():
    table = table_of(series_text(20))
    digest = formats.ucr_digest(table)
    order = np.random.default_rng(1).permutation(20)
    assert formats.ucr_digest(table[order]) == digest
    for column in (0, 3):
        changed = table.copy()
        changed[3, column] *= 1 + 1e-5
        assert formats.ucr_digest(changed) != digest
    assert formats.ucr_digest(np.array([[1, 0.0]])) == formats.ucr_digest(np.array([[1, -0.0]]))


# Raw files in a folder


@pytest.mark.parametrize("compress", [True, False])
def test_folder_of_images(tmp_path, compress):
    contents = image_contents()
    publication = image_publication(contents)
    write_folder(tmp_path, publication, contents, compress)
    first = published.load(publication, str(tmp_path))
    again = published.load(publication, str(tmp_path))
    assert first.x_train.shape == (1203, 4, 5, 1)
    assert first.x_test.shape == (30, 4, 5, 1)
    (images,) = formats.idx(contents[0], sha(contents[0]), "train")
    np.testing.assert_array_equal(again.x_train, images, strict=True)
    for made, kept in zip(first, again, strict=True):
        np.testing.assert_array_equal(made, kept, strict=True)


def test_folder_from_the_environment(tmp_path, monkeypatch):
    contents = image_contents(n_train=5, n_test=3)
    publication = image_publication(contents)
    write_folder(tmp_path / "raw", publication, contents)
    monkeypatch.setenv("JAXAE_DATA_DIR", str(tmp_path / "raw"))
    assert len(published.load(publication, "").x_train) == 5


def test_folder_of_series_in_any_row_order(tmp_path):
    texts = [series_text(12, seed=1), series_text(9, seed=2)]
    publication = series_publication(texts)
    mixed = [b"\n".join(text.splitlines()[::-1]) for text in texts]
    write_folder(tmp_path, publication, mixed, compress=False)
    raw = published.load(publication, str(tmp_path))
    assert raw.x_train.shape == (12, 6, 1)
    assert raw.x_train.dtype == np.float32
    np.testing.assert_array_equal(raw.train_class_id, table_of(mixed[0])[:, 0])


def break_truncated(path):
    path.write_bytes(path.read_bytes()[:-20])


def break_not_gzip(path):
    path.write_bytes(b"<html>moved</html>")


def break_magic(path):
    path.write_bytes(gzip.compress(idx_bytes(np.zeros(8, np.uint8))))


def break_content(path):
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(bytes(content)))


def break_count(path):
    path.write_bytes(gzip.compress(idx_bytes(np.zeros((2, 4, 5), np.uint8))))


def break_missing(path):
    path.unlink()


def break_missing_folder(path):
    path.parent.rename(path.parent.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (break_truncated, "truncated or damaged gzip"),
        (break_not_gzip, "not a valid gzip"),
        (break_magic, "differs from the published data set"),
        (break_content, "differs from the published data set"),
        (break_count, "differs from the published data set"),
        (break_missing, "train-images-idx3-ubyte is missing"),
        (break_missing_folder, "is missing"),
    ],
)
@pytest.mark.parametrize("prepared_before", [False, True])
def test_a_bad_file_is_one_clear_error_and_leaves_nothing(tmp_path, damage, says, prepared_before):
    contents = image_contents(n_train=20, n_test=5)
    publication = image_publication(contents)
    root = write_folder(tmp_path / "raw", publication, contents)
    if prepared_before:
        published.load(publication, str(root))
    before = set((tmp_path / "cache").glob("*"))
    damage(root / "tiny" / "train-images-idx3-ubyte.gz")
    with pytest.raises(UserError, match=says) as caught:
        published.load(publication, str(root))
    assert "train-images-idx3-ubyte" in str(caught.value)
    assert set((tmp_path / "cache").glob("*")) == before


def test_bad_series_file(tmp_path):
    texts = [series_text(4), series_text(3)]
    publication = series_publication(texts)
    write_folder(tmp_path, publication, [texts[0], texts[1].replace(b"e+00", b"e+01", 1)], False)
    with pytest.raises(UserError, match=r"ECG5000_TEST.txt (differs|has)|ECG5000_TEST.txt"):
        published.load(publication, str(tmp_path))
    assert nothing_kept(tmp_path)


def test_folder_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist.*--data\.dir or JAXAE_DATA_DIR"):
        published.load(published.MNIST, str(tmp_path / "nowhere"))


# Downloads


def test_download_prepares_once(tmp_path, server):
    url, replies = server
    contents = image_contents()
    publication = image_publication(contents, url=url)
    serve_images(replies, contents)
    first = published.load(publication, "")
    replies.clear()  # from now on the server has nothing: the cache must do
    again = published.load(publication, "")
    np.testing.assert_array_equal(first.x_train, again.x_train, strict=True)
    assert first.x_train.shape == (1203, 4, 5, 1)


def test_download_of_a_zip(server):
    url, replies = server
    texts = [series_text(12, seed=1), series_text(9, seed=2)]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in zip(published.UCR_FILES, texts, strict=True):
            archive.writestr(name, text)
        archive.writestr("README.md", "about")
    body = buffer.getvalue()
    publication = series_publication(texts)._replace(url=url + "ECG5000.zip")
    for broken, says in ((body[:-30], "not a valid zip"), (b"moved", "not a valid zip")):
        replies["/ECG5000.zip"] = (200, broken, len(broken))
        with pytest.raises(UserError, match=says):
            published.load(publication, "")
    replies["/ECG5000.zip"] = (200, body, len(body))
    with pytest.raises(UserError, match=r"holds no file 'other.txt'"):
        published.load(publication._replace(names=("other.txt", "more.txt")), "")
    assert published.load(publication, "").x_test.shape == (9, 6, 1)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ((404, b"", 0), "answered 404"),
        ((500, b"", 0), "answered 500"),
        ((200, b"\x1f\x8b only a part", 5000), "14 bytes read, 4986 more expected"),
        ((200, b"<html>sorry</html>", 18), "not a valid gzip"),
    ],
)
def test_failed_download_is_one_clear_error_and_leaves_nothing(tmp_path, server, reply, says):
    url, replies = server
    contents = image_contents(n_train=20, n_test=5)
    serve_images(replies, contents)
    replies["/t10k-labels-idx1-ubyte.gz"] = reply  # the last file: the others have arrived
    with pytest.raises(UserError, match=says) as caught:
        published.load(image_publication(contents, url=url), "")
    assert f"{url}t10k-labels-idx1-ubyte.gz" in str(caught.value)
    assert "--data.dir or JAXAE_DATA_DIR" in str(caught.value)
    assert nothing_kept(tmp_path)


def test_a_download_of_other_content_is_refused(tmp_path, server):
    url, replies = server
    publication = image_publication(image_contents(n_train=20, n_test=5), url=url)
    serve_images(replies, image_contents(n_train=20, n_test=5, seed=1))
    with pytest.raises(UserError, match=r"train-images.*differs from the published"):
        published.load(publication, "")
    assert nothing_kept(tmp_path)


def test_connection_refused_names_the_remedy(tmp_path, server):
    url, _ = server
    closed = url.rsplit(":", 1)[0] + ":1/"  # nothing listens on port 1
    with pytest.raises(UserError, match=r"connection failed.*--data\.dir or JAXAE_DATA_DIR"):
        published.load(published.MNIST._replace(url=closed), "")
    assert nothing_kept(tmp_path)


def test_a_silent_server_times_out():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(UserError, match="timed out"):
            download.fetch(f"http://127.0.0.1:{port}/x", timeout=0.2)


def test_downloads_are_pinned():
    for publication in (published.MNIST, published.FASHION_MNIST, published.ECG5000):
        assert all(len(bytes.fromhex(digest)) == 32 for digest in publication.content)
        assert len(set(publication.content)) == len(publication.names)


# Preparation


def small_raw(n=2100):
    return Raw(
        np.arange(n * 6, dtype=np.float32).reshape(n, 3, 2),
        np.arange(n, dtype=np.int32),
        np.ones((3, 3, 2), np.float32),
        np.zeros(3, np.int32),
    )


def refuse():
    raise AssertionError("the cache should have served this")


def test_prepared_data_come_back_in_order_without_reading_again(tmp_path, capfd):
    raw = small_raw()
    prepared.load("some", ["k"], lambda: raw)
    kept = prepared.load("some", ["k"], refuse)
    for one, other in zip(raw, kept, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)
    assert len(prepared.load("some", ["other key"], lambda: small_raw(5)).x_train) == 5
    assert capfd.readouterr() == ("", "")
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt, UserError("bad file"), OSError("disk full")]
)
def test_aborted_preparation_leaves_nothing(tmp_path, monkeypatch, failure):
    real = prepared._builder

    def builder(*args):
        made = real(*args)

        def write_some_and_fail(*_):
            yield 0, {"x": np.ones((2, 3, 2), np.float32), "y": np.ones(2, np.int32)}
            raise failure

        made._generate_examples = write_some_and_fail
        return made

    monkeypatch.setattr(prepared, "_builder", builder)
    expected = UserError if isinstance(failure, OSError) else (KeyboardInterrupt, UserError)
    with pytest.raises(expected):
        prepared.load("some", ["k"], small_raw)
    assert nothing_kept(tmp_path)


def test_damaged_preparation_is_made_again(tmp_path):
    raw = small_raw()
    prepared.load("some", ["k"], lambda: raw)
    (records,) = (tmp_path / "cache").glob("*/some/*/some-train*")
    os.truncate(records, records.stat().st_size // 2)
    again = prepared.load("some", ["k"], lambda: raw)
    np.testing.assert_array_equal(again.x_train, raw.x_train)
    np.testing.assert_array_equal(prepared.load("some", ["k"], refuse).x_train, raw.x_train)


def test_another_process_may_finish_first(tmp_path):
    def read_while_another_prepares():
        prepared.load("some", ["k"], small_raw)
        return small_raw()

    prepared.load("some", ["k"], read_while_another_prepares)
    assert [path.name[:5] for path in (tmp_path / "cache").iterdir()] == ["some-"]
    kept = prepared.load("some", ["k"], refuse)
    np.testing.assert_array_equal(kept.train_class_id, small_raw().train_class_id)


def test_what_a_killed_process_left_is_swept_up(tmp_path):
    left, fresh = (tmp_path / "cache" / f".preparing-some-{name}" for name in ("old", "new"))
    for folder in (left, fresh):
        folder.mkdir(parents=True)
    os.utime(left, (0, 0))
    prepared.load("some", ["k"], small_raw)
    assert not left.exists()
    assert fresh.exists()  # another process may be at work in it


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("JAXAE_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match="JAXAE_CACHE_DIR"):
        prepared.load("some", ["k"], small_raw)


def test_unreadable_file(tmp_path, monkeypatch):
    def denied(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "read_bytes", denied)
    with pytest.raises(UserError, match=r"cannot read .*x\.gz: Permission denied"):
        download.read(tmp_path / "x.gz")


def test_tensorflow_is_never_imported(tmp_path):
    contents = image_contents(n_train=20, n_test=5)
    publication = image_publication(contents)
    write_folder(tmp_path, publication, contents)
    code = (
        "import sys\n"
        "from jaxae.data import published\n"
        "assert 'tensorflow_datasets' not in sys.modules and 'sklearn' not in sys.modules\n"
        f"publication = published.MNIST._replace(name='tiny', content={publication.content!r})\n"
        f"first, again = (published.load(publication, {str(tmp_path)!r}) for _ in range(2))\n"
        "assert (first.x_train == again.x_train).all() and len(again.x_train) == 20\n"
        "assert 'tensorflow_datasets' in sys.modules and 'tensorflow' not in sys.modules\n"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# Local data


def test_digits():
    raw = published.load_digits()
    assert raw.x_train.shape[1:] == (28, 28, 1)
    assert len(raw.x_train) + len(raw.x_test) == 1797
    assert raw.x_train.min() == 0
    assert raw.x_train.max() == 1
    assert min(np.bincount(raw.test_class_id)) >= 50
    np.testing.assert_array_equal(published.load_digits().train_class_id, raw.train_class_id)


def save(path, **changes):
    arrays = {
        "x_train": np.zeros((6, 4), np.float32),
        "y_train": np.arange(6) % 3,
        "x_test": np.ones((5, 4), np.float32),
        "y_test": np.array([0, 1, 2, 0, 1]),
    }
    arrays.update(changes)
    kept = {name: array for name, array in arrays.items() if array is not None}
    np.savez(path, **kept)
    return path


@pytest.mark.parametrize(
    ("shape", "dtype", "row"),
    [
        ((3,), np.float64, (3,)),
        ((9, 2), np.float32, (9, 2)),
        ((4, 5), np.uint8, (4, 5, 1)),
        ((4, 5, 3), np.uint8, (4, 5, 3)),
        ((4, 5, 3), np.int16, (4, 5, 3)),
        ((2, 3, 4, 5), np.float32, (2, 3, 4, 5)),
        ((3,), bool, (3,)),
    ],
)
def test_npz_takes_any_shape(tmp_path, shape, dtype, row):
    x = np.ones((6, *shape), dtype)
    raw = arrays.npz(save(tmp_path / "a.npz", x_train=x, x_test=x[:5], y_train=None))
    assert raw.x_train.shape == (6, *row)
    assert raw.train_class_id is None
    assert to_float(raw.x_train).dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x_test": None}, "lacks x_test, the rows of y_test"),
        ({"x_train": None, "x_test": None}, "lacks x_train"),
        ({"X_TRAIN": np.ones((6, 4))}, "both x_train and X_TRAIN"),
        ({"x_train": np.array([[1], [1, 2]], dtype=object)}, "x_train: it holds object arrays"),
        ({"y_test": np.array(list("abcde"), object)}, "y_test: it holds object arrays"),
        ({"x_train": np.ones(6, [("a", "f4"), ("b", "i4")])}, "x_train has the type.*real numbers"),
        ({"x_train": np.array([["a"]])}, "real numbers"),
        ({"x_train": np.ones((2, 4), complex)}, "real numbers"),
        ({"x_train": np.ones(4)}, r"shape \(4,\)"),
        ({"x_train": np.ones((0, 4))}, r"shape \(0, 4\)"),
        ({"x_test": np.full((5, 4), [1, 1, np.nan, 1], np.float32)}, "x_test holds NaN.*in row 0"),
        ({"x_train": np.full((6, 4), np.inf)}, "NaN or infinite"),
        ({"x_test": np.ones((5, 3), np.float32)}, "need the same shape"),
        (
            {"x_train": np.ones((6, 4, 4)), "x_test": np.ones((5, 4, 4), np.uint8)},
            "need the same shape",
        ),
        ({"y_test": np.zeros(4, int)}, r"must be \(5,\)"),
        ({"y_train": np.zeros((6, 1), int)}, r"y_train .*must be \(6,\).*save y.ravel\(\)"),
        ({"y_test": np.eye(5)}, r"y_test .*must be \(5,\).*save y.argmax\(axis=1\)"),
        ({"y_test": np.array([0.5, 0, 0, 0, 0])}, "whole numbers"),
        ({"y_test": np.array([np.nan, 0, 0, 0, 0])}, "whole numbers"),
        ({"y_test": np.ones(5, "M8[s]")}, "y_test has the type.*whole numbers"),
    ],
)
def test_npz_rejects(tmp_path, changes, says):
    path = save(tmp_path / "a.npz", **changes)
    with pytest.raises(UserError, match=says) as caught:
        arrays.npz(path)
    assert str(path) in str(caught.value)


def test_npz_file_that_is_none(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(UserError, match=r"not a readable \.npz.*No such file"):
        arrays.npz(path)
    path.write_text("text")
    with pytest.raises(UserError, match=r"not a readable \.npz"):
        arrays.npz(path)
    with (tmp_path / "b.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(UserError, match=r"not a readable \.npz"):
        arrays.npz(tmp_path / "b.npz")
    good = save(tmp_path / "c.npz")
    content = bytearray((tmp_path / "c.npz").read_bytes())
    (tmp_path / "cut.npz").write_bytes(content[:-50])
    with pytest.raises(UserError, match=r"not a readable \.npz"):
        arrays.npz(tmp_path / "cut.npz")
    at = content.index(b"NUMPY") + 130  # inside the first array's values
    content[at] ^= 255
    (tmp_path / "flipped.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"not a readable \.npz"):
        arrays.npz(tmp_path / "flipped.npz")
    assert len(arrays.npz(good).x_train) == 6


# The real data


@pytest.mark.parametrize(
    "publication", [published.MNIST, published.FASHION_MNIST], ids=lambda s: s.name
)
def test_real_images(data_dir, publication):
    first, again = (published.load(publication, str(data_dir)) for _ in range(2))
    assert first.x_train.shape == (60000, 28, 28, 1)
    assert first.x_test.shape == (10000, 28, 28, 1)
    np.testing.assert_array_equal(first.x_train, again.x_train, strict=True)
    np.testing.assert_array_equal(first.test_class_id, again.test_class_id, strict=True)
    assert set(first.train_class_id) == set(range(10))


def test_real_ecg(data_dir):
    raw = published.load(published.ECG5000, str(data_dir))
    assert raw.x_train.shape == (500, 140, 1)
    assert raw.x_test.shape == (4500, 140, 1)
    counts = np.bincount(np.concatenate([raw.train_class_id, raw.test_class_id]), minlength=6)
    assert counts.tolist() == [0, 2919, 1767, 96, 194, 24]
