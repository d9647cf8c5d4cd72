"""Estimators of scikit-learn: arrays in, decisions out, no files.

`autoencoder` trains a model of this library, `wrapped` takes a detector of another one; `decisions`
has what they share, from scores to decisions.
"""

from jaxae.estimators.autoencoder import AutoencoderDetector
from jaxae.estimators.wrapped import WrappedDetector, wrap

__all__ = ["AutoencoderDetector", "WrappedDetector", "wrap"]
