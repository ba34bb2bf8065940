"""TOML that would take its reader minutes, or that holds what nothing of ours can."""

from __future__ import annotations

import contextlib
import time

import pytest

from criu_veth import toml


def fault(text: str) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is looked at
        toml.loads(text)
    return str(caught.value)


def test_what_is_read() -> None:
    text = 'a.b."c.d".e.f = 1\nx = ["1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17.18", {y = -9223372036854775808}]\n'
    assert toml.loads(text) == {
        "a": {"b": {"c.d": {"e": {"f": 1}}}},
        "x": ["1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17.18", {"y": -9223372036854775808}],
    }


@pytest.mark.parametrize(
    "text",
    [
        "a." * 50_000 + "a = 1",
        "x = 1\n[" + "a . " * 50_000 + "a]",
        "[[" + '"a".' * 50_000 + "a]]",
        "x = {" + "'a'.\t" * 50_000 + "a = 1}",
        "x = { y = 1, " + "a." * 50_000 + "a = 1}",
    ],
)
def test_a_key_of_very_many_parts(text: str) -> None:
    assert fault(text) == "has a key of more than 16 parts"


@pytest.mark.parametrize("number", [str(1 << 63), str(-(1 << 63) - 1), "0x" + "f" * 6000])
def test_a_number_of_more_than_64_bits(number: str) -> None:
    assert fault(f"[[veth]]\nport = {{ cost = {number} }}") == "veth[0].port.cost: the number does not fit in 64 bits"


def test_a_number_of_very_many_digits() -> None:
    assert fault("mtu = " + "9" * 5000) == "has a number with too many digits"


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "x = " + "{a=" * 5000])
def test_nested_too_deeply(text: str) -> None:
    assert fault(text) == "is nested too deeply"


@pytest.mark.parametrize("text", ["\n" * 900_000, " " * 900_000, "x = [" + "1," * 300_000 + "]", '"' * 900_000])
def test_what_is_long_takes_no_longer(text: str) -> None:
    """Looking for such keys goes through a text once."""
    started = time.process_time()
    with contextlib.suppress(ValueError):
        toml.loads(text)
    assert time.process_time() - started < 2
