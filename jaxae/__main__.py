"""The command `jaxae`, also as `python -m jaxae`; it handles errors before anything is loaded."""

from jaxae.errors import user_errors


def main() -> None:
    """Entry point; see `jaxae.cli.main`."""
    with user_errors():
        from jaxae.cli import main as cli  # takes a second, in which Ctrl-C must already be handled

        cli.main()


if __name__ == "__main__":
    main()
