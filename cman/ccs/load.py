"""From the text of cluster.conf to a Config: everything in it checked against the table, or every problem told."""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cman.ccs.element import Element, parse
from cman.ccs.problems import ConfigError, Problem
from cman.ccs.settings import ATTRIBUTE_MAX, NODES_MAX, SECONDS_MIN, SECTIONS, Kind, Section, Setting, default
from cman.quorum import QuorumConfig
from cman.totem.config import TotemConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*|_[A-Za-z0-9._:-]+")
# What stands before a packet of the membership protocol on the wire, seal included.
_HEADERS_BYTES = 100
# Slots of a quorum disk (cman.qdisk.ondisk), and programs that rate a node.
DISK_NODES_MAX = 16
HEURISTICS_MAX = 10
_YES, _NO = ("1", "yes", "on", "true"), ("0", "no", "off", "false")


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """One node of the configuration."""

    name: str
    nodeid: int
    votes: int
    element: Element = field(compare=False, repr=False)

    @property
    def fence_names(self) -> tuple[str, ...]:
        """The fence devices of its methods, in order."""
        return tuple(d.attributes["name"] for d in self.element.all("fence/method/device"))


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration that has passed every check."""

    name: str
    version: int
    nodes: tuple[ClusterNode, ...]
    root: Element = field(compare=False, repr=False)
    source: bytes = field(repr=False)

    @property
    def digest(self) -> bytes:
        """Of the text: two files of one version are the same or not."""
        return hashlib.sha256(self.source).digest()

    def text(self, path: str, attribute: str) -> str | None:
        """An attribute of an element that occurs once ("cman/multicast"), or the table's default.

        Raises KeyError for what the table does not have.
        """
        element = self.root.first(path)
        found = element.attributes.get(attribute) if element is not None else None
        return default(f"cluster/{path}", attribute) if found is None else found

    def number(self, path: str, attribute: str) -> int | None:
        found = self.text(path, attribute)
        return None if found is None else int(found)

    def milliseconds(self, path: str, attribute: str) -> int:
        """Of an attribute in seconds that has a default."""
        found = self.text(path, attribute)
        assert found is not None, "the table has a default"
        return round(float(found) * 1000)

    def flag(self, path: str, attribute: str) -> bool:
        return self.text(path, attribute) in _YES

    def node(self, name: str) -> ClusterNode | None:
        return next((n for n in self.nodes if n.name == name), None)

    def node_by_id(self, nodeid: int) -> ClusterNode | None:
        return next((n for n in self.nodes if n.nodeid == nodeid), None)

    @property
    def cluster_id(self) -> int:
        return self.number("cman", "cluster_id") or cluster_id(self.name)

    @property
    def expected_votes(self) -> int:
        """As written, or the sum of what nodes and quorum disk have."""
        written = self.number("cman", "expected_votes")
        return written if written is not None else sum(n.votes for n in self.nodes) + self.disk_votes

    @property
    def disk_votes(self) -> int:
        """Of the quorum disk; 0 without one."""
        if self.root.first("quorumd") is None:
            return 0
        votes = self.number("quorumd", "votes")
        return max(0, len(self.nodes) - 1) if votes is None else votes

    def quorum(self, set_votes: Mapping[int, int] | None = None) -> QuorumConfig:
        """Votes, with those of nodes that were set by hand. Raises ValueError for what cannot be."""
        votes = {n.nodeid: n.votes for n in self.nodes}
        return QuorumConfig({**votes, **{n: v for n, v in (set_votes or {}).items() if n in votes}},
                            self.number("cman", "expected_votes"), self.flag("cman", "two_node"), self.disk_votes)

    @property
    def totem(self) -> TotemConfig:
        """Timers and limits of the membership protocol. Raises ValueError for a combination that cannot work."""
        def of(attribute: str, otherwise: int = 0) -> int:
            found = self.number("totem", attribute)
            return otherwise if found is None else found

        token, consensus = of("token"), of("consensus")
        return TotemConfig(
            token_ms=token, consensus_ms=consensus, join_ms=of("join", min(60, consensus // 5)),
            token_retransmits_before_loss=of("token_retransmits_before_loss_const"),
            merge_ms=of("merge"), hold_ms=of("hold", min(150, token // 3)), pause_ms=of("pause"),
            fail_to_recv_rotations=of("fail_recv_const"), mtu_bytes=of("netmtu") - _HEADERS_BYTES,
            window_size=of("window_size"), max_messages=of("max_messages"))

    @property
    def multicast_address(self) -> str:
        return self.text("cman/multicast", "addr") or multicast_address(self.cluster_id)


def cluster_id(name: str) -> int:
    """The number that cman makes of a name, never 0. Source: cman-preconfig.c, as behaviour."""
    value = 0
    for byte in name.encode():
        value = (value << 1) + byte
    return value & 0xFFFF or 1


def multicast_address(cluster_number: int) -> str:
    """The address that cman makes of a cluster's number. Source: cman-preconfig.c, as behaviour."""
    return f"239.192.{cluster_number >> 8}.{cluster_number % 0xFF}"


