"""The exceptions that reach a person."""

from __future__ import annotations

import errno

from criu_veth import errors


def test_exit_codes() -> None:
    assert errors.CriuVethError("x").exit_code == 1
    assert errors.OperationError("x").exit_code == 1
    assert errors.InputError("x").exit_code == 2
    assert (errors.EXIT_OK, errors.EXIT_FAILED, errors.EXIT_INPUT, errors.EXIT_DEFECT) == (0, 1, 2, 3)


def test_several_faults_are_lines_of_one_error() -> None:
    error = errors.InputError("one", "two")
    assert error.faults == ("one", "two")
    assert str(error) == "one\ntwo"


def test_errno_has_its_name_and_the_kernels_words() -> None:
    assert errors.errno_text(errno.EEXIST) == "File exists (EEXIST)"
    assert errors.errno_text(errno.EINVAL, "Invalid mode.") == "Invalid argument (EINVAL): Invalid mode"
    assert errors.errno_text(9999) == "Unknown error 9999 (9999)"


def test_a_line_is_printable_and_has_its_kind() -> None:
    text = "veth a\x1b[31m: b\nc\td\x9b\u202e\udcff"

    assert errors.line("error: ", text) == "criu-veth: error: veth a\\x1b[31m: b\\nc\\td\\x9b\\u202e\\udcff"


def test_a_long_line_is_cut_in_the_middle() -> None:
    line = errors.line("error: ", "F: veth[0].inner: '" + "a" * 100_000 + "' is too long: write a shorter one")

    assert len(line) == 499
    assert line.startswith("criu-veth: error: F: veth[0].inner: 'aaaa")
    assert "aaa ... aaa" in line
    assert line.endswith("aaa' is too long: write a shorter one")
    assert errors.line("", "b" * 489) == "criu-veth: " + "b" * 489


def test_what_is_escaped_counts() -> None:
    assert len(errors.line("", "\x1b" * 400)) == 499


def test_of_very_many_faults_the_first_are_said() -> None:
    said = errors.lines("error: ", tuple(f"fault {number}" for number in range(250)))

    assert said[99:] == ["criu-veth: error: fault 99", "criu-veth: error: and 150 more like these"]
    assert len(errors.lines("error: ", tuple(said))) == 101
    assert len(errors.lines("post-restore: ", ("done",) * 250)) == 250


def test_who_prints_an_error_gets_lines() -> None:
    error = errors.InputError("veth a\nb: \x1b[31m", "c")
    assert str(error) == "veth a\\nb: \\x1b[31m\nc"
    assert error.faults == ("veth a\nb: \x1b[31m", "c")
