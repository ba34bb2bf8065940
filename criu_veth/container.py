"""Which container is this? Read from a process's cgroup, what its runtime keeps of it, and an image directory's path.

Nothing of a runtime is asked or run: these are files that it leaves where everybody may find them. What cannot be
seen is left out; a container without a name is no error.

Sources: ``libcontainer/state_linux.go`` of runc (``state.json``), ``src/libcrun/status.c`` of crun (``status``),
``libpod`` (``overlay-containers``), moby (``config.v2.json``), and the annotations of CRI-O and of containerd's CRI.
"""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from criu_veth import paths
from criu_veth.state import Container

_PROC = "/proc"
#: What is read of a file of a runtime's, and of podman's list of all its containers.
_LARGEST, _LARGEST_LIST = 1 << 20, 8 << 20
_MOST_CONTAINERS = 4096

#: Part of a cgroup's path to the runtime that makes such, and the container's id or name.
_CGROUPS = (
    (re.compile(r"^libpod-(?:conmon-)?([0-9a-f]{64})(?:\.scope)?$"), "podman"),
    (re.compile(r"^crio-([0-9a-f]{64})(?:\.scope)?$"), "cri-o"),
    (re.compile(r"^cri-containerd-([0-9a-f]{64})(?:\.scope)?$"), "containerd"),
    (re.compile(r"^docker-([0-9a-f]{64})\.scope$"), "docker"),
    (re.compile(r"^lxc\.payload\.(.+)$"), "lxc"),
    (re.compile(r"^crun-(.+)\.scope$"), "crun"),
    (re.compile(r"^runc-(.+)\.scope$"), "runc"),
)
#: The part before the last one, where that is what tells the runtime.
_PARENTS = {"docker": "docker", "lxc": "lxc", "crun": "crun", "libpod_parent": "podman"}

#: Where an image directory may lie, to the runtime and the container's id or name.
_IMAGE_PATHS = (
    (re.compile(r"/overlay-containers/([0-9a-f]{64})/userdata(?:/|$)"), "podman"),
    (re.compile(r"/docker/containers/([0-9a-f]{64})/checkpoints(?:/|$)"), "docker"),
    (re.compile(r"/io\.containerd\.runtime\.v2\.task/[^/]+/([^/]+)(?:/|$)"), "containerd"),
    (re.compile(r"/lib/lxc/([^/]+)(?:/|$)"), "lxc"),
)

#: Where runtimes keep a directory for each container, under its id, and the file in it.
_STATES = (
    ("/run/runc", "runc", "state.json"),
    ("/run/crun", "crun", "status"),
    ("/run/containerd/runc/default", "containerd", "state.json"),
    ("/run/containerd/runc/k8s.io", "containerd", "state.json"),
    ("/run/docker/runtime-runc/moby", "docker", "state.json"),
)

#: Annotations that give a container's name, its pod's and the pod's namespace.
_NAMES = ("io.kubernetes.cri.container-name", "io.kubernetes.container.name", "nerdctl/name", "org.criu-veth.name")
_PODS = ("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name")
_POD_NAMESPACES = ("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace")


def of_process(pid: int) -> Container:
    """Say which container the process belongs to."""
    runtime, name = _of_cgroup(_read(f"{_PROC}/{pid}/cgroup"))
    if runtime == "lxc":
        name = _lxc_name(pid) or name
    kept = _kept(pid, name)
    if kept is not None:
        keeper, name, bundle, annotations = kept
        runtime = runtime or keeper
    else:
        bundle, annotations = "", {}
    if not name:
        return Container()
    names = [name] if len(name) != 64 else []
    names += [*_annotated(annotations), *_podman_names(bundle), *_docker_names(name)]
    return Container(runtime=runtime, id=name, names=tuple(dict.fromkeys(names)))


def of_images(path: str) -> Container:
    """Say which container's checkpoint an image directory is, if its path tells."""
    for pattern, runtime in _IMAGE_PATHS:
        found = pattern.search(path)
        if found:
            name = found[1]
            bundle = path[: found.end()].rstrip("/") if runtime == "podman" else ""
            names = [name] if len(name) != 64 else []
            names += [*_podman_names(bundle), *_docker_names(name)]
            return Container(runtime=runtime, id=name, names=tuple(dict.fromkeys(names)))
    return Container()


