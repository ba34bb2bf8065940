"""``criu-veth uninstall``."""

from __future__ import annotations

import click

from criu_veth.cli import changes
from criu_veth.cli.parameters import examples


@click.command("uninstall", epilog=examples("criu-veth uninstall", "criu-veth uninstall --root ./image --yes"))
@changes.root
@changes.yes
def command(root: str, yes: bool) -> None:
    """Undo what install has done.

    The hook is removed, and the lines that name it from /etc/criu/runc.conf, crun.conf and default.conf; a file that is
    empty then goes too. Mapping files stay. A container that was checkpointed with the hook can then be restored only
    without it.
    """
    from criu_veth import install

    changes.carry_out(install.plan_uninstall(root), root=root, yes=yes)
    install.remove_empty_directory(root)
