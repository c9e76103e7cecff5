"""Packets: against those of a real kernel, against struct, and against noise."""

from __future__ import annotations

import random
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.core import _wire
from dlm.core.packets import Config, Message, MsgType, Rcom, RcomLock, RcomType, Slot

GOLDEN = Path(__file__).parents[2] / "golden/dlm/join_and_lock.txt"
OPTS_SIZE = 24


def golden() -> list[tuple[str, bytes, str]]:
    """(direction, packet without midcomms' envelope, what it means) of those that the engine sees."""
    out = []
    for line in GOLDEN.read_text().splitlines():
        if line.startswith("#"):
            continue
        direction, digits, zeros, meaning = line.split(" ", 3)
        packet = bytes.fromhex(digits) + bytes(int(zeros))
        if packet[14] == 3:
            packet = packet[OPTS_SIZE:]
        if packet[14] in (1, 2):
            out.append((direction, packet, meaning))
    return out


def numbers(meaning: str) -> dict[str, int]:
    return {k: int(v, 0) for k, v in re.findall(r"(\w+)=(-?(?:0x[0-9a-f]+|\d+))\b", meaning)}


@pytest.mark.parametrize(("direction", "packet", "meaning"), golden())
def test_golden(direction: str, packet: bytes, meaning: str) -> None:
    got, want = _wire.unpack(packet), numbers(meaning)
    assert (got.lockspace, got.nodeid) == (want["ls"], want["from"])
    assert got.nodeid == (1 if direction == "RX" else 2)
    assert got.type.name in meaning
    if isinstance(got, Message):
        assert {k: getattr(got, k) & 0xffffffff for k in ("lkid", "flags", "grmode", "rqmode", "asts", "hash")} \
            == {k: want.get(k, 0) & 0xffffffff for k in ("lkid", "flags", "grmode", "rqmode", "asts", "hash")}
    else:
        assert (got.id, got.seq, got.seq_reply) == (want["id"], want["seq"], want["seq_reply"])
        if isinstance(got.body, Config):
            assert (got.body.lvblen, got.body.our_slot, got.body.generation, len(got.body.slots)) \
                == (want["lvblen"], want["our_slot"], want["gen"], want["num_slots"])
    assert _wire.pack(got) == packet


def test_golden_holds_what_matters() -> None:
    kinds = {_wire.unpack(p).type for _, p, _ in golden()}
    assert kinds >= {RcomType.STATUS, RcomType.STATUS_REPLY, RcomType.NAMES, RcomType.NAMES_REPLY,
                     MsgType.REQUEST_REPLY}
    slots = [x.body.slots for _, p, _ in golden() if isinstance(x := _wire.unpack(p), Rcom)
             and isinstance(x.body, Config) and x.body.slots]
    assert (Slot(1, 1), Slot(2, 2)) in slots


@pytest.mark.parametrize(("name", "value"), [
    (b"rx0", 0x374faa4b), (b"res11", 0xa379b0b3), (b"res5", 0x3647373d), (b"res13", 0xe9d0aee)])
def test_hash_of_a_kernel(name: bytes, value: int) -> None:
    assert _wire.name_hash(name) == value


def jhash(key: bytes) -> int:
    """Jenkins' lookup3 once more, slowly."""
    def rol(x: int, n: int) -> int:
        return (x << n | x >> 32 - n) & 0xffffffff
    a = b = c = 0xdeadbeef + len(key)
    words = list(struct.unpack("<3I", b"\0" * 12))
    while len(key) > 12:
        words = list(struct.unpack("<3I", key[:12]))
        a, b, c = (a + words[0]) % 2**32, (b + words[1]) % 2**32, (c + words[2]) % 2**32
        for n in (4, 6, 8, 16, 19, 4):
            a = (a - c) % 2**32 ^ rol(c, n)
            c = (c + b) % 2**32
            a, b, c = b, c, a
        key = key[12:]
    if not key:
        return c
    words = list(struct.unpack("<3I", key.ljust(12, b"\0")))
    a, b, c = (a + words[0]) % 2**32, (b + words[1]) % 2**32, (c + words[2]) % 2**32
    for n in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - rol(b, n)) % 2**32
        a, b, c = b, c, a
    # Seven turns of three names: c is where b is now.
    return b


@given(st.binary(max_size=64))
def test_hash(key: bytes) -> None:
    assert _wire.name_hash(key) == jhash(key)


U32 = st.integers(0, 2**32 - 1)
I32 = st.integers(-2**31, 2**31 - 1)
MODE = st.integers(-1, 5)
NODE = st.integers(1, 2**31 - 1)
NAME = st.binary(min_size=1, max_size=64)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    kind = draw(st.sampled_from(MsgType))
    named = kind in (MsgType.REQUEST, MsgType.LOOKUP, MsgType.REMOVE)
    return Message(lockspace=draw(U32), nodeid=draw(NODE), type=kind, m_nodeid=draw(I32), pid=draw(U32),
                   lkid=draw(U32), remid=draw(U32), exflags=draw(U32), sbflags=draw(U32), flags=draw(U32),
                   lvbseq=draw(U32), hash=draw(U32), status=draw(I32), grmode=draw(MODE),
                   rqmode=draw(st.integers(0, 5)), bastmode=draw(st.integers(0, 5)), asts=draw(U32),
                   result=draw(I32), extra=draw(NAME if named else st.binary(max_size=512)))


