"""``criu-veth schema``."""

import click

from criu_veth.cli import output
from criu_veth.cli.parameters import examples


@click.command("schema", epilog=examples("criu-veth schema > criu-veth.schema.json"))
def command() -> None:
    """Print the JSON Schema of the mapping file.

    Editors that know JSON Schema for TOML complete and check the file with it; `criu-veth check` checks more.
    """
    from criu_veth.cli import jsonschema

    output.as_json(jsonschema.of_mapping_file())
