"""The command group: it knows the commands by name and imports one when it is called."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from criu_veth import __version__
from criu_veth.cli import NAME, guard
from criu_veth.cli.parameters import examples

#: Command to its one line in ``criu-veth --help``; its module is the one of that name in `criu_veth.cli.commands`.
COMMANDS = {
    "check": "Check the mapping file, then this host.",
    "plan": "Print what the hook would do at each action of a restore.",
    "options": "Print the options that CRIU has to be given for a restore.",
    "capture": "Capture the network of a running container.",
    "inspect": "Show what a checkpoint holds of its container's network.",
    "prepare": "Make the program for a restore on this host, ahead of it.",
    "verify": "Compare the kernel with what a restore should have made.",
    "gc": "Remove what restores that died have left on this host.",
    "install": "Put the hook at a fixed path, and name it to CRIU and the runtimes.",
    "uninstall": "Undo what install has done.",
    "doctor": "Say whether all that a restore needs is on this machine.",
    "schema": "Print the JSON Schema of the mapping file, or of the state file.",
    "hook-path": "Print the path of the hook, which is CRIU's action script.",
}


class App(click.Group):
    """A group of commands, each imported when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module("criu_veth.cli.commands." + cmd_name.replace("-", "_"))
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Show the help to whoever calls without arguments, and say that it was no use."""
        if not args and not ctx.resilient_parsing:  # which is how a shell's completion asks
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run one command line and exit with its status; every error is reported here."""
        run = super().main
        sys.exit(guard.guarded(lambda: run(args, prog_name or NAME, **{**extra, "standalone_mode": False})))


@click.group(
    NAME,
    cls=App,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "criu-veth check",
        "criu-veth options --format conf > restore.conf && criu restore -D images --config restore.conf",
        "criu-veth COMMAND --help",
    ),
)
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
def app() -> None:
    """Put the outer ends of a checkpointed container's veth pairs back.

    The work is done by a hook that CRIU runs as its action script. These commands are for the operator. They read the
    mapping file, /etc/criu/criu-veth.toml unless another is named, what was captured at the dump, and the kernel; none
    changes a container's network, only gc removes a device, and only install and uninstall change files in /etc.
    """
