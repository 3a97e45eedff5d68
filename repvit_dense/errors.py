"""The kind of error that a command reports without a traceback."""


class InputError(ValueError):
    """An error in the user's input; the message names the problem, its place and the remedy. Commands exit with 2."""
