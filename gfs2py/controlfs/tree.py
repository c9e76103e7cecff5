"""Directories and files of the control file system as plain objects, and what may be written into them. No I/O.

A file is read as a whole, made when it is first read after an open; what is written is one value, as in sysfs. The
strict rules for values are the kernel's (kstrtoint): decimal, 0x or 0 for octal, a newline at the end and nothing else.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

WRITE_BYTES_MAX = 4096                  # as sysfs: one page
_NUMBER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")

Reader = Callable[[], bytes]
Writer = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class File:
    """read: what is in it, None: it cannot be read. write: does what the value asks; raises OSError. slow: reading asks
    another process, and may wait for it."""

    read: Reader | None = None
    write: Writer | None = None
    slow: bool = False

    @property
    def mode(self) -> int:
        return (0o400 if self.read is not None else 0) | (0o200 if self.write is not None else 0)


@dataclass(frozen=True, slots=True)
class Folder:
    """Names in the order in which they are listed."""

    entries: dict[str, File | Folder] = field(default_factory=dict)


Node = File | Folder


class Tree:
    """The nodes by number: 1 is the root, the others follow in order. It never changes."""

    def __init__(self, root: Folder) -> None:
        self.nodes: list[Node] = [root]
        self._children: list[dict[str, int]] = [{}]
        self.parents: list[int] = [1]
        at = 0
        while at < len(self.nodes):
            node = self.nodes[at]
            if isinstance(node, Folder):
                for name, child in node.entries.items():
                    self.nodes.append(child)
                    self._children.append({})
                    self.parents.append(at + 1)
                    self._children[at][name] = len(self.nodes)
            at += 1

    def node(self, number: int) -> Node:
        """Raises OSError (ENOENT) for a number that was never given out."""
        if not 1 <= number <= len(self.nodes):
            raise OSError(errno.ENOENT, "no such node")
        return self.nodes[number - 1]

    def lookup(self, parent: int, name: str) -> int:
        """Raises OSError: ENOENT, ENOTDIR."""
        if not isinstance(self.node(parent), Folder):
            raise OSError(errno.ENOTDIR, "not a directory")
        if name == ".":
            return parent
        if name == "..":
            return self.parents[parent - 1]
        try:
            return self._children[parent - 1][name]
        except KeyError:
            raise OSError(errno.ENOENT, "no such file") from None

    def children(self, number: int) -> Iterator[tuple[str, int]]:
        yield from self._children[number - 1].items()


def value_of(data: bytes) -> str:
    """The one value that was written, without its newline. Raises OSError (EINVAL)."""
    if len(data) > WRITE_BYTES_MAX:
        raise OSError(errno.EINVAL, "a value is one line")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise OSError(errno.EINVAL, "a value is a line of ASCII") from None
    text = text.removesuffix("\n")
    if not text or any(ord(c) < 32 for c in text):
        raise OSError(errno.EINVAL, "a value is one line")
    return text


def number_of(text: str, low: int, high: int) -> int:
    """A number in the kernel's three notations, within limits. Raises OSError (EINVAL)."""
    if not _NUMBER.fullmatch(text):
        raise OSError(errno.EINVAL, f"{text[:32]!r} is no number")
    digits = text.lstrip("+-")
    base = 16 if digits[:2].lower() == "0x" else 8 if len(digits) > 1 and digits[0] == "0" else 10
    value = int(digits, base) * (-1 if text[0] == "-" else 1)
    if not low <= value <= high:
        raise OSError(errno.EINVAL, f"{value} is not {low} to {high}")
    return value
