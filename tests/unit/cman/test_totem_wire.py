"""Totem packets: what is encoded is decoded, and whatever else comes raises WireError and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cman.totem import RingId, wire

u32 = st.integers(1, (1 << 32) - 1)
u64 = st.integers(0, (1 << 64) - 1)
small = st.integers(0, wire.RING_SEQ_MAX)
rings = st.builds(RingId, small, u32)
nodes = st.sets(u32, min_size=1, max_size=20).map(lambda s: tuple(sorted(s)))


@st.composite
def joins(draw: st.DrawFn) -> wire.Join:
    proc = draw(nodes)
    failed = tuple(sorted(draw(st.sets(st.sampled_from(proc)))))
    seqs = sorted(draw(st.tuples(small, small)))
    return wire.Join(draw(st.sampled_from(proc)), seqs[0], seqs[1], proc, failed)


@st.composite
def commits(draw: st.DrawFn) -> wire.Commit:
    members = draw(nodes)
    entries = []
    for node in members:
        aru, high = sorted(draw(st.tuples(u64, u64)))
        entries.append(wire.Entry(node, draw(st.booleans()), draw(rings), aru, high))
    return wire.Commit(draw(u32), RingId(draw(small), members[0]), draw(st.integers(0, 99)), tuple(entries))


@st.composite
def tokens(draw: st.DrawFn) -> wire.Token:
    aru, seq = sorted(draw(st.tuples(u64, u64)))
    rtr = tuple(draw(st.lists(st.integers(1, seq), max_size=wire.RTR_MAX))) if seq else ()
    return wire.Token(draw(u32), draw(rings), draw(u64), seq, aru, draw(u32), draw(u32), draw(u32),
                      draw(st.integers(0, 9)), draw(st.integers(0, 255)), rtr)


mcasts = st.builds(wire.Mcast, u32, rings, u32, st.integers(1, 1 << 60), st.booleans(), st.binary(max_size=100))
messages = st.one_of(joins(), commits(), tokens(), mcasts, st.builds(wire.Merge, u32, rings),
                     st.builds(wire.Wake, u32, rings))


def encode(m: wire.Message) -> bytes:
    name = type(m).__name__.lower()
    return getattr(wire, f"encode_{name}")(m)


@given(messages)
def test_round_trip(m: wire.Message) -> None:
    assert wire.decode(encode(m)) == m


@given(st.binary(max_size=200))
def test_garbage(data: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode(data)


@given(messages, st.data())
def test_damaged(m: wire.Message, data: st.DataObject) -> None:
    """One byte changed or the end cut off: another message or an error."""
    raw = bytearray(encode(m))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    for packet in (bytes(raw), bytes(raw[:data.draw(st.integers(0, len(raw)))])):
        try:
            wire.decode(packet)
        except wire.WireError:
            continue


@given(mcasts.filter(lambda m: not m.recovered), rings)
def test_wrapped(m: wire.Mcast, ring: RingId) -> None:
    assert wire.unwrap(wire.wrap(ring, m.origin, m.seq, m.body)) == (ring, m.origin, m.seq, m.body)


@pytest.mark.parametrize(("m", "text"), [
    (wire.Join(3, 0, 0, (1, 2), ()), "not in its proc"),
    (wire.Join(1, 0, 0, (1, 2), (3,)), "not part"),
    (wire.Join(1, 0, 0, (2, 1), ()), "sorted"),
    (wire.Join(1, 5, 4, (1,), ()), "highest"),
    (wire.Commit(1, RingId(1, 2), 0, (wire.Entry(1, False, RingId(0, 0), 0, 0),)), "representative"),
    (wire.Commit(1, RingId(1, 1), 0, ()), "members"),
    (wire.Commit(1, RingId(1, 1), 0, (wire.Entry(1, True, RingId(0, 0), 2, 1),)), "no sense"),
    (wire.Token(1, RingId(1, 1), 1, 1, 2, 0, 0, 0, 0, 0, ()), "no sense"),
    (wire.Token(1, RingId(1, 1), 1, 1, 1, 0, 0, 0, 0, 0, (2,)), "no sense"),
    (wire.Mcast(1, RingId(1, 1), 1, 0, False, b""), "no sense"),
    (wire.Merge(0, RingId(1, 1)), "node 0"),
])
def test_nonsense(m: wire.Message, text: str) -> None:
    with pytest.raises(wire.WireError, match=text):
        wire.decode(encode(m))
