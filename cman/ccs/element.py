"""cluster.conf as a tree of plain values with line numbers, read by lxml with everything dangerous switched off.

The file is text that other nodes and tools hand over: no document type, no entities, no network, UTF-8 only, and
limits on size, depth and number of elements, so that no file makes the reader work or grow without end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lxml import etree

from cman.ccs.problems import ConfigError, Problem

FILE_BYTES_MAX = 1 << 20
DEPTH_MAX = 24
ELEMENTS_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Element:
    """One element; `line` counts from 1 in the file that it was read from."""

    tag: str
    line: int = 0
    attributes: Mapping[str, str] = field(default_factory=dict)
    children: tuple[Element, ...] = ()

    def all(self, path: str) -> Iterator[Element]:
        """The elements below this one that a path of tags leads to, in order: "clusternodes/clusternode"."""
        tag, _, rest = path.partition("/")
        for child in self.children:
            if child.tag == tag:
                if rest:
                    yield from child.all(rest)
                else:
                    yield child

    def first(self, path: str) -> Element | None:
        return next(self.all(path), None)


def parser() -> etree.XMLParser:
    """A parser that resolves, fetches and expands nothing."""
    return etree.XMLParser(encoding="utf-8", resolve_entities=False, load_dtd=False, no_network=True,
                           dtd_validation=False, huge_tree=False, remove_comments=False)


def document(data: bytes, name: str) -> etree._Element:
    """The root as lxml has it, for those that edit. Raises ConfigError."""
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(name, [Problem(0, f"{len(data)} bytes: at most {FILE_BYTES_MAX} are read")])
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ConfigError(name, [Problem(data.count(b"\n", 0, e.start) + 1, "not UTF-8 text")]) from None
    # The parser takes the text as UTF-8 whatever it says of itself, so this search cannot be led astray.
    for word in (b"<!DOCTYPE", b"<!ENTITY"):
        at = data.find(word)
        if at >= 0:
            raise ConfigError(name, [Problem(data.count(b"\n", 0, at) + 1,
                                             f"{word.decode()}: a configuration has no document type and no entities")])
    try:
        return etree.fromstring(data, parser())
    except etree.XMLSyntaxError as e:
        line, column = e.position
        what = (e.msg or "not well-formed").split(", line ")[0]
        raise ConfigError(name, [Problem(line, f"column {column}: {what}")]) from None
    except ValueError as e:
        raise ConfigError(name, [Problem(0, str(e))]) from None


def parse(data: bytes, name: str) -> Element:
    """The file as a tree. Raises ConfigError."""
    left = ELEMENTS_MAX

    def convert(node: etree._Element, depth: int) -> Element:
        nonlocal left
        left -= 1
        line = int(node.sourceline or 0)
        if depth > DEPTH_MAX:
            raise ConfigError(name, [Problem(line, f"more than {DEPTH_MAX} elements inside one another")])
        if left < 0:
            raise ConfigError(name, [Problem(line, f"more than {ELEMENTS_MAX} elements")])
        children = tuple(convert(child, depth + 1) for child in node if isinstance(child.tag, str))
        return Element(str(node.tag), line, {str(k): str(v) for k, v in node.attrib.items()}, children)

    return convert(document(data, name), 1)
