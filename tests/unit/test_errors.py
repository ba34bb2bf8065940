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
