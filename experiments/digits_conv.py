"""digits."""

from jaxae.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    ThresholdConfig,
    TrainConfig,
)
from jaxae.experiment import main

CONFIG = ExperimentConfig(
    name="digits_conv",
    method="conv",
    score="blurred_energy",
    studies=("verdicts", "severity"),
    data=DataConfig(name="digits", normal=(0,), valid_fraction=0.2),
    model=ModelConfig(latent=8, filters=(16, 32)),
    optim=OptimConfig(lr=3e-3),
    train=TrainConfig(epochs=200, batch_size=32, loss="mse", noise_std=0.3, checkpoint_every=50),
    threshold=ThresholdConfig(rule="quantile:0.95"),
)

if __name__ == "__main__":
    main(CONFIG)
