"""ECG5000 without held-out rows: all normal beats are used for training and calibration (CV+).

    python -m experiments.ecg_cross --data.dir DIR [--folds 10] [--bags 20] [--alpha 0.05]

A dense autoencoder is trained for each of ten folds, all in one program; a beat is flagged if its
p-value is at most alpha. `--bags 20` uses twenty bootstrap samples instead of folds
(jackknife+-after-bootstrap). The table shows the false-positive rate and its proved bound.
"""

from jaxae.cli.train import main
from jaxae.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from jaxae.config.grids import CrossConfig

CONFIG = CrossConfig(
    name="ecg_cross",
    method="dense",
    score="mse",
    data=DataConfig(name="ecg5000", normal=(1,), split="random"),
    model=ModelConfig(latent=4, hidden=(64, 32), activation="tanh", output_activation="linear"),
    optim=OptimConfig(lr=1e-3),
    train=TrainConfig(epochs=200, batch_size=128),
)

if __name__ == "__main__":
    main(CONFIG)