@st.composite
def rcoms(draw: st.DrawFn) -> Rcom:
    kind = draw(st.sampled_from(RcomType))
    body: bool | bytes | Config | RcomLock | None = None
    if kind is RcomType.STATUS:
        body = draw(st.booleans())
    elif kind is RcomType.STATUS_REPLY:
        slots = draw(st.lists(st.builds(Slot, U32, st.integers(0, 65535)), max_size=200))
        body = Config(draw(U32), draw(U32), draw(st.integers(0, 65535)), draw(U32), tuple(slots))
    elif kind in (RcomType.LOCK, RcomType.LOCK_REPLY):
        body = RcomLock(lkid=draw(U32), name=draw(NAME), ownpid=draw(U32), remid=draw(U32), exflags=draw(U32),
                        flags=draw(U32), lvbseq=draw(U32), result=draw(I32), rqmode=draw(MODE), grmode=draw(MODE),
                        status=draw(st.integers(0, 3)), asts=draw(st.integers(0, 127)),
                        wait_type=draw(st.integers(0, 14)), lvb=draw(st.binary(max_size=512)))
    elif kind is not RcomType.LOOKUP_REPLY:
        body = draw(st.binary(min_size=1, max_size=64))
    return Rcom(lockspace=draw(U32), nodeid=draw(NODE), type=kind, result=draw(I32), id=draw(st.integers(0, 2**64 - 1)),
                seq=draw(st.integers(0, 2**64 - 1)), seq_reply=draw(st.integers(0, 2**64 - 1)), body=body)


PACKETS = st.one_of(messages(), rcoms())


@given(PACKETS)
def test_round_trip(packet: Message | Rcom) -> None:
    data = _wire.pack(packet)
    assert _wire.check(data) is None
    assert _wire.unpack(data) == packet
    bare = isinstance(packet, Rcom) and packet.type.name.startswith(("STATUS", "NAMES"))
    assert _wire.is_bare(data) == bare


@given(messages())
def test_layout(m: Message) -> None:
    """The offsets of the kernel's structures, written down a second time."""
    head = struct.pack("<IIIHBB", m.version, m.lockspace, m.nodeid, 88 + len(m.extra), 1, 0)
    body = struct.pack("<IiIIIIIIIIIIiiiiIi", m.type, m.m_nodeid, m.pid, m.lkid, m.remid, 0, 0, m.exflags, m.sbflags,
                       m.flags, m.lvbseq, m.hash, m.status, m.grmode, m.rqmode, m.bastmode, m.asts, m.result)
    assert _wire.pack(m) == head + body + m.extra


@pytest.mark.parametrize(("change", "reason"), [
    ({"rqmode": 6}, "mode"), ({"rqmode": -1}, "mode"), ({"grmode": -2}, "mode"), ({"extra": b""}, "name"),
    ({"extra": b"x" * 65}, "name"), ({"version": 0x00020001}, "version"), ({"nodeid": 0}, "h_nodeid"),
    ({"nodeid": -1}, "h_nodeid")])
def test_refuses(change: dict[str, int], reason: str) -> None:
    good = Message(lockspace=1, nodeid=1, type=MsgType.REQUEST, rqmode=5, grmode=-1, extra=b"name")
    assert _wire.check(_wire.pack(good)) is None
    assert reason in str(_wire.check(_wire.pack(replace(good, **change))))


def test_refuses_cut_and_padded() -> None:
    data = _wire.pack(Rcom(lockspace=1, nodeid=1, type=RcomType.STATUS_REPLY,
                           body=Config(32, 0, slots=(Slot(1, 1), Slot(2, 2)))))
    for n in range(len(data)):
        assert _wire.check(data[:n]) is not None
        # With a length that fits what is left the slots are too many, or the parts missing.
        short = data[:12] + struct.pack("<H", n) + data[14:n]
        assert _wire.check(short[:n]) is not None
    assert _wire.check(data + b"\0") is not None
    with pytest.raises(ValueError, match="h_length"):
        _wire.unpack(data + b"\0")


@given(PACKETS, st.randoms(use_true_random=False))
def test_mutations_do_no_harm(packet: Message | Rcom, rng: random.Random) -> None:
    data = bytearray(_wire.pack(packet))
    for _ in range(rng.randrange(1, 5)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)):]
        if len(data) >= 14 and rng.random() < 0.7:
            data[12:14] = struct.pack("<H", len(data))
    reason = _wire.check(bytes(data))
    if reason is None:
        assert _wire.unpack(bytes(data)).nodeid > 0
    else:
        with pytest.raises(ValueError, match=re.escape(reason)):
            _wire.unpack(bytes(data))


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    assert _wire.check(data) is not None
    assert not _wire.is_bare(data)


def test_not_ready() -> None:
    ask = Rcom(lockspace=7, nodeid=3, type=RcomType.STATUS, id=99, seq=5, body=False)
    answer = _wire.not_ready(_wire.pack(ask), 2)
    assert answer is not None
    got = _wire.unpack(answer)
    assert isinstance(got, Rcom)
    assert isinstance(got.body, Config)
    assert (got.nodeid, got.type, got.result, got.id, got.seq_reply) == (2, RcomType.STATUS_REPLY, -3, 99, 5)
    assert got.body.lvblen == 0xffffffff
    assert _wire.not_ready(_wire.pack(replace(ask, type=RcomType.NAMES, body=b"")), 2) is None
    assert _wire.not_ready(b"noise", 2) is None
