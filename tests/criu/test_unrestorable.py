"""What CRIU dumps and cannot restore: said at the dump, by check and at pre-restore, with a remedy that works."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import Container, Criu, Host, Link
from lab.cli import cli
from lab.nested import nested
from lab.waiting import wait_for

pytestmark = pytest.mark.vm

HOOK = Path(__file__).resolve().parents[2] / "hooks/criu-veth"
WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24",))
DARK = Link(inner="eth1", outer="web1", bridge="br0", addresses=("10.98.0.2/24",))
EMPTY = "restore it with --empty-ns net, where the hook makes the veths"

NO_CARRIER = (
    "eth1: CRIU cannot restore its routes to {}: the device has no carrier; set its other end up or delete the route,"
    f" before the dump, or {EMPTY} and their routes"
)
NEXTHOP = (
    "eth0: CRIU cannot restore its route to 10.97.0.0/24: it goes by a nexthop object, and CRIU saves none; write it"
    f" without one before the dump, or {EMPTY}, without that route"
)
MACVLAN = (
    "mv0: CRIU cannot restore this macvlan, whose parent is in the container: it makes one only on a parent outside;"
    f" delete it before the dump, or {EMPTY} and their routes, without the macvlan"
)
MACVLAN_IN_IMAGES = (
    "mv0: CRIU restores this macvlan only with --external 'macvlan[mv0]:PARENT' and a parent outside the container;"
    f" if its parent was inside, {EMPTY} and their routes, without the macvlan"
)
TENTATIVE = (
    "eth0: CRIU cannot restore its route to fd97::/64: unless accept_dad is 0, the preferred source fd00::2 is not"
    " usable yet when CRIU adds the route; give that address nodad (ip address change fd00::2/LENGTH dev eth0 nodad),"
    f" before the dump, or {EMPTY} and their routes"
)


@pytest.fixture
def bridged(host: Host) -> Host:
    host.bridge("br0", "10.0.0.1/24")
    return host


def no_carrier(host: Host, container: Container) -> None:
    container.run("sh", "-ec", "for n in 94 95 96 97; do ip route add 10.$n.0.0/24 via 10.98.0.1 dev eth1; done")
    host.run("ip", "link", "set", "web1", "down")
    wait_for(lambda: "NO-CARRIER" in container.ip("link", "show", "eth1")[0]["flags"], "eth1 without carrier")


def nexthop(_: Host, container: Container) -> None:
    container.run("ip", "nexthop", "add", "id", "7", "via", "10.0.0.1", "dev", "eth0")
    container.run("ip", "route", "add", "10.97.0.0/24", "nhid", "7")


def macvlan(_: Host, container: Container) -> None:
    container.run("ip", "link", "add", "mv0", "link", "eth0", "type", "macvlan", "mode", "bridge")


def tentative(_: Host, container: Container) -> None:
    container.run("sh", "-ec", "ip address add fd00::2/64 dev eth0; ip -6 route add fd97::/64 dev eth0 metric 5")
    wait_for(lambda: not container.ip("-6", "address", "show", "dev", "eth0", "tentative"), "fd00::2 to be usable")
    container.run("ip", "-6", "route", "replace", "fd97::/64", "dev", "eth0", "metric", "5", "src", "fd00::2")


SITUATIONS = {
    "no carrier": (no_carrier, NO_CARRIER.format("10.94.0.0/24, 10.95.0.0/24, 10.96.0.0/24 and 2 more"), None),
    "nexthop object": (nexthop, NEXTHOP, None),
    "macvlan": (macvlan, MACVLAN, MACVLAN_IN_IMAGES),
    "tentative source": (tentative, TENTATIVE, None),
}


def said(lines: list[str], what: str) -> list[str]:
    return [line.partition("warning: ")[2] for line in lines if "warning: " in line and what in line]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_is_said_from_the_kernel_and_from_the_images(bridged: Host, criu: Criu, images: Path, situation: str) -> None:
    make, warning, from_images = SITUATIONS[situation]
    container = bridged.container([WEB, DARK])
    make(bridged, container)

    dumped = criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()

    assert said(dumped.said("criu-veth: pre-dump: "), "CRIU") == [warning]
    checked = cli(bridged, "check", "--images", str(images)).stderr.splitlines()
    assert said(checked, "CRIU") == [from_images or warning]
    external = [WEB.external_detached, DARK.external_detached]
    outcome = criu.restore(bridged, images, external=external, hook=HOOK, check=False)
    assert said(outcome.said("criu-veth: pre-restore: "), "CRIU") == [warning]
    assert not outcome.restored, "the warning was true"


@pytest.mark.parametrize("situation", SITUATIONS)
def test_remedy_works(bridged: Host, criu: Criu, images: Path, situation: str) -> None:
    container = bridged.container([WEB, DARK])
    SITUATIONS[situation][0](bridged, container)
    routes = container.ip("route")
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()

    restored = criu.restore(bridged, images, args=["--empty-ns", "net"], hook=HOOK).container

    kept = [route for route in routes if "nhid" not in route]
    assert restored.ip("route") == kept
    assert bridged.connect("10.0.0.2").ask("hello") == "1 hello"


def test_fails_the_dump_if_that_is_asked_for(bridged: Host, criu: Criu, images: Path) -> None:
    container = bridged.container([WEB])
    nexthop(bridged, container)
    (images / "criu-veth.toml").write_text('[capture]\non_error = "error"\n')

    outcome = criu.dump(container, images, hook=HOOK, check=False)

    assert outcome.returncode
    assert outcome.said("criu-veth: error: ") == [
        f'criu-veth: error: pre-dump: {NEXTHOP}; to dump it all the same: [capture] on_error = "warn" in the mapping'
        " file, or no on_error"
    ]
    assert bridged.connect("10.0.0.2").ask("hello") == "1 hello", "the application has not been touched"


@pytest.mark.parametrize("options", [("--empty-ns", "net"), ()], ids=["empty", "one's own parent"])
def test_is_not_said_where_it_can_be_restored(
    bridged: Host, criu: Criu, images: Path, options: tuple[str, ...]
) -> None:
    """In an empty network namespace all of it; and a route with a source that is usable at once."""
    container = bridged.container([WEB])
    if options:
        nexthop(bridged, container)
    else:
        container.run("ip", "address", "add", "fd00::2/64", "dev", "eth0", "nodad")
        container.run("ip", "-6", "route", "add", "fd97::/64", "dev", "eth0", "src", "fd00::2")

    outcome = criu.dump(container, images, hook=HOOK, args=options)
    container.wait_unplugged()

    assert said(outcome.said("criu-veth: "), "CRIU") == []
    external = () if options else [WEB.external_detached]
    outcome = criu.restore(bridged, images, external=external, args=options, hook=HOOK)
    assert said(outcome.said("criu-veth: "), "CRIU") == []


def test_is_said_of_every_namespace_of_the_tree(bridged: Host, criu: Criu, images: Path) -> None:
    beside = Link(inner="eth1", outer="app0", bridge="br0", addresses=("10.0.0.3/24",))
    container, child = nested(bridged, (WEB,), (beside,))
    child.run("ip", "nexthop", "add", "id", "7", "via", "10.0.0.1", "dev", "eth1")
    child.run("ip", "route", "add", "10.97.0.0/24", "nhid", "7")

    outcome = criu.dump(container, images, hook=HOOK)
    bridged.wait_no_link("web0", "app0")

    assert said(outcome.said("criu-veth: pre-dump: "), "CRIU") == [NEXTHOP.replace("eth0", "eth1")]


def test_hops_that_do_not_come_back_in_an_empty_namespace(bridged: Host, criu: Criu, images: Path) -> None:
    """CRIU restores a route with several next hops; the hook, which makes the pair there, does not."""
    container = bridged.container([WEB])
    container.run(
        *("ip", "route", "add", "10.97.0.0/24"),
        *("nexthop", "via", "10.0.0.1", "dev", "eth0", "nexthop", "via", "10.0.0.3", "dev", "eth0"),
    )
    routes = container.ip("route")

    outcome = criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()

    assert outcome.said("criu-veth: ") == [
        "criu-veth: pre-dump: notice: eth0: its route to 10.97.0.0/24 with several next hops does not come back with"
        " --empty-ns net",
        "criu-veth: pre-dump: captured eth0: web0",
    ]
    restored = criu.restore(bridged, images, args=["--empty-ns", "net"], hook=HOOK).container
    assert restored.ip("route") == [route for route in routes if "nexthops" not in route]
