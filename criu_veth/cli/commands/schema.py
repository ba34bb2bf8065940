"""``criu-veth schema``."""

import click

from criu_veth.cli import output
from criu_veth.cli.parameters import examples


@click.command(
    "schema",
    epilog=examples(
        "criu-veth schema > criu-veth.schema.json",
        "criu-veth schema --state > criu-veth.state.schema.json",
    ),
)
@click.option("--state", is_flag=True, help="Print that of the state file, criu-veth.json in an image directory.")
def command(state: bool) -> None:
    """Print the JSON Schema of the mapping file, or of the state file.

    Editors that know JSON Schema for TOML complete and check the mapping file with it; `criu-veth check` checks more.
    """
    from criu_veth.cli import jsonschema

    output.as_json(jsonschema.of_state_file() if state else jsonschema.of_mapping_file())
