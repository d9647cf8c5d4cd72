"""The command line of an experiment; light, so that it is on guard before anything is loaded."""

from jaxae.config import ExperimentConfig, parse_cli
from jaxae.errors import user_errors


def main(default: ExperimentConfig, args: list[str] | None = None) -> dict:
    """Parse, run, report; see `jaxae.errors.user_errors` for what happens to errors.

    Args:
      default: what is not named on the command line.
      args: None = those of the process.
    """
    with user_errors():
        cfg = parse_cli(default, args)
        from jaxae import compiled, experiment  # takes a second, in which minds are changed

        compiled.keep()
        return experiment.run(cfg)
