"""The one place where what goes wrong becomes lines on stderr and an exit status."""

import os
import sys
import traceback
from collections.abc import Callable

import click

from criu_veth import errors
from criu_veth.cli import output

EXIT_INTERRUPTED = 130


def guarded(run: Callable[[], object]) -> int:
    """Call ``run`` and return the exit status: an int that it returns, else 0, else what its exception means."""
    try:
        result = run()
        if sys.stdout is not None:  # python sets it to None where fd 1 is closed
            sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        output.error(_call_fault(error))
        return errors.EXIT_INPUT
    except errors.CriuVethError as error:
        output.error(*error.faults)
        return error.exit_code
    except BrokenPipeError:  # whoever read this, `head` perhaps, has seen enough
        _give_up_stdout()
        return errors.EXIT_FAILED
    except OSError as error:
        _give_up_stdout()
        output.error(str(error) if error.errno is None else _os_fault(error, error.errno))
        return errors.EXIT_FAILED
    except Exception:
        sys.stderr.write("".join(f"{output.printable(line)}\n" for line in traceback.format_exc().splitlines()))
        output.error("a defect in criu-veth itself; please report the lines above")
        return errors.EXIT_DEFECT
    return result if isinstance(result, int) else errors.EXIT_OK


def _call_fault(error: click.ClickException) -> str:
    """Say what is wrong with the command line, in our form."""
    message = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return message
    command = context.command_path.partition(" ")[2]
    where = f"{command}: " if command else ""
    see = " See" if message.endswith("?") else "; see"
    return f"{where}{message[:1].lower()}{message[1:]}{see} {context.command_path} --help"


def _os_fault(error: OSError, number: int) -> str:
    text = errors.errno_text(number)
    return f"{error.filename}: {text}" if error.filename is not None else text


def _give_up_stdout() -> None:
    """Let Python's last flush go nowhere, so that it does not fail again and change the exit status."""
    try:
        target = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, target)
    os.close(nowhere)
