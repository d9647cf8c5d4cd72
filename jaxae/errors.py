"""The one exception whose message is meant for the person at the keyboard."""


class UserError(ValueError):
    """Input that cannot work, said in one sentence that names the thing and the remedy.

    The command line prints the message without a traceback and exits with code 2; library callers
    catch it as a `ValueError`.
    """


def unknown(kind: str, name: str, known) -> UserError:
    """The error for a name that no registry holds; it lists the names that exist."""
    return UserError(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")
