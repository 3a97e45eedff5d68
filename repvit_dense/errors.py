"""The one kind of error a command reports without a traceback."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message says what, where, and what to do. Commands exit with 2."""
