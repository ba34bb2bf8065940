"""The command group: help, errors and exit statuses, and what a start imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result
from pytest_mock import MockerFixture

from criu_veth import __version__
from criu_veth.cli import app as cli_app
from criu_veth.cli import guard, output
from criu_veth.cli.app import COMMANDS, app
from criu_veth.errors import InputError, OperationError
from lab.cli import runner

ROOT = Path(__file__).parents[2]


def invoke(*words: str) -> Result:
    return runner().invoke(app, [*words])


def python(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words], env=env, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_help_lists_every_command_in_order() -> None:
    shown = invoke("--help")

    assert shown.exit_code == 0
    section = shown.stdout.partition("Commands:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in section.splitlines()] == list(COMMANDS)
    assert shown.stdout.startswith("Usage: criu-veth [OPTIONS] COMMAND [ARGS]...\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example_of_itself(name: str) -> None:
    shown = invoke(name, "--help")

    assert shown.exit_code == 0
    assert shown.stdout.startswith(f"Usage: criu-veth {name} ")
    assert f"criu-veth {name}" in shown.stdout.partition("\n  Examples:\n")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_its_own_help_begins_with(name: str) -> None:
    command = app.get_command(click.Context(app), name)

    assert command is not None
    assert command.name == name
    assert command.help is not None
    assert command.help.startswith(COMMANDS[name].rstrip("."))


def test_without_a_command_the_help_goes_to_stderr() -> None:
    shown = invoke()

    assert shown.exit_code == 2
    assert shown.stdout == ""
    assert shown.stderr == invoke("--help").stdout


def test_a_shell_completes_commands() -> None:
    asked = {"_CRIU_VETH_COMPLETE": "bash_complete", "COMP_WORDS": "criu-veth pl", "COMP_CWORD": "1"}

    shown = runner(env=asked).invoke(app, [])

    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, "plain,plan\n", "")


def test_version() -> None:
    shown = invoke("--version")

    assert (shown.exit_code, shown.stdout) == (0, f"criu-veth {__version__}\n")


def no_such_option(name: str, *near: str) -> str:
    """Click's own words, which differ between its versions."""
    words = click.NoSuchOption(name, possibilities=near).format_message().rstrip(".")
    return words[:1].lower() + words[1:]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chek"], "no such command 'chek'; see criu-veth --help"),
        (["--nope"], f"{no_such_option('--nope')}; see criu-veth --help"),
        (["plan", "--quux"], f"plan: {no_such_option('--quux')}; see criu-veth plan --help"),
        (["plan", "--imags"], f"plan: {no_such_option('--imags', '--images')} See criu-veth plan --help"),
        (["plan", "a", "b"], "plan: got unexpected extra argument (b); see criu-veth plan --help"),
        (["plan", ""], "plan: invalid value for '[FILE]': it is empty; see criu-veth plan --help"),
        (
            ["plan", "--images", "/nowhere"],
            "plan: invalid value for '--images': Directory '/nowhere' does not exist; see criu-veth plan --help",
        ),
        (
            ["options", "--format", "yaml"],
            "options: invalid value for '--format': 'yaml' is not one of 'args', 'conf', 'json';"
            " see criu-veth options --help",
        ),
    ],
)
def test_a_wrong_call_is_one_line_and_2(words: list[str], message: str) -> None:
    shown = invoke(*words)

    assert (shown.exit_code, shown.stdout, shown.stderr) == (2, "", f"criu-veth: error: {message}\n")


def raising(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InputError("a: wrong", "b: wrong"), 2, "criu-veth: error: a: wrong\ncriu-veth: error: b: wrong\n"),
        (OperationError("no such bridge"), 1, "criu-veth: error: no such bridge\n"),
        (OperationError('"a\x1b[31mb\n" is odd'), 1, 'criu-veth: error: "a\\x1b[31mb\\n" is odd\n'),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
        (OSError(28, "No space left on device"), 1, "criu-veth: error: No space left on device (ENOSPC)\n"),
        (PermissionError(13, "", "/x"), 1, "criu-veth: error: /x: Permission denied (EACCES)\n"),
    ],
)
def test_each_kind_of_error_has_its_status(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str], mocker: MockerFixture
) -> None:
    mocker.patch.object(guard, "_give_up_stdout")

    assert guard.guarded(raising(error)) == status
    assert capsys.readouterr() == ("", said)


def test_a_defect_is_3_with_a_traceback(mocker: MockerFixture) -> None:
    mocker.patch.object(cli_app, "import_module", side_effect=ZeroDivisionError("one too many"))

    shown = invoke("plan")

    assert shown.exit_code == 3
    lines = shown.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2:] == [
        "ZeroDivisionError: one too many",
        "criu-veth: error: a defect in criu-veth itself; please report the lines above",
    ]


def test_what_cannot_be_printed_is_1_and_no_second_complaint() -> None:
    with open("/dev/full", "w") as full:
        done = python("-m", "criu_veth", "schema", stdout=full, stderr=subprocess.PIPE)

    assert (done.returncode, done.stderr) == (1, "criu-veth: error: No space left on device (ENOSPC)\n")


def test_a_reader_that_has_gone_is_no_news() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = python("-m", "criu_veth", "schema", stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)

    assert (done.returncode, done.stderr) == (1, "")


# What a shell starts in the background ignores the signal.
WAITING = """
import signal
from criu_veth import config
from criu_veth.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)

def load(*_):
    print("up", flush=True)
    while True:  # signal.pause() would wait for ever if the signal came a moment before
        pass

config.load = load
main()
"""


def test_ctrl_c_is_130() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, "plan", "/dev/null"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stdout
        try:
            assert started.stdout.readline() == "up\n"
            started.send_signal(signal.SIGINT)
            _, said = started.communicate(timeout=30)
        finally:
            started.kill()

    assert (started.returncode, said) == (130, "\n")


def test_the_module_and_the_script_are_the_same() -> None:
    as_module = python("-m", "criu_veth", "--help", stdout=subprocess.PIPE)
    as_script = python("-c", "from criu_veth.cli import main; main()", "--help", stdout=subprocess.PIPE)

    assert as_module.stdout == as_script.stdout
    assert as_module.stdout.startswith("Usage: criu-veth [OPTIONS] COMMAND [ARGS]...\n")


IMPORTED = """
import sys
from criu_veth.cli import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["hook-path"], *([name, "--help"] for name in COMMANDS)])
def test_a_start_imports_nothing_that_takes_long(words: list[str]) -> None:
    done = python("-c", IMPORTED, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    assert done.returncode == 0
    imported = done.stderr.split()
    assert {"pyroute2", "msgspec", "rich", "tomllib"}.isdisjoint(imported)
    commands = [name for name in imported if name.startswith("criu_veth.cli.commands.")]
    assert commands == [f"criu_veth.cli.commands.{words[0].replace('-', '_')}"] * (not words[0].startswith("-"))


def test_the_hook_imports_nothing_of_the_commands() -> None:
    code = "import sys; from criu_veth import hook, prepare; print(*sys.modules)"
    done = python("-c", code, stdout=subprocess.PIPE)

    imported = done.stdout.split()
    assert "criu_veth.hook" in imported
    assert not [name for name in imported if name.startswith(("criu_veth.cli", "click", "rich"))]


def test_a_table_shows_what_a_name_says_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output.table("veth[bold]", ("inner", "operation"), [("eth0", "[red]x[/red] \x1b[2J")])

    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "veth[bold]",
        "inner  operation",
        "eth0   [red]x[/red] \\x1b[2J",
    ]
