"""A container whose root made its network as large as he could, or named things oddly, is dumped and restored."""

from __future__ import annotations

from pathlib import Path

import pytest

from criu_veth.bounds import MOST
from lab import Criu, Host, Link

HOOK = Path(__file__).parents[2] / "hooks/criu-veth"
WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24",), gateway="10.0.0.1")
MANY = 20_000


@pytest.mark.parametrize(
    ("external", "args", "routes"),
    [(["veth[eth0]:web0@br0"], [], MANY), ([], ["--empty-ns", "net"], MOST - 1)],
    ids=["CRIU makes the pair", "empty"],
)
def test_many_routes_and_an_odd_alias(
    criu: Criu, host: Host, images: Path, external: list[str], args: list[str], routes: int
) -> None:
    host.bridge("br0", "10.0.0.1/24")
    container = host.container([WEB])
    batch = "".join(f"route add 11.0.{n >> 8}.{n & 255}/32 via 10.0.0.1 dev eth0\n" for n in range(MANY))
    container.run("ip", "-batch", "-", stdin=batch)
    host.run("sh", "-c", """ip link set web0 alias "$(printf 'w\\377b')" """)

    dumped = criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()
    outcome = criu.restore(host, images, external=external, args=args, hook=HOOK, links=[WEB])

    total = MANY + 1
    assert set(dumped.said("criu-veth: pre-dump: ")) == {
        f"criu-veth: pre-dump: warning: eth0: {total - MOST} of its {total} routes are not captured (at most {MOST}"
        " of a kind of one end): CRIU brings back what it saved of them, but not into an empty network namespace",
        r"criu-veth: pre-dump: warning: web0: its alias cannot be captured: w\xffb is not UTF-8",
        "criu-veth: pre-dump: captured eth0: web0",
    }
    assert host.link("web0")["master"] == "br0"
    assert "default via 10.0.0.1" in outcome.container.run("ip", "route", "show", "default").stdout
    assert len(outcome.container.run("ip", "route", "show", "root", "11.0.0.0/8").stdout.splitlines()) == routes
    with host.connect("10.0.0.2") as client:
        assert client.ask("after") == "1 after"
