"""Bytes of totem packets, version 1: our own format, big-endian, every length checked.

    header   magic "GT", version u8, type u8, sender u32
    JOIN     ring_seq u64, highest_seq u64, count of proc u16, count of failed u16, proc u32..., failed u32...
    COMMIT   ring, hop u32, count u16, then per member: node u32, known u8, old ring, aru u64, high u64
    TOKEN    ring, token_seq u64, seq u64, aru u64, aru_node u32, sent u32, backlog u32, recovering u16, idle u8,
             count u16, retransmit requests u64...
    MCAST    ring, origin u32, seq u64, recovered u8, body; a recovered body is: old ring, origin u32, seq u64, body
    MERGE    ring
    WAKE     ring
    ring     representative u32, seq u64

Node lists are sorted without doubles. Sequence numbers are 64 bits: they do not wrap in the life of a cluster.
Decoding raises WireError and never anything else.
"""

from __future__ import annotations

import enum
import itertools
import struct
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from cman.totem.config import NODES_MAX
from cman.totem.effects import NodeId, RingId

MAGIC = b"GT"
VERSION = 1
# Requests in one token: more than a window is never missing without the ring being in trouble anyway.
RTR_MAX = 64
IDLE_MAX = 255
# No cluster counts so far; beyond it there would be no room for the next ring.
RING_SEQ_MAX = 1 << 62

HEADER = struct.Struct(">2sBBI")
RING = struct.Struct(">IQ")
JOIN = struct.Struct(">QQHH")
COMMIT = struct.Struct(">IQIH")
ENTRY = struct.Struct(">IBIQQQ")
TOKEN = struct.Struct(">2sBBIIQQQQIIIHBH")
MCAST = struct.Struct(">2sBBIIQIQB")
RECOVERED = struct.Struct(">IQIQ")
# What a packet needs beside its pieces, wrapped for recovery or not.
MCAST_OVERHEAD = MCAST.size + RECOVERED.size


class Type(enum.IntEnum):
    """The fourth byte of each packet."""

    JOIN = 1
    COMMIT = 2
    TOKEN = 3
    MCAST = 4
    MERGE = 5
    WAKE = 6


class WireError(Exception):
    """A packet that is not one of ours; the text says what is wrong with it."""


# Named tuples, not dataclasses: they are made for every packet, and five times cheaper to make.
class Join(NamedTuple):
    """I know of proc, of which failed do not take part. ring_seq is my last ring's, highest_seq the highest known."""

    sender: NodeId
    ring_seq: int
    highest_seq: int
    proc: tuple[NodeId, ...]
    failed: tuple[NodeId, ...]


class Entry(NamedTuple):
    """What one member brings into the new ring; known is False until the token has been there."""

    node: NodeId
    known: bool
    old_ring: RingId
    aru: int
    high: int


class Commit(NamedTuple):
    """The commit token: goes around twice, first to collect the entries, then to show them to all."""

    sender: NodeId
    ring: RingId
    hop: int
    entries: tuple[Entry, ...]


class Token(NamedTuple):
    """The right to send. sent: packets of the last rotation; idle: rotations in which nothing happened.

    recovering counts the members that still have packets of an old ring to send.
    """

    sender: NodeId
    ring: RingId
    token_seq: int
    seq: int
    aru: int
    aru_node: NodeId
    sent: int
    backlog: int
    recovering: int
    idle: int
    rtr: tuple[int, ...]


class Mcast(NamedTuple):
    """One packet of a ring. origin made it, sender may be another who sends it again."""

    sender: NodeId
    ring: RingId
    origin: NodeId
    seq: int
    recovered: bool
    body: bytes


class Merge(NamedTuple):
    """Here is a ring: whoever is not in it should come together with it."""

    sender: NodeId
    ring: RingId


class Wake(NamedTuple):
    """I have something to send: let the token go."""

    sender: NodeId
    ring: RingId


Message: TypeAlias = Join | Commit | Token | Mcast | Merge | Wake


def _header(kind: Type, sender: NodeId) -> bytes:
    return HEADER.pack(MAGIC, VERSION, kind, sender)


