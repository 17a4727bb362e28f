"""The connection to a Ray cluster: which one, its nodes, and whether they fit."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

# Ray reads these when it is imported or started.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.devices import nodes as devices
from search.devices.gpus import Gpu, find_gpus
from search.devices.slots import available_cpus
from search.devices.usage import Use
from search.errors import OptionError, SearchError
from search.executors.ray import internals, versions
from search.executors.ray.plan import Node
from search.options import Options
from search.space.error_text import as_one_line

__all__ = [
    "Cluster",
    "ask_versions",
    "check_nodes",
    "choose_address",
    "connect",
    "describe_node",
    "find_devices",
    "on_node",
]

ANSWER_SECONDS = 5.0
"""Seconds for a cluster to accept a connection."""

CHECK_SECONDS = 120.0
"""Seconds for all nodes to report their versions: a node may start its first process for it."""

_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[\w.-]+):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        address: of its head; "" for one that was started for this search.
        source: the origin of the address, for users.
        own: this process has made the connection, and ends it.
    """

    address: str
    source: str
    own: bool

    def __str__(self) -> str:
        if not self.address:
            return "a Ray cluster of this search's own"
        return f"the Ray cluster at {self.address} ({self.source})"

    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes that are alive, in a fixed order."""
        alive = [node for node in ray.nodes() if node["Alive"]]
        hosts = Counter(node["NodeManagerHostname"] for node in alive)
        return tuple(sorted((_node(node, hosts) for node in alive), key=lambda node: (node.name, node.id)))

    def draining(self) -> frozenset[str]:
        """Return the ids of the nodes that are about to be taken away; none if Ray does not tell."""
        return internals.draining_nodes() or frozenset()

    @property
    def tells_draining(self) -> bool:
        """True if Ray tells which nodes are about to be taken away."""
        return internals.draining_nodes() is not None

    def answers(self) -> bool:
        """Return whether the head accepts connections."""
        return answers(ray.get_runtime_context().gcs_address)

    def disconnect(self) -> None:
        """End the connection, and a cluster that was started for this search. A dead head is not waited for."""
        if self.own:
            thread = threading.Thread(target=_shut_down, daemon=True)
            thread.start()
            thread.join(2 * ANSWER_SECONDS)


def _shut_down() -> None:
    with suppress(Exception):
        ray.shutdown()


def _node(found: Mapping[str, Any], hosts: Mapping[str, int]) -> Node:
    host, resources = found["NodeManagerHostname"], found["Resources"]
    name = host if hosts[host] == 1 else f"{host}-{found['NodeID'][:4]}"
    machine = f"{host} {found['NodeManagerAddress']}"
    return Node(found["NodeID"], name, resources.get("CPU", 0.0), int(resources.get("GPU", 0)), machine)


# Connecting -----------------------------------------------------------------------------------------------------------


def choose_address(option: str | None, environ: Mapping[str, str], running: str | None) -> tuple[str, str]:
    """Return the address of the cluster to use, "" to start one, and the origin of the address for users.

    Args:
        option: `--ray-address`.
        environ: the environment variables.
        running: the address of a cluster of the same user on this machine, if there is one.

    Raises:
        OptionError: the address has a form that cannot be used.
    """
    given, source = option, "--ray-address"
    if not given and environ.get("RAY_ADDRESS"):
        given, source = environ["RAY_ADDRESS"], "RAY_ADDRESS"
    if given in ("local", "LOCAL"):
        return "", source
    if not given or given == "auto":
        if running is None and given == "auto":
            raise OptionError(f"{source} auto: no cluster of yours runs here: start one by ray start --head")
        return (running, "it runs on this machine") if running else ("", "none runs on this machine")
    if given.startswith("ray://"):
        raise OptionError(
            f"{source} {given}: a search over Ray Client would end when the connection breaks: run it on a node of the "
            "cluster, by ssh or as ray job submit -- search run …, and give its address as HOST:6379"
        )
    if not _ADDRESS.fullmatch(given):
        raise OptionError(f"{source} {given!r} is no address: give that of the cluster's head, such as 10.0.0.1:6379")
    return given, source


def answers(address: str) -> bool:
    """Return whether something accepts connections at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def connect(opts: Options) -> Cluster:
    """Connect this process to the cluster that the options name, or start one. A second call changes nothing.

    Raises:
        OptionError: the cluster cannot be used.
    """
    global _connected
    if _connected is not None and ray.is_initialized():
        return _connected
    if ray.is_initialized():  # by the user's program
        return Cluster(ray.get_runtime_context().gcs_address, "this process uses it", own=False)
    running = internals.running_cluster()
    if running is not None and not answers(running):
        running = None  # the file that names it has outlived it
    address, source = choose_address(opts.ray_address, os.environ, running)
    if address and not answers(address):
        raise OptionError(
            f"{source} {address}: no cluster answers there: give the address that ray start --head has printed, or "
            "--ray-address local"
        )
    _init(address, source, gpus=opts.gpus.strip().lower() != "none")
    _connected = Cluster(address, source, own=True)
    return _connected


