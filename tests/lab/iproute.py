"""What the lab knows of iproute2's words and output."""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

Json = Any  # what ip -j prints; tests look into it by key


def parsed(text: str) -> Json:
    """The JSON that `ip -j` printed; it prints nothing at all for an empty list now and then."""
    return json.loads(text) if text.strip() else []


def nodad(address: str) -> tuple[str, ...]:
    """The word that makes an IPv6 address usable at once; nothing for IPv4."""
    return ("nodad",) if ":" in address else ()


def batch(commands: Iterable[Sequence[str]]) -> str:
    """The commands as `ip -batch` reads them."""
    return "".join(shlex.join(command) + "\n" for command in commands)


def random_mac() -> str:
    """A unicast, locally administered MAC address."""
    return ":".join(["02", *(f"{byte:02x}" for byte in uuid.uuid4().bytes[:5])])


def sysctl_path(name: str) -> str:
    """The file of net/`name`: "ipv4.conf.web0.proxy_arp", or with slashes if a part has a dot."""
    return "/proc/sys/net/" + (name if "/" in name else name.replace(".", "/"))