def _of_cgroup(text: str) -> tuple[str, str]:
    """Return the runtime and the id or name, each empty if unknown, from what ``/proc/PID/cgroup`` says."""
    cgroups = [line.split(":", 2)[2] for line in text.splitlines() if line.count(":") >= 2]
    for parts in ([part for part in path.split("/") if part] for path in cgroups):
        for number, part in reversed(list(enumerate(parts))):
            for pattern, runtime in _CGROUPS:
                if found := pattern.match(part):
                    return runtime, found[1]
            before = parts[number - 1] if number else ""
            if before in _PARENTS:
                return _PARENTS[before], part
            if before.startswith("pod") and re.fullmatch("[0-9a-f]{64}", part):
                return "containerd", part
    return "", ""


def _lxc_name(pid: int) -> str:
    """Return the name from the title of LXC's monitor, the parent; a cgroup's may have a number appended."""
    parent = _read(f"{_PROC}/{pid}/stat").rpartition(")")[2].split()[1:2]
    title = _read(f"{_PROC}/{parent[0]}/cmdline").rstrip("\0") if parent else ""
    return title.rpartition(" ")[2] if title.startswith("[lxc monitor] ") else ""


def _kept(pid: int, name: str) -> tuple[str, str, str, dict[str, str]] | None:
    """Return what a runtime keeps of the container with this first process: runtime, id, bundle, annotations."""
    cgroup_name = name or os.path.basename(_first_path(pid))
    for directory, runtime, file in _STATES:
        for container_id in _ids(directory, cgroup_name):
            found = _json(f"{directory}/{container_id}/{file}")
            if (found.get("init_process_pid") or found.get("pid")) != pid:
                continue
            if file == "status":
                bundle = str(found.get("bundle", ""))
                config = _json(f"{directory}/{container_id}/config.json") or _json(f"{bundle}/config.json")
                annotations = config.get("annotations")
            else:
                told = found.get("config")
                labels = _listed(told.get("labels") if isinstance(told, dict) else None)
                annotations = dict(label.split("=", 1) for label in labels if isinstance(label, str) and "=" in label)
                bundle = str(annotations.get("bundle", ""))
            return runtime, container_id, bundle, annotations if isinstance(annotations, dict) else {}
    return None


def _first_path(pid: int) -> str:
    lines = [line for line in _read(f"{_PROC}/{pid}/cgroup").splitlines() if line.count(":") >= 2]
    return max((line.split(":", 2)[2] for line in lines), key=len, default="")


def _ids(directory: str, likely: str) -> Iterator[str]:
    """Yield the ids of the containers in a runtime's directory, the likely one first."""
    if likely and os.path.isdir(f"{directory}/{likely}"):
        yield likely
    try:
        names = os.listdir(directory)
    except OSError:
        return
    yield from (name for name in names[:_MOST_CONTAINERS] if name != likely)


def _annotated(annotations: dict[str, str]) -> list[str]:
    """Return the names that annotations give: the container's, and with its pod's before it."""

    def first(keys: tuple[str, ...]) -> str:
        return next((str(annotations[key]) for key in keys if annotations.get(key)), "")

    name, pod, namespace = first(_NAMES), first(_PODS), first(_POD_NAMESPACES)
    if not name:
        return []
    return [name, f"{namespace}/{pod}/{name}"] if pod and namespace else [name]


class _Listed(msgspec.Struct):
    """One entry of podman's list; the rest of it is not kept."""

    id: Any = None
    names: Any = None


def _podman_names(bundle: str) -> list[str]:
    """Return the names of a podman container by its bundle, ``.../overlay-containers/ID/userdata``."""
    storage, userdata = os.path.split(bundle.rstrip("/"))
    if userdata != "userdata":
        return []
    storage, container_id = os.path.split(storage)
    data = paths.read_followed(f"{storage}/containers.json", _LARGEST_LIST) or b""
    try:
        listed = msgspec.json.decode(data, type=list[_Listed])
    except (msgspec.DecodeError, ValueError, RecursionError):
        return []
    for entry in listed:
        if entry.id == container_id and isinstance(entry.names, list):
            return [name for name in entry.names if isinstance(name, str)]
    return []


def _docker_names(container_id: str) -> list[str]:
    if len(container_id) != 64:
        return []
    name = _json(f"/var/lib/docker/containers/{container_id}/config.v2.json").get("Name")
    return [name.removeprefix("/")] if isinstance(name, str) and name else []


def _json(path: str) -> dict[str, Any]:
    found = _parsed(path)
    return found if isinstance(found, dict) else {}


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _parsed(path: str) -> object:
    try:
        return json.loads(_read(path))
    except (ValueError, RecursionError):
        return None


def _read(path: str) -> str:
    """Return what a file of somebody else's holds, empty if it is none; one that is too long is cut."""
    return (paths.read_followed(path, _LARGEST) or b"").decode("utf-8", "replace")
