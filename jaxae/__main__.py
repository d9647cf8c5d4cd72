"""The command `jaxae`, also as `python -m jaxae`: on guard before anything is loaded."""

from jaxae.errors import user_errors


def main() -> None:
    """Entry point; see `jaxae.cli.main`."""
    with user_errors():
        from jaxae.cli import main as cli  # takes a second, in which minds are changed

        cli.main()


if __name__ == "__main__":
    main()
