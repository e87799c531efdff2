"""Bad input, said in the words of the door that it came through."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input whose remedy reads differently in Python and on the command line.

    Args:
        problem: what came and what was expected, in whole sentences.
        python: what to do, in the words of Python's arguments.
        flags: what to do, in the words of the command line's flags.

    Attributes:
        for_command_line: the message with the flags' words.

    Example:
        >>> error = InputError("There is no column.", python="Pass columns={...}.", flags="Pass --query-column NAME.")
        >>> str(error), error.for_command_line
        ('There is no column. Pass columns={...}.', 'There is no column. Pass --query-column NAME.')
    """

    def __init__(self, problem: str, *, python: str, flags: str) -> None:
        super().__init__(f"{problem} {python}")
        self.for_command_line = f"{problem} {flags}"