def problem_with(setting: Setting, value: str) -> str | None:
    """What is wrong with an attribute's text, None when it is right."""
    if len(value) > ATTRIBUTE_MAX:
        return f"{len(value)} characters: at most {ATTRIBUTE_MAX}"
    if setting.kind is Kind.SECONDS:
        if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", value, re.ASCII) or not SECONDS_MIN <= float(value) <= setting.high:
            return f"wanted seconds from {SECONDS_MIN} to {setting.high}, with three decimals at most"
    elif setting.kind is Kind.NUMBER:
        if not re.fullmatch(r"\d{1,10}", value, re.ASCII) or not setting.low <= int(value) <= setting.high:
            return f"wanted a number from {setting.low} to {setting.high}"
    elif setting.kind is Kind.FLAG:
        if value not in _YES + _NO:
            return f"wanted one of {' '.join(_YES + _NO)}"
    elif setting.kind is Kind.CHOICE:
        if value not in setting.choices:
            return f"wanted one of {' '.join(setting.choices)}"
    elif setting.kind is Kind.ADDRESS:
        try:
            ipaddress.ip_address(value)
        except ValueError:
            return "wanted an IP address"
    elif setting.kind in (Kind.NAME, Kind.TEXT):
        if not setting.low <= len(value) <= setting.high:
            return f"wanted {setting.low} to {setting.high} characters"
        if setting.kind is Kind.NAME and not _NAME.fullmatch(value):
            return "wanted a name of letters, digits and - _ . :"
    return None


def _meant(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {close[0]}?)" if close else ""


