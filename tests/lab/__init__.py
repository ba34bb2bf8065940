"""Simulated hosts: real kernel, real CRIU, nothing touched on the machine itself."""

from .action import hook_processes, run_action
from .client import Client
from .container import Container, Link, Program, echo_server
from .criu import Criu, Outcome, find_criu
from .host import Host, join
from .process import CommandError, Handle
from .snapshot import snapshot
from .waiting import DeadlineError, scaled, wait_for

__all__ = [
    "Client",
    "CommandError",
    "Container",
    "Criu",
    "DeadlineError",
    "Handle",
    "Host",
    "Link",
    "Outcome",
    "Program",
    "echo_server",
    "find_criu",
    "hook_processes",
    "join",
    "run_action",
    "scaled",
    "snapshot",
    "wait_for",
]
