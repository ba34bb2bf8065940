"""What this kernel has, by the names of `criu_veth.doctor.FEATURES`."""

from __future__ import annotations

import os
import subprocess
from functools import cache

from criu_veth.doctor import FEATURES

from .host import SBIN

#: The first Linux with a feature, if it is newer than the oldest that the tests are run on.
SINCE = {"netkit": (6, 7)}


def too_old(name: str) -> str | None:
    """The feature and its first Linux, if this one is older; None if it has to have the feature."""
    since = SINCE.get(name, (0, 0))
    major, minor = (int(number) for number in os.uname().release.split(".")[:2])
    return f"{name} ({'.'.join(map(str, since))})" if (major, minor) < since else None


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
