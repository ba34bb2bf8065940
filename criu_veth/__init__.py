"""criu-veth: the network of a checkpointed container, put back by a CRIU action script.

For programs that drive CRIU over RPC: `Notifier` and `external`.
"""

__version__ = "0.1.0"
__all__ = ["Notifier", "__version__", "external"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from criu_veth.notifier import Notifier, external


def __getattr__(name: str) -> object:
    """Import `criu_veth.notifier` when it is first asked for: the hook imports this package too, and in a hurry."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415

    return getattr(importlib.import_module("criu_veth.notifier"), name)
