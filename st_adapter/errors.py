"""What is said to people: errors in the words of their door, without secrets, and safe to print."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from functools import partial
from typing import Any

from st_adapter.choices import is_whole

# A token of the Hub or an API; what stands before the @ of an address; what a query string or a header calls a secret.
_HUB_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}|\bsk-[A-Za-z0-9_-]{16,}")
_IN_ADDRESS = re.compile(r"(?<=://)(?:[^/\s?#]+@(?=[^/\s@])|[^/\s?#]*:[^/\s?#]+@(?=/))")
_NAMED = re.compile(
    r"(?i)([?&;](?:[\w.-]*(?:token|secret|password|passwd|api[_-]?key|signature|credential|sig|auth))=)[^&#\s'\"]+"
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{6,}")
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_API_KEY = "OPENAI_API_KEY"
_SHORTEST_API_KEY = 8  # what is shorter is a word for servers that want no key, such as EMPTY
_HIDDEN = "***"
# Joiners that scripts and emoji need; all other characters without a shape of their own can make a line lie.
_NEEDED_FORMATS = "\u200c\u200d"


class InputError(ValueError):
    """Bad input whose remedy reads differently in Python and on the command line.

    Args:
        problem: what came and what was expected, in whole sentences; empty if these name arguments too.
        python: what to do, in the words of Python's arguments.
        flags: what to do, in the words of the command line's flags.

    Attributes:
        for_command_line: the message with the flags' words.

    Examples:
        >>> error = InputError("There is no column.", python="Pass columns={...}.", flags="Pass --query-column NAME.")
        >>> str(error), error.for_command_line
        ('There is no column. Pass columns={...}.', 'There is no column. Pass --query-column NAME.')
    """

    def __init__(self, problem: str, *, python: str, flags: str) -> None:
        super().__init__(f"{problem} {python}".lstrip())
        self.for_command_line = f"{problem} {flags}".lstrip()
        self._said = (problem, python, flags)

    def __reduce__(self) -> tuple[Any, ...]:
        # Also what is raised in another process reaches this one.
        return partial(InputError, python=self._said[1], flags=self._said[2]), self._said[:1]


def setting_error(name: str, value: object, expected: str, flag: str | None = None) -> InputError:
    """A setting is not what it has to be; on the command line it is called by its flag.

    Args:
        name: the Python argument.
        value: what came.
        expected: what it has to be.
        flag: the flag, if it is not the argument's name with dashes.

    Examples:
        >>> error = setting_error("num_draws", 0, "at least 1")
        >>> str(error), error.for_command_line
        ('num_draws is 0, but has to be at least 1.', '--num-draws is 0, but has to be at least 1.')
    """
    called = (name, flag or f"--{name.replace('_', '-')}")
    python, flags = (f"{setting} is {value!r}, but has to be {expected}." for setting in called)
    return InputError("", python=python, flags=flags)


def check_at_least_one(name: str, value: Any, flag: str | None = None) -> None:
    """Raise ``setting_error`` if a setting is no whole number of at least 1, of Python or NumPy."""
    if not is_whole(value) or value < 1:
        raise setting_error(name, value, "a whole number of at least 1", flag=flag)


def without_secrets(text: str, secrets: Iterable[str | None] = ()) -> str:
    """A text with ``***`` in place of access tokens, passwords in addresses, and the secrets given.

    Args:
        text: a message that may repeat what a server answered or what was typed.
        secrets: what must not be shown whatever it looks like; those in the environment are always meant.

    Examples:
        >>> without_secrets("401 for https://me:pw@hub.example/x?token=abc with hf_abcdefghij")
        '401 for https://***@hub.example/x?token=*** with ***'
    """
    known = {*secrets, *(os.environ.get(name) for name in _TOKEN_VARIABLES)}
    key = os.environ.get(_API_KEY, "")
    known.add(key if len(key) >= _SHORTEST_API_KEY else None)
    for secret in sorted(filter(None, known), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    text = _IN_ADDRESS.sub(f"{_HIDDEN}@", _HUB_TOKEN.sub(_HIDDEN, text))
    return _BEARER.sub(rf"\g<1>{_HIDDEN}", _NAMED.sub(rf"\g<1>{_HIDDEN}", text))


def printable(text: str, *, one_line: bool = True) -> str:
    r"""A text whose characters cannot steer a terminal or turn the reading direction: they are written as escapes.

    Args:
        text: a name, note or message that may come from outside.
        one_line: whether line breaks and tabs become spaces, so that a name cannot pose as a line of its own.

    Examples:
        >>> printable("a\x1b[31mb\nc")
        'a\\x1b[31mb c'
    """
    if one_line:
        text = re.sub(r"[\t\n\r\u2028\u2029]+", " ", text)
    return "".join(character if _is_harmless(character) else _escape(character) for character in text)


def _is_harmless(character: str) -> bool:
    if character in "\n\t" or character in _NEEDED_FORMATS:
        return True
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
