"""An experiment without a download: detect non-zeros in scikit-learn's 1,797 handwritten digits.

    python -m experiments.digits_conv [--data.normal DIGIT]

A small denoising convolutional autoencoder is trained on 99 zeros. The score is the blurred,
energy-normalised error, the threshold the 0.95 quantile of 25 held-out zeros. Takes 8 s, mostly
compilation and figures, on 2 shared CPU cores (Xeon, AVX-512), jax 0.10.2, float32.

Over seeds 0, 1, 2: AUROC 1.0000 +- .0000 for digit 0 against the rest. With every digit as the
normal one in turn (seed 0), the mean is .995 and the lowest .983. Test rows are not scored after
each epoch, which would take longer than the epoch; use `--train.monitor` to see how the AUROC
depends on the chosen epoch.
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
