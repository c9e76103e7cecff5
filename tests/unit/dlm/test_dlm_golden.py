"""What a real kernel sends is fed to our engine; what it answers is what the kernel took.

Source: tests/golden/dlm/gfs2_mount.txt (all locks of a GFS2 mount), join_and_lock.txt (recovery, the kernel is low).
"""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dlm.core import _wire
from dlm.core._lockspace import Lockspace
from dlm.core.events import Bast, Cast, Node, RecoverDone
from dlm.core.packets import Flag, LockMode, Message, MsgType, Rcom, RcomType, Slot

GOLDEN = Path(__file__).parents[2] / "golden/dlm"
GROUP = 0x1092
KERNEL, WE = 1, 2
OPTS_SIZE = 24


def transcript() -> list[tuple[str, Message]]:
    out = []
    for line in (GOLDEN / "gfs2_mount.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        direction, kind, rest = line.split(" ", 2)
        extra = b""
        if found := re.search(r" extra=(.*)$", rest):
            text, rest = found[1], rest[:found.start()]
            extra = bytes(int(text.split("*")[0])) if text.endswith("*0") else ast.literal_eval(text)
        fields = {k: int(v, 0) for k, v in re.findall(r"(\w+)=(\S+)", rest)}
        nodeid = fields.pop("nodeid", 0)
        out.append((direction, Message(GROUP, KERNEL if direction == "RX" else WE, MsgType[kind],
                                       m_nodeid=nodeid - 2**32 if nodeid >= 2**31 else nodeid, extra=extra, **fields)))
    return out


def pair() -> tuple[Lockspace, Lockspace]:
    """Ours, in a lockspace with a stand-in for the kernel, which only helps it through recovery."""
    kernel, ours = Lockspace("gfs2", KERNEL, GROUP), Lockspace("gfs2", WE, GROUP)
    for ls in (kernel, ours):
        ls.stop()
        ls.start([Node(KERNEL), Node(WE)], 0)
    now = 0
    while not (kernel.running and ours.running):
        moved = [(a, b, p) for a, b in ((kernel, ours), (ours, kernel)) for _, p in a.take_output()]
        for a, b, packet in moved:
            b.receive(a.our_nodeid, packet, now)
        if not moved:
            now = min(t for ls in (kernel, ours) if (t := ls.next_timer()) is not None)
            kernel.handle_timer(now)
            ours.handle_timer(now)
    ours.take_output()
    ours.take_events()
    return kernel, ours


def answers(ours: Lockspace) -> list[Message]:
    out = []
    for to, packet in ours.take_output():
        message = _wire.unpack(packet)
        assert to == KERNEL
        assert isinstance(message, Message)
        out.append(message)
    return out


DETERMINED = ("type", "remid", "exflags", "grmode", "rqmode", "hash", "asts", "result", "extra", "m_nodeid")


def same(got: Message, want: Message) -> None:
    fields = ("type", "remid", "bastmode", "hash") if want.type is MsgType.BAST else DETERMINED
    assert {f: getattr(got, f) for f in fields} == {f: getattr(want, f) for f in fields}, (got, want)


def test_a_kernel_mounts_gfs2() -> None:
    _, ours = pair()
    to_ours: dict[int, int] = {}
    pending: list[Message] = []
    contested, mine = b"       2            1232", 0
    for direction, message in transcript():
        if direction == "RX":
            if message.type is MsgType.LOOKUP:
                # The process was master of what it was asked for; a directory node alone would make the kernel that.
                ours.lock(message.extra, LockMode.NL, Flag.EXPEDITE)
                ours.take_events()
            sent = replace(message, remid=to_ours.get(message.remid, message.remid))
            ours.receive(KERNEL, _wire.pack(sent), 0)
            pending += answers(ours)
            continue
        if message.type is MsgType.BAST:
            # The process of the transcript asks for a lock of the kernel's, and gives it back when that asks again.
            mine = ours.lock(contested, LockMode.EX, Flag.VALBLK)
            pending += answers(ours)
        elif message.type is MsgType.GRANT:
            assert [type(e) for e in ours.take_events()] == [Cast, Bast]
            ours.unlock(mine)
            pending += answers(ours)
        got = pending.pop(0)
        same(got, message)
        to_ours[message.lkid] = got.lkid
    assert not pending
    # What the kernel still holds is what it never gave back.
    asked = [m for d, m in transcript() if d == "RX" and m.type is MsgType.LOOKUP]
    released = [m for d, m in transcript() if d == "RX" and m.type is MsgType.UNLOCK]
    left = [lock for r in ours.dump() for lock in r.locks if lock.kind != "local"]
    assert len(left) == len(asked) - len(released)
    assert all(lock.kind == "master" and lock.nodeid == KERNEL for lock in left)
    assert ours.statistics().refused == 0


def kernel_rcoms() -> list[Rcom]:
    """What the kernel sent while it recovered with a second node, in order."""
    out = []
    for line in (GOLDEN / "join_and_lock.txt").read_text().splitlines():
        if line.startswith("RX"):
            _, digits, zeros, _ = line.split(" ", 3)
            packet = bytes.fromhex(digits) + bytes(int(zeros))
            if packet[14] == 2:
                rcom = _wire.unpack(packet)
                assert isinstance(rcom, Rcom)
                out.append(rcom)
    return out


def test_join_with_a_kernel_as_low_node() -> None:
    """Our questions are answered with what the kernel said at that point; its own questions come in between."""
    ours = Lockspace("probe", WE, GROUP, rcom_seq=0x1000)
    ours.stop()
    script = kernel_rcoms()
    asked = [m for m in script if m.type in (RcomType.STATUS, RcomType.NAMES)]
    for question in (m for m in asked if m.type is RcomType.STATUS):
        ours.receive(KERNEL, _wire.pack(question), 0)
    ((_, first),) = ours.take_output()
    assert isinstance(unready := _wire.unpack(first), Rcom)
    assert (unready.type, unready.result, unready.id, unready.seq_reply) \
        == (RcomType.STATUS_REPLY, 0, asked[0].id, asked[0].seq)
    ours.start([Node(KERNEL), Node(WE)], 0)
    replies = {kind: [m for m in script if m.type is kind] for kind in (RcomType.STATUS_REPLY, RcomType.NAMES_REPLY)}
    statuses: list[int] = []
    now = 0
    while not ours.running:
        packets = ours.take_output()
        if not packets:
            now = ours.next_timer() or now
            ours.handle_timer(now)
        for _, packet in packets:
            question = _wire.unpack(packet)
            assert isinstance(question, Rcom)
            if question.type is RcomType.NAMES_REPLY:
                assert isinstance(question.body, bytes)
                assert question.body.startswith(b"\xff\xff")
                continue
            kind = RcomType.NAMES_REPLY if question.type is RcomType.NAMES else RcomType.STATUS_REPLY
            reply = replies[kind].pop(0) if len(replies[kind]) > 1 else replies[kind][0]
            if kind is RcomType.NAMES_REPLY:
                ours.receive(KERNEL, _wire.pack(next(m for m in asked if m.type is RcomType.NAMES)), now)
            ours.receive(KERNEL, _wire.pack(replace(reply, id=question.id, seq_reply=question.seq)), now)
            statuses.append(ours.status)
    assert [s for n, s in enumerate(statuses) if n == 0 or s != statuses[n - 1]] == [0x1, 0x5, 0x15, 0x55]
    assert ours.take_events() == [RecoverDone(1, 2, (Slot(1, 1), Slot(2, 2)))]


def test_the_transcript_is_whole() -> None:
    kinds = [m.type for d, m in transcript() if d == "RX"]
    assert len(kinds) > 200
    assert {MsgType.LOOKUP, MsgType.CONVERT, MsgType.UNLOCK} == set(kinds)
    with pytest.raises(ValueError, match="h_length"):
        _wire.unpack(b"\0" * 16 + b"x")
