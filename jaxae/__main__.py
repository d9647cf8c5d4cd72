"""`python -m jaxae` is the command `jaxae`."""

from jaxae.cli import main

main()
