"""What the members of a file system's lock group tell each other: one message holds several items. Pure.

A message is msgpack: [version, item, item...]; an item is an array whose first element says which. Everything that
comes in is checked; a message that makes no sense raises PlockError at all members alike, and nothing of it counts.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from gfs2py.lock_dlm.ranges import RANGE_END, Lock, Member

VERSION = 1
U64 = (1 << 64) - 1
U32 = (1 << 32) - 1
# Of one message; the group itself takes a MiB.
MESSAGE_BYTES_MAX = 256 << 10
CHUNK_BYTES = 128 << 10
LOCKS_PER_STATE = 2048
INODES_PER_RELEASE = 4096
ITEMS_MAX = 4096

View = tuple[int, int, int]


class PlockError(Exception):
    """A message that makes no sense, or members that cannot be together."""


class Kind(enum.IntEnum):
    """What a request wants."""

    SET = 1             # a lock on a range
    UNSET = 2           # a range given up
    OWNER = 3           # all of one owner on the file: it closed a descriptor
    FH = 4              # all that was taken through one open file: it is gone
    GET = 5             # what is in the way
    CANCEL = 6          # the request of this number shall not wait any more
    HAND_OVER = 7       # the sender owns the file, and somebody has to wait for a lock in it


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a node. number: by which it knows it; 0: nobody waits for an answer."""

    number: int
    kind: Kind
    inode: int
    owner: int = 0
    fh: int = 0
    pid: int = 0
    write: bool = False
    start: int = 0
    end: int = RANGE_END
    wait: bool = False

    def lock(self, member: Member) -> Lock:
        return Lock(member, self.owner, self.fh, self.pid, self.write, self.start, self.end)


@dataclass(frozen=True, slots=True)
class State:
    """The owner of a file's table hands it over: its locks, in parts."""

    inode: int
    last: bool
    locks: tuple[Lock, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """The owner of these files' tables has no locks in them and does not want them any more."""

    inodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """As far as the sender is concerned those who died before this view are dealt with."""

    view: View


@dataclass(frozen=True, slots=True)
class Begin:
    """At this place of the order the sender notes everything, for those who know nothing yet."""

    view: View


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of what was noted."""

    view: View
    last: bool
    data: bytes


Item = Request | State | Release | Ready | Begin | Chunk


def plain_lock(lock: Lock) -> list[int]:
    return [lock.owner, lock.fh, lock.pid, int(lock.write), lock.start, lock.end]


def plain_request(r: Request) -> list[int]:
    return [r.number, int(r.kind), r.inode, r.owner, r.fh, r.pid, int(r.write), r.start, r.end, int(r.wait)]


def _plain(item: Item) -> list[object]:
    match item:
        case Request():
            return ["q", *plain_request(item)]
        case State():
            return ["s", item.inode, item.last, [plain_lock(lock) for lock in item.locks]]
        case Release():
            return ["g", list(item.inodes)]
        case Ready():
            return ["r", list(item.view)]
        case Begin():
            return ["b", list(item.view)]
        case Chunk():
            return ["c", list(item.view), item.last, item.data]


def encode(item: Item) -> bytes:
    """One item; messages are made of several by `join`."""
    return bytes(msgpack.packb(_plain(item)))


def join(items: Sequence[bytes]) -> bytes:
    """A message of encoded items."""
    assert 0 < len(items) <= ITEMS_MAX
    head = bytes(msgpack.Packer().pack_array_header(len(items) + 1)) + bytes(msgpack.packb(VERSION))
    return head + b"".join(items)


def fill(waiting: list[bytes]) -> bytes:
    """Takes as many encoded items from the list's head as go into one message."""
    size = taken = 0
    for data in waiting[:ITEMS_MAX]:
        if taken and size + len(data) > MESSAGE_BYTES_MAX:
            break
        size += len(data)
        taken += 1
    message = join(waiting[:taken])
    del waiting[:taken]
    return message


def number(value: object, high: int = U64) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= high:
        raise PlockError(f"a number from 0 to {high} is wanted")
    return value


def flag(value: object) -> bool:
    return bool(number(int(value), 1)) if isinstance(value, int) else bool(number(value, 1))


def array(value: object, length: int | None = None, most: int = U32) -> list[Any]:
    if not isinstance(value, list) or len(value) > most or (length is not None and len(value) != length):
        raise PlockError("an array is wanted, and not a longer one")
    return value


def take_lock(value: object, member: Member) -> Lock:
    owner, fh, pid, write, start, end = array(value, 6)
    lock = Lock(member, number(owner), number(fh), number(pid, U32), flag(write), number(start), number(end))
    if lock.start > lock.end:
        raise PlockError(f"a lock from {lock.start} to {lock.end}")
    return lock


def take_request(value: object) -> Request:
    num, kind, inode, owner, fh, pid, write, start, end, wait = array(value, 10)
    try:
        known = Kind(number(kind, 255))
    except ValueError:
        raise PlockError(f"a request of unknown kind {kind}") from None
    r = Request(number(num), known, number(inode), number(owner), number(fh), number(pid, U32), flag(write),
                number(start), number(end), flag(wait))
    if r.start > r.end:
        raise PlockError(f"a range from {r.start} to {r.end}")
    return r


def take_view(value: object) -> View:
    a, b, c = array(value, 3)
    return number(a), number(b), number(c)


def _take(value: object, sender: Member) -> Item:
    match array(value):
        case ["q", *rest]:
            return take_request(rest)
        case ["s", inode, last, locks]:
            return State(number(inode), flag(last),
                         tuple(take_lock(lock, sender) for lock in array(locks, most=LOCKS_PER_STATE)))
        case ["g", inodes]:
            return Release(tuple(number(i) for i in array(inodes, most=INODES_PER_RELEASE)))
        case ["r", view]:
            return Ready(take_view(view))
        case ["b", view]:
            return Begin(take_view(view))
        case ["c", view, last, bytes(data)]:
            return Chunk(take_view(view), flag(last), data)
    raise PlockError("an item of unknown kind")


def unpack(data: bytes, what: Callable[[Any], Any] = lambda value: value) -> Any:
    """msgpack without surprises. Raises PlockError."""
    try:
        return what(msgpack.unpackb(data, max_ext_len=0, max_map_len=0))
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as e:
        raise PlockError(f"not a message: {type(e).__name__}") from None


def decode(data: bytes, sender: Member) -> list[Item]:
    """The items of a message, all of them right. Raises PlockError."""
    body = array(unpack(data), most=ITEMS_MAX + 1)
    if not body or body[0] != VERSION:
        raise PlockError("a message of another version")
    return [_take(item, sender) for item in body[1:]]


def state_items(inode: int, locks: Iterable[Lock]) -> list[State]:
    """A table in as many items as it takes; at least one, the last of them marked."""
    left = list(locks)
    items = []
    while len(left) > LOCKS_PER_STATE:
        items.append(State(inode, False, tuple(left[:LOCKS_PER_STATE])))
        left = left[LOCKS_PER_STATE:]
    return [*items, State(inode, True, tuple(left))]
