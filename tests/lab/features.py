"""What this kernel has, by the names of `criu_veth.doctor.FEATURES`, and what this CRIU cannot do."""

from __future__ import annotations

import os
import subprocess
from functools import cache

from criu_veth.doctor import FEATURES, version_of

from .criu import find_criu
from .host import SBIN

#: The first Linux with a feature, if it is newer than the oldest that the tests are run on.
SINCE = {"netkit": "6.7"}


def too_old(name: str) -> str | None:
    """The feature and its first Linux, if this one is older; None if it has to have the feature."""
    return older_than(SINCE[name], name) if name in SINCE else None


def older_than(release: str, what: str) -> str | None:
    """`what` and the Linux that it needs, if this one is older."""
    wanted, found = version_of(release), version_of(os.uname().release)
    return f"{what} ({release})" if found < wanted else None


def broken_criu(since: str, fixed: str, what: str) -> str | None:
    """What the CRIU to test with cannot do, if its version is from `since` on, and before `fixed`."""
    first, end = (version_of(text) for text in (since, fixed))
    return f"{what} (CRIU {since} until {fixed})" if first <= _criu_version() < end else None


@cache
def _criu_version() -> tuple[int, ...]:
    """Its numbers; none if there is no CRIU."""
    criu = find_criu()
    said = subprocess.run([criu, "--version"], capture_output=True, text=True, check=False).stdout if criu else ""
    return version_of(said)


@cache
def missing_feature(name: str) -> str | None:
    """Why this kernel lacks a feature, or None. Tried in a network namespace of its own, as root."""
    lines, _ = FEATURES[name]
    script = "ip link set lo up\n" + "\n".join(lines)
    env = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{SBIN}"}
    words = ["unshare", "--net", "sh", "-ec", script]
    tried = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    said = " ".join(tried.stderr.split())
    return f"Linux {os.uname().release} has no {name}: {said}" if tried.returncode else None
