"""What cluster.conf says about fencing a node: methods in order, each a row of agents to run. Pure.

The arguments of an agent are the attributes of its <fencedevice>, those of the <device> on top of them, and
nodename=; it gets them as key=value lines on its standard input (source: the agents' API, fence-agents).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cman.ccs.element import Element
from cman.ccs.load import ClusterNode, Config

_OWN = ("name", "agent")
_ACTIONS = ("action", "option")         # the second is RHEL 5's word
_UNPRINTED = frozenset("\n\r\0")


@dataclass(frozen=True, slots=True)
class Step:
    """One run of one agent. `device` is the name of its <fencedevice>: one runs on it at a time."""

    device: str
    agent: str
    arguments: tuple[tuple[str, str], ...]

    def stdin(self) -> bytes:
        """Raises ValueError for a value that would be read as more than one line."""
        for key, value in self.arguments:
            if _UNPRINTED & {*key, *value}:
                raise ValueError(f"fence device {self.device}: {key} has a line break in it")
        return "".join(f"{key}={value}\n" for key, value in self.arguments).encode()

    @property
    def action(self) -> str:
        """Empty: what the agent does by itself, which is to switch a machine off and on again."""
        return next((value for key, value in self.arguments if key in _ACTIONS), "")


@dataclass(frozen=True, slots=True)
class Method:
    """Steps that must all succeed."""

    name: str
    steps: tuple[Step, ...]


def methods(config: Config, nodeid: int) -> tuple[Method, ...]:
    """How the node is fenced, best method first; empty when the configuration has none, or no such node."""
    node = config.node_by_id(nodeid)
    if node is None:
        return ()
    found = []
    for number, element in enumerate(node.element.all("fence/method"), 1):
        steps = tuple(_step(config, node, use) for use in element.all("device"))
        if steps:
            found.append(Method(element.attributes.get("name", str(number)), _all_off_first(steps)))
    return tuple(found)


def unfencing(config: Config, nodeid: int) -> tuple[Step, ...]:
    """What gives the node its access back: run by itself before it joins."""
    node = config.node_by_id(nodeid)
    if node is None:
        return ()
    return tuple(_with_action(step, "on") for step in
                 (_step(config, node, use) for use in node.element.all("unfence/device")))


def _step(config: Config, node: ClusterNode, use: Element) -> Step:
    name = use.attributes["name"]
    device = next(d for d in config.root.all("fencedevices/fencedevice") if d.attributes["name"] == name)
    arguments = {k: v for k, v in device.attributes.items() if k not in _OWN}
    arguments.update((k, v) for k, v in use.attributes.items() if k not in _OWN)
    arguments["nodename"] = node.name
    return Step(name, device.attributes["agent"], tuple(arguments.items()))


def _with_action(step: Step, action: str) -> Step:
    return step if step.action else replace(step, arguments=(*step.arguments, ("action", action)))


def _all_off_first(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """A node with two power supplies is off only when both are at once; so unless the file says which action."""
    if len(steps) < 2 or any(step.action for step in steps):
        return steps
    return tuple(_with_action(step, action) for action in ("off", "on") for step in steps)
