"""The way in: words to options, options to the command, errors to one line and an exit status."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO, Union

import tyro
from huggingface_hub.constants import HF_TOKEN_PATH

from st_adapter import __version__
from st_adapter.cli import (
    check_data_options,
    combine_options,
    embed_options,
    explore_options,
    options,
    version_options,
)
from st_adapter.errors import InputError, without_secrets

_COMMANDS: dict[str, type] = {
    "train": options.TrainOptions,
    "evaluate": options.EvaluateOptions,
    "demo": options.DemoOptions,
    "embed": embed_options.EmbedOptions,
    "combine": combine_options.CombineOptions,
    "push": options.PushOptions,
    "learning-curve": options.LearningCurveOptions,
    "report": options.ReportOptions,
    "explore": explore_options.ExploreOptions,
    "list": version_options.ListOptions,
    "rollback": version_options.RollbackOptions,
    "check": options.CheckOptions,
    "check-data": check_data_options.CheckDataOptions,
}
_DESCRIPTION = (
    "Teach a Sentence Transformers model your domain without re-embedding a single document."
    f"\n\nThis is version {__version__}. Begin with `st-adapter demo`, or `st-adapter train --model MODEL --data DATA`."
)
_BAD_INPUT = 2
_PACKAGE = Path(__file__).parent.parent
_HELP = {"-h", "--help"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 on success, 1 if nobody reads the output any more, 2 on bad input, 3 if the verdict is not to deploy and
        --fail-if-not-better was given, 4 if a stack does not embed as it should.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            with _no_secrets([*_typed_secrets(words), _stored_token()]):
                return _answer(words)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # of `| head`, say
        # Python would complain of it once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _answer(words: Sequence[str]) -> int:
    if words == ["--version"]:
        sys.stdout.write(f"st-adapter {__version__}\n")
        return 0
    if not words:
        with contextlib.suppress(SystemExit):
            _parse(["--help"])
        return _BAD_INPUT
    return _run(_parse(words))


def _parse(words: Sequence[str]) -> Any:
    """The options of the command that was named.

    Raises:
        SystemExit: help was asked for, or the words are not understood; what there is to say has been printed.
    """
    known = dict(_COMMANDS)
    settings: list[Any] = [tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone]
    if _HELP & set(words):
        # Both --x and --no-x are understood; help shows the one that changes something.
        settings.append(tyro.conf.FlagCreatePairsOff)
        if not any("gradient" in word for word in words):
            known["train"] = options.BriefTrainOptions
    commands: Any = Union[tuple(Annotated[of, tyro.conf.subcommand(name)] for name, of in known.items())]  # noqa: UP007
    return tyro.cli(commands, prog="st-adapter", description=_DESCRIPTION, args=words, config=settings)


def _run(given: Any) -> int:
    """Run the command whose options are given."""
    # Imported here, as help, versions and typos need none of it.
    from st_adapter.evidence.terminal import Terminal, escape

    try:
        if isinstance(given, options.DataOptions):
            given.check()
        from huggingface_hub import get_token
        from transformers.utils import logging

        from st_adapter.cli import commands

        logging.disable_progress_bar()
        name = next(name for name, of in _COMMANDS.items() if type(given) is of)
        with _no_secrets([get_token()]), _warnings_in_words():
            function = "list_runs" if name == "list" else name.replace("-", "_")
            return int(getattr(commands, function)(given))
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        words = escape(error.for_command_line if isinstance(error, InputError) else str(error))
        Terminal(stderr=True).print(f"[bold red]error:[/bold red] {words}", soft_wrap=True, highlight=False)
        return _BAD_INPUT
    except KeyboardInterrupt:
        Terminal(stderr=True).print("Interrupted. Embeddings finished so far are kept and will not be computed again.")
        return 130


class _WithoutSecrets:
    """A stream that passes on what is written to it, without secrets: also what libraries print or warn of."""

    def __init__(self, stream: TextIO, secrets: Sequence[str | None]) -> None:
        self._stream, self._secrets = stream, secrets

    def write(self, text: str) -> int:
        """Write a text; how long it was is counted before anything is taken out of it."""
        self._stream.write(without_secrets(text, self._secrets))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _no_secrets(secrets: Sequence[str | None]) -> Iterator[None]:
    """Keep secrets out of all that is printed."""
    with (
        contextlib.redirect_stdout(_WithoutSecrets(sys.stdout, secrets)),
        contextlib.redirect_stderr(_WithoutSecrets(sys.stderr, secrets)),
    ):
        yield


@contextlib.contextmanager
def _warnings_in_words() -> Iterator[None]:
    """Show what this package warns of without the line of code that does; what libraries warn of as ever."""
    usual = warnings.formatwarning

    def worded(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if Path(filename).is_relative_to(_PACKAGE):
            return f"warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = worded
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _typed_secrets(words: Sequence[str]) -> list[str]:
    """What follows a flag that is, or was meant to be, one for a token."""
    flags = [re.fullmatch(r"--?(tok|pass|secret|api|hf)[^=]*(=(.*))?", word, re.IGNORECASE) for word in words]
    typed = [after for flag, after in zip(flags, words[1:], strict=False) if flag and not flag[2] and after[:1] != "-"]
    typed += [flag[3] for flag in flags if flag and flag[3]]
    return [word for word in typed if len(word) > 3]


def _stored_token() -> str | None:
    """The token of `hf auth login`, without the client of the Hub, whose import takes as long as all of a help page."""
    path = Path(HF_TOKEN_PATH)
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else None
