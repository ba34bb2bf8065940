"""``python -m criu_veth``: the same as ``criu-veth``."""

from criu_veth.cli import main

main()
