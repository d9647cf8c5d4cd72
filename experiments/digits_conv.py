"""The main job that needs no download: zeros among scikit-learn's 1,797 handwritten digits.

    python -m experiments.digits_conv [--data.normal DIGIT]

A small denoising convolutional autoencoder on 99 zeros, scored by the blurred, energy-normalised
error, threshold at the 0.95 quantile of 25 held-out zeros. 2 CPU cores (Xeon, AVX-512; shared, so
wall times are upper bounds), jax 0.10.2, float32: 8 s, of which most is compilation and figures.
Over seeds 0, 1, 2: AUROC 1.0000 +- .0000 for digit 0 against the rest. With every digit as the
normal one in turn (seed 0) the mean is .995, the lowest .983. An epoch takes less time than scoring
the test rows after each, so they are not monitored; `--train.monitor` shows what the choice of an
epoch is worth.
"""

from jaxae.cli.train import main
from jaxae.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    ThresholdConfig,
    TrainConfig,
)

CONFIG = ExperimentConfig(
    name="digits_conv",
    method="conv",
    score="blurred_energy",
    studies=("verdicts", "residuals", "severity"),
    data=DataConfig(name="digits", normal=(0,), valid_fraction=0.2),
    model=ModelConfig(latent=8, filters=(16, 32)),
    optim=OptimConfig(lr=3e-3),
    train=TrainConfig(epochs=200, batch_size=32, loss="mse", noise_std=0.3, checkpoint_every=50),
    threshold=ThresholdConfig(rule="quantile:0.95"),
)

if __name__ == "__main__":
    main(CONFIG)
