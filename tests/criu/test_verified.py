"""``verify = true``: once the container runs again, the hook compares the kernel with what was asked for."""

from __future__ import annotations

from pathlib import Path

from lab import Criu, Host, Link

HOOK = Path(__file__).resolve().parents[2] / "hooks/criu-veth"
WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24",))

MEDDLER = """#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" != pre-resume ] || ip link set web0 mtu 1234 </dev/null
"""


def test_equal_is_said(host: Host, criu: Criu, images: Path) -> None:
    host.bridge("br0", "10.0.0.1/24")
    container = host.container([WEB])
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()
    (images / "criu-veth.toml").write_text("verify = true\n")

    outcome = criu.restore(host, images, external=[WEB.external_detached], hook=HOOK)

    assert outcome.said("criu-veth: post-resume") == ["criu-veth: post-resume: verified: 1 as asked for"]
    assert outcome.container.alive


def test_a_difference_is_said_and_changes_nothing(host: Host, criu: Criu, images: Path, tmp_path: Path) -> None:
    host.bridge("br0", "10.0.0.1/24")
    container = host.container([WEB])
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()
    (images / "criu-veth.toml").write_text("verify = true\n")
    meddler = tmp_path / "meddler"
    meddler.write_text(MEDDLER)
    meddler.chmod(0o755)

    outcome = criu.restore(
        host, images, external=[WEB.external_detached], hook=HOOK, args=["--action-script", str(meddler)]
    )

    assert outcome.said("criu-veth: post-resume") == [
        "criu-veth: post-resume: warning: verify: veths[eth0].outer.mtu: wanted 1500, found 1234"
    ]
    assert host.link("web0")["mtu"] == 1234
    assert outcome.container.alive


def test_without_it_nothing_is_said(host: Host, criu: Criu, images: Path) -> None:
    host.bridge("br0", "10.0.0.1/24")
    container = host.container([WEB])
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()

    outcome = criu.restore(host, images, external=[WEB.external_detached], hook=HOOK)

    assert outcome.said("criu-veth: post-resume") == []
