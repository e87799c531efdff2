"""The command line: parse, call the public API, print. Nothing heavy is imported before a command runs."""

from st_adapter.cli.entry import main as main
