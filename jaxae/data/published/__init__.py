"""Published data sets: their files, addresses, and the digests of their content.

`download` fetches bytes, `formats` verifies and parses them, `prepared` stores the result as a TFDS
data set. scikit-learn's digits need none of these.
"""

import io
import itertools
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxae.data.published import download, formats, prepared
from jaxae.data.raw_data import Raw
from jaxae.errors import Missing, UserError

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
UCR_FILES = ("ECG5000_TRAIN.txt", "ECG5000_TEST.txt")
_SIDE = 28  # pixels of the resized digits
_TEST = 0.3  # about 54 test digits per class, enough for a steady AUROC


class Publication(NamedTuple):
    """One published data set.

    Attributes:
      name: its name, also that of its folder.
      url: the prefix of the files' addresses; for ECG5000 the address of the whole archive.
      names: files in the order train, test (images before labels).
      content: the SHA-256 of each file's content: for IDX files of the decompressed bytes, for UCR
        files of the rows as a set (`formats.ucr_digest`).
      fetch: `(publication) -> contents`, by download, in the order of `names`.
      parse: `(content of a file, its digest, its name in errors) -> arrays`, verified; the arrays
        of all files are the first fields of `Raw`.
      normal: the classes that are normal by nature of the data; () = any class may be.
    """

    name: str
    url: str
    names: tuple[str, ...]
    content: tuple[str, ...]
    fetch: Callable[["Publication"], list[bytes]]
    parse: Callable[[bytes, str, str], tuple[np.ndarray, ...]]
    normal: tuple[int, ...] = ()


def load(publication: Publication, folder: str) -> Raw:
    """The data set's arrays, prepared with TFDS on first use.

    Args:
      publication: which data set.
      folder: contains a sub-folder `publication.name` with the raw files; "" = $JAXAE_DATA_DIR, or
        download if that is not set either.

    Raises:
      UserError: a file is missing, damaged or not the published one, or the download fails.
    """
    folder = folder or os.environ.get("JAXAE_DATA_DIR", "")
    key: tuple = (publication.content,)
    if folder:
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise Missing(f"the data folder {root} does not exist; {download.REMEDY}")
        paths = [download.find(root / publication.name, name) for name in publication.names]
        # A file that changes in size or time gets a new key, so it is read and verified again.
        key += ([(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in paths],)
        titles = [str(path) for path in paths]
    else:
        titles = [f"{name} from {publication.url}" for name in publication.names]

    def read() -> Raw:
        contents = [download.read(p) for p in paths] if folder else publication.fetch(publication)
        arrays = map(publication.parse, contents, publication.content, titles)
        return Raw(*itertools.chain.from_iterable(arrays))

    return prepared.load(publication.name, key, read)._replace(normal=publication.normal)


def load_digits() -> Raw:
    """scikit-learn's bundled 1,797 handwritten digits, resized to [28, 28, 1] in [0, 1].

    Values / 16 (Alpaydin and Kaynak, UCI optical recognition of handwritten digits), enlarged from
    8 x 8 by bilinear interpolation between pixel centres. The bundle has no official split: 30 % of
    every class are the test rows, drawn with a fixed seed, in the order of the bundle.
    """
    from scipy.ndimage import zoom
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    bunch = datasets.load_digits()
    factors = (1, *(_SIDE / side for side in bunch.images.shape[1:]))
    x = zoom(bunch.images / 16, factors, order=1, mode="nearest", grid_mode=True)
    x = np.clip(x, 0, 1).astype(np.float32)[..., None]
    y = bunch.target.astype(np.int32)
    rows = train_test_split(np.arange(len(y)), test_size=_TEST, random_state=0, stratify=y)
    train, test = map(np.sort, rows)
    return Raw(x[train], y[train], x[test], y[test], normal=(0,))


def _fetch_idx(publication: Publication) -> list[bytes]:
    urls = [f"{publication.url}{name}.gz" for name in publication.names]
    return [download.gunzip(download.fetch(url), url) for url in urls]


def _fetch_ucr(publication: Publication) -> list[bytes]:
    body = download.fetch(publication.url)
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = {Path(name).name: name for name in archive.namelist()}
            return [archive.read(members[name]) for name in publication.names]
    except KeyError as error:
        problem = f"holds no file {error}"
    except zipfile.BadZipFile as error:
        problem = f"is not a valid zip file ({error})"
    raise UserError(f"{publication.url} {problem}; {download.REMEDY}")


MNIST = Publication(
    name="mnist",  # LeCun, Cortes and Burges, 1998; CC BY-SA 3.0
    url="https://storage.googleapis.com/cvdf-datasets/mnist/",
    names=IDX_FILES,
    content=(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    fetch=_fetch_idx,
    parse=formats.idx,
)

FASHION_MNIST = Publication(
    name="fashion_mnist",  # Xiao, Rasul and Vollgraf, arXiv:1708.07747; MIT
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    names=IDX_FILES,
    content=(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    fetch=_fetch_idx,
    parse=formats.idx,
)

ECG5000 = Publication(
    # PhysioNet BIDMC congestive heart failure, 140 values a beat; UCR archive; ODC-By. The row
    # order of copies differs, and with it the rows that a random split draws.
    name="ecg5000",
    url="https://www.timeseriesclassification.com/aeon-toolkit/ECG5000.zip",
    names=UCR_FILES,
    content=(
        "e4ce13fb08105cf080d5473e585991b5de91b74eb9bc7e033b5e233730d503f3",
        "f9606506c0955fa28d43e7c8df9aa4ef0d0719c26c773f908e57f37e947ec2f8",
    ),
    fetch=_fetch_ucr,
    parse=formats.ucr,
    normal=(1,),
)
