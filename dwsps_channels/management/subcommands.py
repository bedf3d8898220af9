"""Management commands that have subcommands."""

from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandParser

AddSubcommand = Callable[[str, Callable[..., None], str], CommandParser]
"""Adds a subcommand, by its name, its method and its help; returns its parser."""


class CommandWithSubcommands(BaseCommand):
    """A command whose first argument says what it does: ``manage.py peers add``."""

    epilog: ClassVar[str] = ""
    """Ends the help. As in ``help``, its lines are broken by hand."""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(
            prog_name,
            subcommand,
            epilog=self.epilog,
            formatter_class=RawDescriptionHelpFormatter,
            **kwargs,
        )

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

        def add(name: str, run: Callable[..., None], text: str) -> CommandParser:
            command: CommandParser = commands.add_parser(
                name, help=text, description=f"{text[0].upper()}{text[1:]}."
            )
            command.set_defaults(run=run)
            return command

        self.add_subcommands(add)

    def add_subcommands(self, add: AddSubcommand) -> None:
        """Call ``add`` for each subcommand."""
        raise NotImplementedError

    def handle(self, *args: Any, **options: Any) -> None:
        options["run"](**options)
