"""The one error that mrihvae raises for a user's mistake."""


class InputError(ValueError):
    """Bad input from outside: a file, a setting or a command-line value.

    The message is one line that names the thing, what is wrong with it and what to do. Commands print it
    and end with status 2; library callers can catch it as a `ValueError`.
    """