class _Check:
    """One walk over a tree; collects problems instead of stopping at the first."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.sections = {s.path: s for s in SECTIONS}

    def complain(self, element: Element, text: str) -> None:
        self.problems.append(Problem(element.line, text))

    def attributes(self, element: Element, section: Section) -> None:
        known = {s.name: s for s in section.settings}
        for name, value in element.attributes.items():
            if name in known:
                if why := problem_with(known[name], value):
                    self.complain(element, f"<{element.tag}> {name}={value[:64]!r}: {why}")
            elif not section.open:
                self.complain(element, f"<{element.tag}> has no attribute {name}{_meant(name, list(known))}")
            elif len(value) > ATTRIBUTE_MAX:
                self.complain(element, f"<{element.tag}> {name}: {len(value)} characters, at most {ATTRIBUTE_MAX}")
        for setting in section.settings:
            if setting.required and setting.name not in element.attributes:
                self.complain(element, f"<{element.tag}> needs the attribute {setting.name}")

    def walk(self, element: Element, path: str) -> None:
        section = self.sections[path]
        self.attributes(element, section)
        if section.free:
            return
        seen: set[str] = set()
        below = [s.tag for p, s in self.sections.items() if p.rpartition("/")[0] == path]
        for child in element.children:
            if child.tag not in below:
                self.complain(child, f"<{element.tag}> has no element <{child.tag}>{_meant(child.tag, below)}")
                continue
            if child.tag in seen and not self.sections[f"{path}/{child.tag}"].many:
                self.complain(child, f"a second <{child.tag}> in <{element.tag}>")
            seen.add(child.tag)
            self.walk(child, f"{path}/{child.tag}")


def _twice(elements: Iterator[Element], attribute: str, check: _Check) -> None:
    first: dict[str, Element] = {}
    for element in elements:
        value = element.attributes.get(attribute)
        if value is None:
            continue
        value = str(int(value)) if value.isascii() and value.isdigit() else value
        if value in first:
            check.complain(element, f"<{element.tag}> {attribute}={value!r} is already that of line "
                                    f"{first[value].line}")
        first.setdefault(value, element)


def _cross_checks(root: Element, check: _Check) -> None:
    """What no attribute shows alone."""
    nodes = list(root.all("clusternodes/clusternode"))
    if not nodes:
        check.complain(root, "no <clusternode> in <clusternodes>")
    if len(nodes) > NODES_MAX:
        check.complain(nodes[NODES_MAX], f"{len(nodes)} nodes, at most {NODES_MAX}")
    _twice(iter(nodes), "name", check)
    _twice(iter(nodes), "nodeid", check)
    _twice(root.all("fencedevices/fencedevice"), "name", check)
    devices = [d.attributes.get("name", "") for d in root.all("fencedevices/fencedevice")]
    for node in nodes:
        for use in (*node.all("fence/method/device"), *node.all("unfence/device")):
            if (name := use.attributes.get("name")) is not None and name not in devices:
                check.complain(use, f"<device> name={name!r}: no such <fencedevice>{_meant(name, devices)}")
    names = [n.attributes.get("name", "") for n in nodes]
    for use in root.all("rm/failoverdomains/failoverdomain/failoverdomainnode"):
        if (name := use.attributes.get("name")) is not None and name not in names:
            check.complain(use, f"<failoverdomainnode> name={name!r}: no such <clusternode>{_meant(name, names)}")
    cman = root.first("cman")
    if cman is not None and cman.attributes.get("two_node") in _YES:
        if cman.attributes.get("expected_votes") != "1":
            check.complain(cman, "two_node needs expected_votes=\"1\"")
        if len(nodes) > 2:
            check.complain(cman, f"two_node with {len(nodes)} nodes")
    if (disk := root.first("quorumd")) is not None:
        _check_disk(disk, nodes, check)


def _check_disk(disk: Element, nodes: list[Element], check: _Check) -> None:
    if not {"label", "device"} & set(disk.attributes):
        check.complain(disk, "<quorumd> needs a label or a device")
    for node in nodes:
        if (nodeid := _whole(node.attributes.get("nodeid"))) > DISK_NODES_MAX:
            check.complain(node, f"<clusternode> nodeid=\"{nodeid}\": a quorum disk has places for the ids 1 to "
                                 f"{DISK_NODES_MAX}")
    programs = list(disk.all("heuristic"))
    if len(programs) > HEURISTICS_MAX:
        check.complain(programs[HEURISTICS_MAX], f"{len(programs)} <heuristic>, at most {HEURISTICS_MAX}")
    most = sum(_whole(p.attributes.get("score"), 1) for p in programs) if programs else 1
    if (least := _whole(disk.attributes.get("min_score"))) > most:
        check.complain(disk, f"<quorumd> min_score=\"{least}\": the scores of all heuristics make {most}")


def _whole(text: str | None, otherwise: int = 0) -> int:
    """What is no number has been complained of already."""
    return int(text) if text is not None and re.fullmatch(r"\d{1,10}", text, re.ASCII) else otherwise


def load(data: bytes, name: str = "cluster.conf") -> Config:
    """The configuration in `data`; `name` stands before each problem. Raises ConfigError."""
    root = parse(data, name)
    check = _Check()
    if root.tag != "cluster":
        raise ConfigError(name, [Problem(root.line, f"the outermost element is <{root.tag}>, wanted <cluster>")])
    check.walk(root, "cluster")
    _cross_checks(root, check)
    if check.problems:
        raise ConfigError(name, check.problems)
    config = Config(root.attributes["name"], int(root.attributes["config_version"]), _nodes(root), root, data)
    try:
        _ = config.totem
    except ValueError as e:
        raise ConfigError(name, [Problem((root.first("totem") or root).line, f"<totem>: {e}")]) from None
    try:
        config.quorum()
    except ValueError as e:
        raise ConfigError(name, [Problem((root.first("cman") or root).line, f"<cman>: {e}")]) from None
    return config


def _nodes(root: Element) -> tuple[ClusterNode, ...]:
    def whole(attributes: Mapping[str, str], key: str) -> int:
        found = attributes.get(key) or default("cluster/clusternodes/clusternode", key)
        assert found is not None, "required attributes have been checked"
        return int(found)

    return tuple(ClusterNode(e.attributes["name"], whole(e.attributes, "nodeid"), whole(e.attributes, "votes"), e)
                 for e in root.all("clusternodes/clusternode"))
