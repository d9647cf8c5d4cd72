"""S4."""

import sys
from dataclasses import replace

from jaxae.config import (
    DataConfig,
    ExperimentConfig,
    OptimConfig,
    ThresholdConfig,
    TrainConfig,
)
from jaxae.experiment import main

CONFIG = ExperimentConfig(
    name="mnist_alocc",
    method="alocc",
    score="mse",
    studies=("scores_compared", "epoch_scores", "verdicts"),
    data=DataConfig(name="mnist", normal=(1,), balance=True),
    optim=OptimConfig(name="rmsprop", lr=2e-4, lr_discriminator=1e-4, eps=1e-7),
    train=TrainConfig(epochs=20, batch_size=128, noise_std=0.155, monitor=True),
    threshold=ThresholdConfig(rule="quantile:0.95"),
)
# The tutorial scores by D(R(x)).
FAITHFUL = replace(CONFIG, name="mnist_alocc_faithful", variant="faithful", score="d_of_r")

if __name__ == "__main__":
    main(FAITHFUL if "faithful" in sys.argv else CONFIG)
