"""Sealed datagrams: authenticated encryption of every packet with keys made from the cluster key.

What a stranger, a listener or a mischief-maker on the wire can do with packets: nothing. A packet that is forged,
replayed (also across restarts of either side), truncated, redirected to another node or from outside the
configuration changes no state.

Keys and nonces. A node draws a random 16-byte session when it starts and derives, by HKDF-SHA256 from the cluster
key, a key of its own for this session (the node id and the session go into the derivation). The 96-bit nonce is a
counter from 1. A nonce therefore never repeats under one key, whatever the clock does and however often a node
starts again; with a random session two lives of one node have the same key with probability 2^-128. The cipher is
AES-256-GCM; a key is good for 2^32 packets, then the node begins a new session by itself.

Replay. Within a session a receiver keeps the highest counter and a window of the last WINDOW ones: each counter is
taken once. That leaves two replays: packets of an earlier session of the sender, and packets of a time before the
receiver started. Both are closed by one rule: a receiver takes data only from the one session of a node that has
answered its challenge. A challenge has a random number that the receiver made; the answer repeats it under the key of
the new session and says its present counter, from which on packets are taken. An old session cannot answer, since
nobody but the node had its key in use then, and an answer that was recorded has another number in it. A new answered
session replaces the old one for good. Packets of unknown sessions are answered by a challenge, at most one per node in
CHALLENGE_EVERY_NS, and dropped: totem sends its joins again anyway, so this costs one round trip when a node starts.

Layout: magic "GS", version u8, kind u8, sender u32, receiver u32 (0: all), session 16 bytes, counter u64, ciphertext
and tag. All before the ciphertext is authenticated with it, so a packet for one node is no packet for another.

This module is not pure: it draws random numbers (by the function handed in). It has no clock and no socket.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cman.totem.effects import NodeId

MAGIC = b"GS"
VERSION = 1
HEADER = struct.Struct(">2sBBII16sQ")
TAG_BYTES = 16
OVERHEAD_BYTES = HEADER.size + TAG_BYTES
KEY_BYTES_MIN = 32
KEY_BYTES_MAX = 4096
SESSION_BYTES = 16
NUMBER_BYTES = 16
# Counters this far behind the highest are still told apart; older packets are too old for totem as well.
WINDOW = 4096
COUNTER_MAX = 1 << 32
CHALLENGE_EVERY_NS = 50_000_000
# Keys of sessions that were never answered are kept for so many: an attacker can make us derive, not remember, more.
CANDIDATES_MAX = 4


class Kind(enum.IntEnum):
    """What is inside."""

    DATA = 1
    CHALLENGE = 2
    ANSWER = 3


class Opened(NamedTuple):
    """What open() found: data of `source`, if it is one to be used, and packets to be sent back."""

    source: NodeId
    data: bytes | None
    replies: tuple[tuple[NodeId, bytes], ...]


class CryptoError(ValueError):
    """A cluster key that is none."""


@dataclass
class _Session:
    """A session of another node that has answered."""

    name: bytes
    cipher: AESGCM
    highest: int
    # Bit n: counter highest - n was taken.
    taken: int = 1

    def fresh(self, counter: int) -> bool:
        """Take the counter, once."""
        if counter > self.highest:
            shift = counter - self.highest
            self.taken = (self.taken << shift | 1) & ((1 << WINDOW) - 1) if shift < WINDOW else 1
            self.highest = counter
            return True
        age = self.highest - counter
        if age >= WINDOW or self.taken >> age & 1:
            return False
        self.taken |= 1 << age
        return True


@dataclass
class _Peer:
    """What is known of another node."""

    session: _Session | None = None
    # The number of our challenge under way, and when it was sent.
    number: bytes = b""
    asked_ns: int = field(default=-(1 << 62))
    answered_ns: int = field(default=-(1 << 62))
    candidates: dict[bytes, AESGCM] = field(default_factory=dict)


def check_key(cluster_key: bytes) -> None:
    """Raises CryptoError unless it can be a cluster key."""
    if not KEY_BYTES_MIN <= len(cluster_key) <= KEY_BYTES_MAX:
        raise CryptoError(f"the cluster key has {len(cluster_key)} bytes, {KEY_BYTES_MIN} to {KEY_BYTES_MAX}")
    if len(set(cluster_key)) < 8:
        raise CryptoError("the cluster key is not random")


class Sealer:
    """Seals what one node sends and opens what it receives. random_bytes is os.urandom in production."""

    def __init__(self, me: NodeId, cluster_key: bytes, random_bytes: Callable[[int], bytes]) -> None:
        check_key(cluster_key)
        self.me = me
        self._cluster_key = cluster_key
        self._random = random_bytes
        self._peers: dict[NodeId, _Peer] = {}
        self.counters = {"opened": 0, "forged": 0, "replayed": 0, "unknown_session": 0, "challenges": 0}
        self._renew()

    def _renew(self) -> None:
        """Begin a session: a new key, counted from 1."""
        self._name = self._random(SESSION_BYTES)
        self._cipher = self._derive(self.me, self._name)
        self._counter = 0

    def _renew_worn_out(self) -> None:
        if self._counter >= COUNTER_MAX:
            self._renew()

    def _derive(self, node: NodeId, session: bytes) -> AESGCM:
        info = b"gfs2py totem 1 node " + struct.pack(">I", node)
        return AESGCM(HKDF(SHA256(), 32, salt=session, info=info).derive(self._cluster_key))

    def set_nodes(self, nodes: frozenset[NodeId]) -> None:
        """The configured nodes; of others nothing is opened."""
        self._peers = {node: self._peers.get(node, _Peer()) for node in sorted(nodes - {self.me})}

    # Sending

    def seal(self, data: bytes, receiver: NodeId = 0) -> bytes:
        """A packet for one node, or for all."""
        return self._seal(Kind.DATA, data, receiver)

    def _seal(self, kind: Kind, data: bytes, receiver: NodeId) -> bytes:
        self._renew_worn_out()
        self._counter += 1
        head = HEADER.pack(MAGIC, VERSION, kind, self.me, receiver, self._name, self._counter)
        return head + self._cipher.encrypt(self._counter.to_bytes(12, "big"), data, head)

    # Receiving

    def open(self, packet: bytes, now_ns: int) -> Opened | None:
        """What is in a packet; None when it is not one for us. Nothing in it can raise."""
        if len(packet) < OVERHEAD_BYTES:
            return None
        head = packet[:HEADER.size]
        magic, version, kind, source, receiver, name, counter = HEADER.unpack(head)
        peer = self._peers.get(source)
        if magic != MAGIC or version != VERSION or peer is None or receiver not in (0, self.me):
            return None
        session = peer.session
        known = session is not None and session.name == name
        cipher = session.cipher if session is not None and known else self._candidate(peer, source, name)
        try:
            data = cipher.decrypt(counter.to_bytes(12, "big"), packet[HEADER.size:], head)
        except InvalidTag:
            self.counters["forged"] += 1
            return None
        peer.candidates.setdefault(name, cipher)
        if kind == Kind.CHALLENGE:
            return Opened(source, None, self._answer(peer, source, data, now_ns))
        if kind == Kind.ANSWER:
            self._answered(peer, name, cipher, data)
            return Opened(source, None, ())
        if not known:
            self.counters["unknown_session"] += 1
            return Opened(source, None, self._challenge(peer, source, now_ns))
        assert session is not None
        if kind != Kind.DATA or not session.fresh(counter):
            self.counters["replayed"] += 1
            return None
        self.counters["opened"] += 1
        return Opened(source, data, ())

    def _candidate(self, peer: _Peer, source: NodeId, name: bytes) -> AESGCM:
        """The key of a session that has not answered: kept only when a packet proves that it exists."""
        cipher = peer.candidates.get(name)
        if cipher is not None:
            return cipher
        while len(peer.candidates) >= CANDIDATES_MAX:
            del peer.candidates[next(iter(peer.candidates))]
        return self._derive(source, name)

    def _challenge(self, peer: _Peer, node: NodeId, now_ns: int) -> tuple[tuple[NodeId, bytes], ...]:
        if now_ns - peer.asked_ns < CHALLENGE_EVERY_NS:
            return ()
        peer.asked_ns = now_ns
        peer.number = self._random(NUMBER_BYTES)
        self.counters["challenges"] += 1
        return ((node, self._seal(Kind.CHALLENGE, peer.number, node)),)

    def _answer(self, peer: _Peer, node: NodeId, number: bytes, now_ns: int) -> tuple[tuple[NodeId, bytes], ...]:
        """A challenge may be a replay: to answer it does no harm, and is done seldom."""
        if len(number) != NUMBER_BYTES or now_ns - peer.answered_ns < CHALLENGE_EVERY_NS // 4:
            return ()
        peer.answered_ns = now_ns
        # Before the counter is written down: it must be one of the session that carries it.
        self._renew_worn_out()
        return ((node, self._seal(Kind.ANSWER, number + struct.pack(">Q", self._counter + 1), node)),)

    def _answered(self, peer: _Peer, name: bytes, cipher: AESGCM, data: bytes) -> None:
        if not peer.number or data[:NUMBER_BYTES] != peer.number or len(data) != NUMBER_BYTES + 8:
            self.counters["replayed"] += 1
            return
        peer.number = b""
        (counter,) = struct.unpack(">Q", data[NUMBER_BYTES:])
        # Only later packets count: what was recorded before our challenge stays out, and there is no window below.
        peer.session = _Session(name, cipher, counter, (1 << WINDOW) - 1)
        peer.candidates = {}