def encode_join(m: Join) -> bytes:
    ids = (*m.proc, *m.failed)
    return b"".join([_header(Type.JOIN, m.sender), JOIN.pack(m.ring_seq, m.highest_seq, len(m.proc), len(m.failed)),
                     struct.pack(f">{len(ids)}I", *ids)])


def encode_commit(m: Commit) -> bytes:
    parts = [_header(Type.COMMIT, m.sender), COMMIT.pack(m.ring.rep, m.ring.seq, m.hop, len(m.entries))]
    parts += [ENTRY.pack(e.node, e.known, e.old_ring.rep, e.old_ring.seq, e.aru, e.high) for e in m.entries]
    return b"".join(parts)


def encode_token(m: Token) -> bytes:
    data = TOKEN.pack(MAGIC, VERSION, Type.TOKEN, m.sender, m.ring.rep, m.ring.seq, m.token_seq, m.seq, m.aru,
                      m.aru_node, m.sent, m.backlog, m.recovering, m.idle, len(m.rtr))
    return data + struct.pack(f">{len(m.rtr)}Q", *m.rtr) if m.rtr else data


def encode_mcast(m: Mcast) -> bytes:
    return MCAST.pack(MAGIC, VERSION, Type.MCAST, m.sender, m.ring.rep, m.ring.seq, m.origin, m.seq,
                      m.recovered) + m.body


def encode_merge(m: Merge) -> bytes:
    return _header(Type.MERGE, m.sender) + RING.pack(m.ring.rep, m.ring.seq)


def encode_wake(m: Wake) -> bytes:
    return _header(Type.WAKE, m.sender) + RING.pack(m.ring.rep, m.ring.seq)


def wrap(ring: RingId, origin: NodeId, seq: int, body: bytes) -> bytes:
    """The body of a recovered packet: a packet of the old ring inside one of the new ring."""
    return RECOVERED.pack(ring.rep, ring.seq, origin, seq) + body


def unwrap(body: bytes) -> tuple[RingId, NodeId, int, bytes]:
    """(old ring, origin, seq, body). Raises WireError."""
    if len(body) < RECOVERED.size:
        raise WireError(f"a recovered packet of {len(body)} bytes, at least {RECOVERED.size}")
    rep, ring_seq, origin, seq = RECOVERED.unpack_from(body)
    return RingId(ring_seq, rep), origin, seq, body[RECOVERED.size:]


def decode(data: bytes) -> Message:
    """The message in a packet. Raises WireError."""
    if len(data) < HEADER.size:
        raise WireError(f"{len(data)} bytes, a packet has at least {HEADER.size}")
    magic, version, kind, sender = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise WireError(f"magic {magic!r}, wanted {MAGIC!r}")
    if version != VERSION:
        raise WireError(f"version {version}, this node speaks {VERSION}")
    if sender == 0:
        raise WireError("node 0 sends nothing")
    decoder = DECODERS.get(kind)
    if decoder is None:
        raise WireError(f"unknown type {kind}")
    return decoder(data, sender)


def _fixed(data: bytes, layout: struct.Struct, what: str) -> None:
    if len(data) < HEADER.size + layout.size:
        raise WireError(f"{what} of {len(data)} bytes, at least {HEADER.size + layout.size}")


def _exact(data: bytes, length: int, what: str) -> None:
    if len(data) != length:
        raise WireError(f"{what} of {len(data)} bytes, its counts say {length}")


def _sorted_nodes(nodes: tuple[NodeId, ...], what: str) -> tuple[NodeId, ...]:
    if any(a >= b for a, b in itertools.pairwise(nodes)) or (nodes and nodes[0] == 0):
        raise WireError(f"{what} is not a sorted list of nodes")
    return nodes