_connected: Cluster | None = None


def _init(address: str, source: str, *, gpus: bool) -> None:
    """Call `ray.init`. Signals go on to the handlers that they had before."""
    own: dict[str, Any] = {
        "num_cpus": max(1, int(available_cpus())),
        "num_gpus": len(find_gpus()) if gpus else 0,
        "include_dashboard": False,
        "object_store_memory": 200 * 2**20,
    }
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        ray.init(
            address=address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **({} if address else own)
        )
    except Exception as error:
        reason = as_one_line(str(error))
        if "ersion mismatch" in reason:
            reason = f"it has other versions of Python or Ray ({reason})"
        where = f"{source} {address}" if address else "--executor ray"
        raise OptionError(f"{where}: cannot be used: {reason}") from error
    finally:
        if main and before is not None:
            signal.signal(signal.SIGTERM, before)
    internals.silence()


# Nodes that fit -------------------------------------------------------------------------------------------------------


def on_node(node: str) -> Any:
    """Return the strategy that places an actor or a task on a node, and nowhere else."""
    return NodeAffinitySchedulingStrategy(node, soft=False)


def ask_versions(node: Node, packages: Sequence[str]) -> Any:
    """Have a node report its versions. Return the reference to the result."""
    ray.cloudpickle.register_pickle_by_value(versions)
    try:
        look = ray.remote(num_cpus=0, max_retries=1)(versions.installed)
        return look.options(scheduling_strategy=on_node(node.id)).remote(tuple(packages))
    finally:
        ray.cloudpickle.unregister_pickle_by_value(versions)


def describe_node(node: Node, found: Any, packages: Sequence[str]) -> str | None:
    """Return the difference of a node from this process, for users; None if it fits.

    Args:
        found: the node's versions, or the exception in their place.
    """
    if isinstance(found, BaseException):
        return f"node {node.name} does not run a task ({as_one_line(str(found))})"
    difference = versions.describe_difference(versions.installed(tuple(packages)), found)
    return None if difference is None else f"node {node.name} {difference}"


def check_nodes(nodes: Sequence[Node], packages: Sequence[str]) -> dict[str, str | None]:
    """Compare the versions on nodes with those of this process. Return each one's difference by its id."""
    calls = {node: ask_versions(node, packages) for node in nodes}
    ray.wait(list(calls.values()), num_returns=len(calls), timeout=CHECK_SECONDS)
    found: dict[str, str | None] = {}
    for node, call in calls.items():
        try:
            result = ray.get(call, timeout=0)
        except ray.exceptions.RayError as error:
            result = error
        found[node.id] = describe_node(node, result, packages)
    return found


def find_devices(nodes: Sequence[Node]) -> dict[str, devices.Node]:
    """Have each node look at its own GPUs and processors. Return what it found by its id.

    The GPUs are as many as Ray gives away there. Those that a node does not find itself are shown by their number.

    Raises:
        OptionError: a node does not answer.
    """
    look = ray.remote(num_cpus=0, max_retries=1)(devices.find_node)
    calls = {node: look.options(scheduling_strategy=on_node(node.id)).remote({}) for node in nodes}
    ray.wait(list(calls.values()), num_returns=len(calls), timeout=CHECK_SECONDS)
    found = {}
    for node, call in calls.items():
        try:
            result = ray.get(call, timeout=0)
        except ray.exceptions.RayError as error:
            raise OptionError(
                f"--executor ray: node {node.name} does not answer ({as_one_line(str(error))})"
            ) from error
        missing = range(len(result.uses), node.gpus)
        unknown = (Use(Gpu(index, f"{node.name}:{index}", "unknown to the node", 0)) for index in missing)
        uses = (*result.uses, *unknown)[: node.gpus]
        found[node.id] = replace(result, name=node.name, cpus=node.cpus, uses=uses)
    return found


def head_is_gone(address: str) -> SearchError:
    """Return the error that ends a search whose cluster is gone."""
    return SearchError(
        f"{address} does not answer any more. Nothing journaled is lost: go on with search resume, on another cluster "
        "(--ray-address) or on this machine (--executor local)"
    )
