"""Where things are: the mapping file, the state file, and ``/run/criu-veth``.

The hook's cheap path imports this module, so it imports only `posix`.
"""

import posix

RUN_DIR = "/run/criu-veth"
PROGRAMS = RUN_DIR + "/programs"
RUNS = RUN_DIR + "/runs"

CONFIG_VARIABLE = "CRIU_VETH_CONFIG"
CONFIG_DEFAULT = "/etc/criu/criu-veth.toml"
CONFIG_IN_IMAGES = "criu-veth.toml"
STATE_NAME = "criu-veth.json"


def config_candidates(environ: "dict[str, str]", image_dir: str | None) -> "list[str]":
    """Return the paths at which a mapping file is looked for, in order; the first that exists is used.

    A path in ``$CRIU_VETH_CONFIG`` is the only candidate: naming a file that is not there is an error.
    """
    if environ.get(CONFIG_VARIABLE):
        return [environ[CONFIG_VARIABLE]]
    return ([f"{image_dir}/{CONFIG_IN_IMAGES}"] if image_dir else []) + [CONFIG_DEFAULT]


def exists(path: str) -> bool:
    """Say whether there is anything at ``path``, a dangling link included."""
    try:
        posix.lstat(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # whatever it is, it is not absent; opening it will say why
    return True


class Sources:
    """What a program is made from: ``config`` and ``state`` (paths or None), and the ``candidates`` that were looked
    at.
    """

    __slots__ = ("candidates", "config", "image_dir", "state")

    def __init__(self, environ: "dict[str, str]", image_dir: str | None) -> None:
        self.image_dir = image_dir
        self.candidates = config_candidates(environ, image_dir)
        explicit = bool(environ.get(CONFIG_VARIABLE))
        self.config = next((path for path in self.candidates if explicit or exists(path)), None)
        state = f"{image_dir}/{STATE_NAME}" if image_dir else None
        self.state = state if state is not None and exists(state) else None

    @property
    def own(self) -> bool:
        """Whether the image directory holds something that makes its program its own."""
        return self.state is not None or (
            self.config is not None and self.config == f"{self.image_dir}/{CONFIG_IN_IMAGES}"
        )
