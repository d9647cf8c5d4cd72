"""Dense autoencoder on ECG5000."""

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
    name="ecg_dense",
    method="dense",
    score="mae",
    studies=("scores_compared", "beats", "severity"),
    data=DataConfig(
        name="ecg5000", normal=(1,), split="random", split_seed=21, valid="test", scale="minmax"
    ),
    model=ModelConfig(latent=8, hidden=(32, 16), code_activation="relu"),
    optim=OptimConfig(name="keras_adam", lr=1e-3, eps=1e-7),
    train=TrainConfig(epochs=20, batch_size=512, loss="mae"),
    threshold=ThresholdConfig(rule="mean_std:1", on="train"),
)

if __name__ == "__main__":
    main(CONFIG)
