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

_directory = click.Path(exists=True, file_okay=False, resolve_path=True)

#: An image directory, as CRIU opens it: the path that the kernel would show.
images = click.option(
    "--images",
    metavar="DIR",
    type=_directory,
    help="The image directory of the restore: a criu-veth.toml in it is used, and {image} is its name.",
)

#: The same as an argument, for commands that are about a checkpoint.
checkpoint = click.argument("images", type=_directory)

#: How the inner ends come back; None: as the images take it, which is external or, where they have no device, empty.
mode = click.option(
    "--mode",
    type=click.Choice(["external", "ready", "empty"]),
    help="How the inner ends come back: external: CRIU makes the pairs; ready: CRIU moves devices in that the hook has"
    " made; empty: the hook makes them in an empty network namespace.",
)

#: What criu is told besides; empty: what `mode` takes.
external = click.option(
    "--external",
    metavar="VALUE",
    multiple=True,
    help="What criu is told in its option of that name, such as 'veth[eth0]:web0@br0'; once for each.",
)

#: A process of a container, its first by custom.
pid = click.option(
    "--pid", metavar="PID", type=click.IntRange(1, (1 << 22) - 1), required=True, help="A process of the container."
)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
