"""Arguments and options that several commands share, and how examples are written."""

import click


def examples(*lines: str) -> str:
    """Return the end of a command's help: each line as it is to be typed."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def _refuse_empty(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value == "":
        raise click.BadParameter("it is empty", param=parameter)
    return value


#: The mapping file; None: found as the hook finds it.
mapping_file = click.argument("file", required=False, callback=_refuse_empty)

#: An image directory, as CRIU opens it: the path that the kernel would show.
images = click.option(
    "--images",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="The image directory of the restore: a criu-veth.toml in it is used, and {image} is its name.",
)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
