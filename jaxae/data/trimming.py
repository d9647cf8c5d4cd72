"""Leaving out training rows that are taken as normal but unlike the others, before training.

Only rows decide, no model of the run: a pure function, as the splits are. On tables of ADBench this
was better than leaving out the rows with the largest distance to a neighbour or the largest
out-of-fold score of a first training.
"""

import numpy as np
from jaxtyping import Float, Int

from jaxae.data import sources
from jaxae.data.raw_data import numbers
from jaxae.errors import UserError
from jaxae.types import Source

_ROUNDS = 5
_FOLDS = 5
_SAMPLE = 10_000  # rows that the components are fitted on
_COMPONENTS = 32  # at most, as many as the largest automatic code


def kept(x: Source, rows: Int[np.ndarray, " N"], share: float, seed: int) -> Int[np.ndarray, " K"]:
    """The rows without the share that the others explain worst, in their original order.

    Rows are standardised and compared with their projection on the principal components of the
    rows that are kept, without those of the same fifth: else a single row far from the others would
    have a component of its own. The rows with the largest errors are left out, in five rounds.

    Args:
      x: rows by index; [N, *S].
      rows: positions of the rows to choose from.
      share: the share to leave out.
      seed: of the components, which large rows need.

    Raises:
      UserError: fewer than ten rows would be left.
    """
    count = round(share * len(rows))
    if count and len(rows) - count < 2 * _FOLDS:
        raise UserError(
            f"data.contamination {share:g} of {len(rows)} rows leaves fewer than {2 * _FOLDS}; "
            "use --data.contamination 0, and remove bad rows yourself"
        )
    is_kept, fold = np.ones(len(rows), bool), np.arange(len(rows)) % _FOLDS
    for _ in range(_ROUNDS if count else 0):
        errors = np.empty(len(rows))
        for part in np.unique(fold):
            others = rows[is_kept & (fold != part)]
            errors[fold == part] = _errors(x, rows[fold == part], others, seed)
        is_kept[:] = True
        is_kept[np.argsort(errors, kind="stable")[len(rows) - count :]] = False
    return rows[is_kept]


def _errors(x: Source, rows: np.ndarray, others: np.ndarray, seed: int) -> Float[np.ndarray, " N"]:
    """The mean squared error of rows projected on the principal components of other rows."""
    from sklearn.decomposition import PCA

    some = others[np.unique(np.linspace(0, len(others) - 1, _SAMPLE).astype(int))]
    fitted_on = _flat(x[some])
    mean, std = fitted_on.mean(axis=0), fitted_on.std(axis=0)
    std[std == 0] = 1.0
    values = fitted_on.shape[1]
    components = min(_COMPONENTS, max(1, values // 4), len(some) - 1)
    pca = PCA(components, random_state=seed).fit((fitted_on - mean) / std)
    errors = []
    for block in sources.blocks(sources.view(x, rows, _flat, (values,))):
        z = (block - mean) / std
        errors.append(np.square(z - pca.inverse_transform(pca.transform(z))).mean(axis=1))
    return np.concatenate(errors)


def _flat(x: np.ndarray) -> Float[np.ndarray, "N F"]:
    return numbers(x).reshape(len(x), -1).astype(np.float64)
