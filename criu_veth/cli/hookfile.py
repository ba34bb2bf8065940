"""Where the hook is."""

import os

import criu_veth
from criu_veth.errors import OperationError


def find() -> str:
    """Return the absolute path of the hook: within the package once installed, beside it in a checkout.

    Raises OperationError if it is missing or CRIU could not run it.
    """
    package = os.path.dirname(os.path.abspath(criu_veth.__file__))
    places = [os.path.join(folder, "hooks", "criu-veth") for folder in (package, os.path.dirname(package))]
    path = next((place for place in places if os.path.lexists(place)), None)
    if path is None:
        raise OperationError(f"the hook is missing (looked for: {', '.join(places)}): install criu-veth again")
    if not os.path.isfile(path):
        raise OperationError(f"the hook {path} is not a file: install criu-veth again")
    if not os.access(path, os.X_OK):
        raise OperationError(f"CRIU cannot run the hook {path}: it is not executable here: chmod +x it")
    return path
