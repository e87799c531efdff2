"""A terminal, or text as it would stand there, that shows no secret and obeys no text from outside."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.errors import MarkupError
from rich.markup import escape as escape_markup
from rich.text import Text

from st_adapter.errors import printable, without_secrets


class Terminal(Console):
    """A terminal that shows no secret, and on which no text from outside steers or disguises anything."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn a text that is printed, or stands in a table, into what the terminal shows."""
        text = printable(without_secrets(text), one_line=False)
        try:
            return super().render_str(text, **options)
        except MarkupError:
            return super().render_str(text, **{**options, "markup": False})


def escape(text: str) -> str:
    """A text from outside on one line and as text, to be put between markup of our own."""
    return escape_markup(printable(text))
