"""criu-veth: the network of a checkpointed container, put back by a CRIU action script."""

__version__ = "0.1.0"
