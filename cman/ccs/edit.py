"""Changes to cluster.conf as ccs_tool makes them: on the text itself: comments stay. Each raises the version."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lxml import etree

from cman.ccs.element import document
from cman.ccs.settings import NODE_ID_MAX, VERSION_MAX

Attributes = Sequence[tuple[str, str]]


class EditError(ValueError):
    """The change cannot be made; the text says why."""


class Document:
    """One cluster.conf being edited. It need not be a valid one: editing is how it becomes valid."""

    def __init__(self, data: bytes, name: str) -> None:
        """Raises ConfigError when it is not XML at all, EditError when it is no cluster.conf."""
        self._root = document(data, name)
        if self._root.tag != "cluster":
            raise EditError(f"{name}: the outermost element is <{self._root.tag}>, wanted <cluster>")

    @property
    def name(self) -> str:
        return str(self._root.get("name", ""))

    @property
    def version(self) -> int:
        """0 when there is none that can be read."""
        text = str(self._root.get("config_version", ""))
        return int(text) if text.isascii() and text.isdigit() else 0

    def text(self) -> bytes:
        """The file with every element on a line of its own."""
        etree.indent(self._root, space="  ")
        return bytes(etree.tostring(self._root.getroottree(), encoding="utf-8", xml_declaration=True)) + b"\n"

    def raise_version(self) -> None:
        if self.version >= VERSION_MAX:
            raise EditError(f"config_version {self.version} cannot be raised")
        self._root.set("config_version", str(self.version + 1))

    def _below(self, parent: etree._Element, tag: str) -> etree._Element:
        """The element of that name, made when it is not there."""
        found = parent.find(tag)
        return found if found is not None else etree.SubElement(parent, tag)

    def _named(self, path: str, name: str) -> etree._Element | None:
        return next((e for e in self._root.iterfind(path) if e.get("name") == name), None)

    def _node_ids(self) -> set[int]:
        texts = (str(e.get("nodeid", "")) for e in self._root.iterfind("clusternodes/clusternode"))
        return {int(t) for t in texts if t.isascii() and t.isdigit()}

    def add_node(self, name: str, nodeid: int, votes: int, fence: str | None, options: Attributes) -> None:
        if self._named("clusternodes/clusternode", name) is not None:
            raise EditError(f"node {name} already exists")
        if not 1 <= nodeid <= NODE_ID_MAX:
            raise EditError(f"node id {nodeid}: wanted 1 to {NODE_ID_MAX}")
        if nodeid in self._node_ids():
            raise EditError(f"node id {nodeid} is already in use")
        if fence is not None and self._named("fencedevices/fencedevice", fence) is None:
            raise EditError(f"fence device {fence} does not exist (ccs_tool addfence makes one)")
        if options and fence is None:
            raise EditError(f"{options[0][0]}={options[0][1]}: fence options need a fence device (-f)")
        node = etree.SubElement(self._below(self._root, "clusternodes"), "clusternode", name=name, votes=str(votes),
                                nodeid=str(nodeid))
        if fence is not None:
            method = etree.SubElement(etree.SubElement(node, "fence"), "method", name="single")
            self._attributes(etree.SubElement(method, "device", name=fence), options)

    def delete_node(self, name: str) -> None:
        found = self._named("clusternodes/clusternode", name)
        if found is None:
            raise EditError(f"node {name} does not exist")
        self._remove(found)

    def add_fence(self, name: str, agent: str, options: Attributes) -> None:
        if self._named("fencedevices/fencedevice", name) is not None:
            raise EditError(f"fence device {name} already exists")
        made = etree.SubElement(self._below(self._root, "fencedevices"), "fencedevice", name=name, agent=agent)
        self._attributes(made, options)

    def delete_fence(self, name: str) -> list[str]:
        """The nodes that still use it."""
        found = self._named("fencedevices/fencedevice", name)
        if found is None:
            raise EditError(f"fence device {name} does not exist")
        self._remove(found)
        return [str(n.get("name")) for n in self._root.iterfind("clusternodes/clusternode")
                if any(d.get("name") == name for d in n.iterfind("fence/method/device"))]

    def add_node_ids(self, first: int) -> list[tuple[str, int]]:
        """Give a number to every node that has none; (name, number) of each."""
        taken, given, number = self._node_ids(), [], first
        for node in self._root.iterfind("clusternodes/clusternode"):
            if node.get("nodeid"):
                continue
            while number in taken:
                number += 1
            node.set("nodeid", str(number))
            taken.add(number)
            given.append((str(node.get("name", "?")), number))
        return given

    def set_multicast(self, address: str) -> None:
        self._below(self._below(self._root, "cman"), "multicast").set("addr", address)

    @staticmethod
    def _remove(element: etree._Element) -> None:
        parent = element.getparent()
        assert parent is not None
        parent.remove(element)

    @staticmethod
    def _attributes(element: etree._Element, options: Attributes) -> None:
        for key, value in options:
            try:
                if key in element.attrib:
                    raise EditError(f"{key} is given twice")
                element.set(key, value)
            except ValueError as e:
                if isinstance(e, EditError):
                    raise
                raise EditError(f"{key}={value}: {e}") from None


def skeleton(name: str, two_node: bool, nodes: Iterable[str] = (), fence: str | None = None) -> bytes:
    """A new configuration, version 1."""
    root = etree.Element("cluster", name=name, config_version="1")
    if two_node:
        etree.SubElement(root, "cman", two_node="1", expected_votes="1")
    below = etree.SubElement(root, "clusternodes")
    for number, node in enumerate(nodes, 1):
        made = etree.SubElement(below, "clusternode", name=node, votes="1", nodeid=str(number))
        if fence is not None:
            etree.SubElement(etree.SubElement(etree.SubElement(made, "fence"), "method", name="single"), "device",
                             name=fence)
    devices = etree.SubElement(root, "fencedevices")
    if fence is not None:
        etree.SubElement(devices, "fencedevice", name=fence, agent=f"fence_{fence}")
    rm = etree.SubElement(root, "rm")
    etree.SubElement(rm, "failoverdomains")
    etree.SubElement(rm, "resources")
    etree.indent(root, space="  ")
    return bytes(etree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"
