"""Reads TOML within bounds: what takes `tomllib` minutes, or no type of ours can hold, is refused with its place."""

import re
import tomllib
from collections.abc import Iterator

#: `tomllib` takes time with the square of a key's parts: 20 s for one of 64 KiB. Ours have five.
_MOST_PARTS = 16
_PART = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+"""
_LONG_KEY = re.compile(rf"(?:^|[\[{{,])[ \t]*+(?:{_PART}\.[ \t]*+){{{_MOST_PARTS}}}", re.MULTILINE)
#: What the format promises (TOML 1.0, "Integer").
_INTEGERS = range(-(1 << 63), 1 << 63)


def loads(text: str) -> dict[str, object]:
    """Return what TOML says.

    Raises ValueError that says what is wrong, and where.
    """
    if _LONG_KEY.search(text):
        raise ValueError(f"has a key of more than {_MOST_PARTS} parts")
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is not TOML: {error}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError:  # int() has a limit of its own
        raise ValueError("has a number with too many digits") from None
    for where, value in _leaves(found):
        if isinstance(value, int) and value not in _INTEGERS:
            raise ValueError(f"{where}: the number does not fit in 64 bits")
    return found


def _leaves(table: dict[str, object]) -> Iterator[tuple[str, object]]:
    """Yield the key path and the value of all that is no table and no array, however deep it lies."""
    pending: list[tuple[str, object]] = [("", table)]
    while pending:
        where, value = pending.pop()
        if isinstance(value, dict):
            pending += [(f"{where}.{key}" if where else key, one) for key, one in value.items()]
        elif isinstance(value, list):
            pending += [(f"{where}[{number}]", one) for number, one in enumerate(value)]
        else:
            yield where, value
