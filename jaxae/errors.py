"""What the person at the keyboard is told when something cannot work."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(ValueError):
    """Input that cannot work, said in one sentence that names the thing and the remedy.

    The command line prints the message without a traceback and exits with code 2; library callers
    catch it as a `ValueError`.
    """


def unknown(kind: str, name: str, known) -> UserError:
    """The error for a name that no registry holds; it lists the names that exist."""
    return UserError(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Say errors as a person needs them: one line, no traceback.

    Exits with code 2 on bad input, with code 1 if training diverges, and with code 130 if it is
    interrupted: the last checkpoint stays, and the same command resumes.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except FloatingPointError as error:
        print(f"training failed: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes after the last checkpoint", file=sys.stderr)
        sys.exit(130)
