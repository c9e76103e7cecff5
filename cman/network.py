"""Who this node is: names of cluster.conf to addresses, and which of them is our own.

An address is our own when a socket can be bound to it, which the kernel decides for the network namespace that we
are in: no list of interfaces has to be read and understood.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from cman.ccs.load import ClusterNode, Config


class NetworkError(Exception):
    """This node or its address cannot be found; the text says which name to look at."""


@dataclass(frozen=True, slots=True)
class Place:
    """This node and where all nodes are. An address that is missing did not resolve."""

    me: ClusterNode
    addresses: dict[int, str]


def resolve(name: str) -> list[str]:
    """The addresses of a name or address, IPv4 first; empty when it is not known."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return []
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_local(address: str) -> bool:
    """Whether a datagram can be sent from this address here; never true of loopback."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if address.startswith("127.") or address == "::1":
        return False
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def find_me(config: Config, wanted: str | None, host_name: str) -> ClusterNode:
    """The entry of this node: the name that was asked for, the host name, its first part, or the only local address.

    Raises NetworkError.
    """
    if wanted is not None:
        found = config.node(wanted)
        if found is None:
            raise NetworkError(f"no clusternode {wanted!r} in cluster.conf "
                               f"(it has {', '.join(n.name for n in config.nodes)})")
        return found
    for name in (host_name, host_name.partition(".")[0]):
        if (found := config.node(name)) is not None:
            return found
    by_prefix = [n for n in config.nodes if n.name.partition(".")[0] == host_name.partition(".")[0]]
    if len(by_prefix) == 1:
        return by_prefix[0]
    local = [n for n in config.nodes if any(is_local(a) for a in resolve(n.name))]
    if len(local) == 1:
        return local[0]
    raise NetworkError(f"none of the nodes of cluster.conf is this one: the host name is {host_name!r}, and "
                       + (f"{', '.join(n.name for n in local)} have addresses here" if local
                          else "no node's name leads to an address of this machine"))


def locate(config: Config, me: ClusterNode) -> Place:
    """Addresses of all nodes, our own being one that is here. Raises NetworkError."""
    own = resolve(me.name)
    if not own:
        raise NetworkError(f"the name of this node, {me.name!r}, leads to no address: put it into /etc/hosts")
    here = [a for a in own if is_local(a)]
    if not here:
        raise NetworkError(f"{me.name} is {', '.join(own)}, which is no address of this machine's network")
    family = ":" in here[0]
    addresses = {me.nodeid: here[0]}
    for node in config.nodes:
        if node.nodeid == me.nodeid:
            continue
        found = [a for a in resolve(node.name) if (":" in a) == family and not a.startswith("127.")]
        if found:
            addresses[node.nodeid] = found[0]
    return Place(me, dict(sorted(addresses.items())))