def _join(data: bytes, sender: NodeId) -> Join:
    _fixed(data, JOIN, "a join")
    ring_seq, highest, nproc, nfailed = JOIN.unpack_from(data, HEADER.size)
    if highest > RING_SEQ_MAX or ring_seq > highest:
        raise WireError(f"a join with ring {ring_seq} and highest ring {highest}")
    if nproc > NODES_MAX or nfailed > NODES_MAX:
        raise WireError(f"a join with {nproc} and {nfailed} nodes, at most {NODES_MAX}")
    at = HEADER.size + JOIN.size
    _exact(data, at + 4 * (nproc + nfailed), "a join")
    ids = struct.unpack_from(f">{nproc + nfailed}I", data, at)
    proc = _sorted_nodes(ids[:nproc], "proc of a join")
    failed = _sorted_nodes(ids[nproc:], "failed of a join")
    if sender not in proc:
        raise WireError("a join whose sender is not in its proc")
    if not set(failed) <= set(proc):
        raise WireError("a join whose failed is not part of its proc")
    return Join(sender, ring_seq, highest, proc, failed)


def _commit(data: bytes, sender: NodeId) -> Commit:
    _fixed(data, COMMIT, "a commit token")
    rep, seq, hop, count = COMMIT.unpack_from(data, HEADER.size)
    if not 1 <= count <= NODES_MAX or seq > RING_SEQ_MAX:
        raise WireError(f"a commit token with {count} members, 1 to {NODES_MAX}, and ring {seq}")
    at = HEADER.size + COMMIT.size
    _exact(data, at + count * ENTRY.size, "a commit token")
    entries = []
    for number in range(count):
        node, known, old_rep, old_seq, aru, high = ENTRY.unpack_from(data, at + number * ENTRY.size)
        if known > 1 or (known and high < aru):
            raise WireError(f"a commit token whose entry of node {node} makes no sense")
        entries.append(Entry(node, bool(known), RingId(old_seq, old_rep), aru, high))
    _sorted_nodes(tuple(e.node for e in entries), "a commit token")
    if rep != entries[0].node:
        raise WireError(f"a commit token of representative {rep}, its first member is {entries[0].node}")
    return Commit(sender, RingId(seq, rep), hop, tuple(entries))


def _token(data: bytes, sender: NodeId) -> Token:
    if len(data) < TOKEN.size:
        raise WireError(f"a token of {len(data)} bytes, at least {TOKEN.size}")
    (_, _, _, _, rep, ring_seq, token_seq, seq, aru, aru_node, sent, backlog, recovering, idle,
     count) = TOKEN.unpack_from(data)
    if count > RTR_MAX:
        raise WireError(f"a token with {count} requests, at most {RTR_MAX}")
    rtr: tuple[int, ...] = ()
    if count or len(data) != TOKEN.size:
        _exact(data, TOKEN.size + 8 * count, "a token")
        rtr = struct.unpack_from(f">{count}Q", data, TOKEN.size)
    if aru > seq or recovering > NODES_MAX or any(not 0 < x <= seq for x in rtr):
        raise WireError(f"a token whose numbers make no sense: seq {seq}, aru {aru}")
    return Token(sender, RingId(ring_seq, rep), token_seq, seq, aru, aru_node, sent, backlog, recovering, idle, rtr)


def _mcast(data: bytes, sender: NodeId) -> Mcast:
    if len(data) < MCAST.size:
        raise WireError(f"a packet of a ring of {len(data)} bytes, at least {MCAST.size}")
    _, _, _, _, rep, ring_seq, origin, seq, recovered = MCAST.unpack_from(data)
    if seq == 0 or origin == 0 or recovered > 1:
        raise WireError(f"a packet of a ring whose numbers make no sense: origin {origin}, seq {seq}")
    return Mcast(sender, RingId(ring_seq, rep), origin, seq, bool(recovered), data[MCAST.size:])


def _ring(data: bytes, what: str) -> RingId:
    _exact(data, HEADER.size + RING.size, what)
    rep, seq = RING.unpack_from(data, HEADER.size)
    return RingId(seq, rep)


def _merge(data: bytes, sender: NodeId) -> Merge:
    return Merge(sender, _ring(data, "a merge"))


def _wake(data: bytes, sender: NodeId) -> Wake:
    return Wake(sender, _ring(data, "a wake"))


DECODERS: dict[int, Callable[[bytes, NodeId], Message]] = {
    int(Type.JOIN): _join, int(Type.COMMIT): _commit, int(Type.TOKEN): _token, int(Type.MCAST): _mcast,
    int(Type.MERGE): _merge, int(Type.WAKE): _wake}
