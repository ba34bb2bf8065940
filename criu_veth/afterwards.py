"""After the container has been resumed: is everything as it was asked for? Only said, nothing is changed."""

import msgspec

from criu_veth import capture, policy
from criu_veth import verify as comparison
from criu_veth.errors import CriuVethError
from criu_veth.state import State, Veth


def verify(wanted: bytes, captured: bytes, pid: int) -> list[str]:
    """Compare the network of the container of ``pid`` with JSON of what was ``wanted`` (`Veth`,
    all of them) and ``captured`` (a `State` or null); return what is to be said.
    """
    veths = msgspec.json.decode(wanted, type=tuple[Veth, ...])
    try:
        found = capture.with_sysctls(capture.capture(pid), pid, comparison.sysctls_of(veths))
    except CriuVethError as error:
        return [f"warning: cannot verify: {fault}" for fault in error.faults]
    differences = comparison.compare(veths, found, msgspec.json.decode(captured, type=State | None))
    refused = [f"notice: verify: {line}" for line in policy.lines(veths)]
    said = [f"warning: verify: {difference}" for difference in differences] or [f"verified: {len(veths)} as asked for"]
    return refused + said
