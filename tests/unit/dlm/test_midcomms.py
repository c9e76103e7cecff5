"""The reliable layer: against what a stock kernel said, and its rules one by one."""

from __future__ import annotations

import random

import pytest

from dlm import _midcomms as mc
from dlm_packets import (
    GOLDEN,
    NAMES,
    NAMES_REPLY,
    RCOM_LOCK,
    STATUS,
    STATUS_REPLY,
    V31,
    ack,
    describe,
    fin,
    header,
    hex_lines,
    message,
    opts,
    rcom,
    split,
    status,
)

KINDS = {"STATUS": STATUS, "NAMES": NAMES, "STATUS_REPLY": STATUS_REPLY, "NAMES_REPLY": NAMES_REPLY}


def take(peer: mc.Peer) -> list[bytes]:
    data = peer.output()
    peer.written(len(data))
    return split(data)


def established(our: int = 2, other: int = 1, seq: int = 0) -> tuple[mc.Peer, mc.Stream]:
    peer, stream = mc.Peer(our, other, seq), mc.Stream()
    assert peer.receive(stream, status(other)) == [status(other)]
    assert (peer.state, peer.version) == (mc.ESTABLISHED, mc.VERSION_3_2)
    return peer, stream


# what a kernel said


def test_join_byte_for_byte() -> None:
    """Every packet that node 2 sent to a kernel comes out of our machine as it was, envelope and all."""
    peer, stream, delivered = mc.Peer(2, 1), mc.Stream(), 0
    for direction, packet in hex_lines("join_and_lock.hex"):
        if direction == "RX":
            delivered += len(peer.receive(stream, packet))
        elif packet[14] == 4:
            peer.acknowledge()
            assert take(peer) == [packet]
        else:
            peer.send(packet[24:] if packet[14] == 3 else packet)
            assert take(peer) == [packet]
    assert delivered == 34 - 1      # all it read but the one ACK
    assert peer.unacked_count == 0
    assert [text for _, text in peer.take_events()] == ["version 0x00030002 detected"]


def lines(name: str, start: str = "") -> list[str]:
    found = (GOLDEN / name).read_text().splitlines()
    return found[next(i for i, x in enumerate(found) if x.startswith(start)):]


def inner_packet(kind: str, tag: int, length: int) -> bytes:
    """What a kernel had inside an envelope, as far as the reliable layer looks at it."""
    match kind:
        case "MSG":
            return message(1, tag, length)
        case "RCOM":
            return rcom(1, RCOM_LOCK, length)
    return fin(1)


def replay(rows: list[str]) -> tuple[mc.Peer, list[str], list[str]]:
    """Act a transcript; the peer, the numbers of our ACKs and those of the transcript."""
    peer, stream = mc.Peer(2, 1), mc.Stream()
    peer.add_user()
    ours, theirs = [], []
    for row in rows:
        direction, what, *rest = row.split()
        if direction == "--" and what == "closed":
            stream = mc.Stream()
            peer.reconnected()
        elif direction == "RX" and what == "OPTS":
            seq, kind, length = int(rest[0]), rest[1], int(rest[2]) - 24
            peer.receive(stream, opts(seq, inner_packet(kind, seq, length), 1))
            peer.acknowledge()
            ours += [describe(x) for x in take(peer)]
        elif direction == "RX" and what == "ACK":
            peer.receive(stream, ack(int(rest[0]), 1))
        elif direction == "RX":
            version = int(rest[2][1:], 16)
            length = int(rest[1])
            packet = message(1, 0, length, version) if what == "MSG" else rcom(1, KINDS[rest[0]], length, version)
            assert peer.receive(stream, packet) == [packet]
        elif direction == "TX" and what == "ACK":
            theirs.append(f"ACK {rest[0]}")
        elif direction == "TX" and what == "OPTS":
            if rest[1] == "FIN":
                peer.remove_user() if peer.state == mc.CLOSE_WAIT else peer.shutdown()
            else:
                peer.send(message(2, 0, max(int(rest[2]) - 24, 88)))
            sent = [describe(x) for x in take(peer)]
            assert len(sent) == 1
            assert sent[0].split()[:2] == ["OPTS", rest[0]], row
        elif direction == "TX":
            # The header always says 3.2, whoever it goes to: the first packet of a 3.1 peer of ours would differ.
            packet = message(2, 0, int(rest[1])) if what == "MSG" else rcom(2, KINDS[rest[0]], int(rest[1]))
            peer.send(packet)
            assert take(peer) == [packet], row
    return peer, ours, theirs


def test_transcript_of_queueing_and_rejoin() -> None:
    rows = lines("queue_bast_lvb_rejoin.txt")
    again = rows.index("## L. node 2 rejoins while the guest holds locks")
    peer, ours, theirs = replay([r for r in rows[:again] if r[:2] in ("RX", "TX", "--")])
    # The probe lost one connection before it could acknowledge number 12.
    assert list(dict.fromkeys(ours)) == list(dict.fromkeys(theirs)) or set(theirs) <= set(ours)
    assert peer.gaps == 0


def test_transcript_of_a_release() -> None:
    """A kernel releases its lockspace: its FIN, ours, closed."""
    rows = lines("life_and_release.txt", "## N2")
    peer, ours, theirs = replay([r for r in rows[2:] if r[:2] in ("RX", "TX")])
    assert ours == theirs == ["ACK 1", "ACK 2", "ACK 3"]
    assert peer.state == mc.CLOSED


def test_transcript_of_a_3_1_peer() -> None:
    rows = [r for r in lines("version_3_1.txt") if r[:2] in ("RX", "TX")]
    # The kernel spoke 3.2 and was told that it met a 3.1 node: turn the roles round.
    rows = [r.replace("v30002", "v30001") for r in rows if r.split()[1] != "ACK" and r.split()[1] != "OPTS"]
    peer, ours, _ = replay(rows)
    assert peer.version == mc.VERSION_3_1
    assert ours == []


# numbers


def test_envelope_and_ack() -> None:
    peer, stream = established()
    peer.send(message(2, 7, 92))
    assert take(peer) == [opts(0, message(2, 7, 92), 2)]
    assert (peer.unacked_count, peer.seq_send) == (1, 1)
    assert peer.receive(stream, ack(1, 1)) == []
    assert peer.unacked_count == 0


def test_ack_rides_along() -> None:
    peer, stream = established()
    peer.receive(stream, opts(0, message(1, 1), 1))
    assert (peer.ack_owed, peer.has_output, peer.output()) == (1, False, b"")
    peer.send(message(2, 2))
    assert [describe(x) for x in take(peer)] == ["OPTS 0 1 112", "ACK 1"]
    assert peer.ack_owed == 0


def test_ack_goes_alone_after_many() -> None:
    peer, stream = established()
    for seq in range(mc.ACK_AFTER):
        assert not peer.has_output
        peer.receive(stream, opts(seq, message(1, seq), 1))
    assert [describe(x) for x in take(peer)] == [f"ACK {mc.ACK_AFTER}"]


def test_status_and_names_are_bare_in_both_directions() -> None:
    peer, stream = established()
    for kind in (STATUS, NAMES, STATUS_REPLY, NAMES_REPLY):
        peer.send(rcom(2, kind))
        assert take(peer) == [rcom(2, kind)]
        assert peer.receive(stream, rcom(1, kind)) == [rcom(1, kind)]
    peer.send(rcom(2, RCOM_LOCK, 120))
    assert describe(take(peer)[0]) == "OPTS 0 2 144"
    assert peer.receive(stream, rcom(1, RCOM_LOCK, 120)) == []
    assert peer.receive(stream, message(1)) == []
    assert peer.refused == 2


def test_status_inside_an_envelope_is_taken() -> None:
    """Seen of a kernel: its answer about a lockspace that it does not know."""
    peer, stream = established()
    assert peer.receive(stream, opts(0, rcom(1, STATUS_REPLY, 80), 1)) == [rcom(1, STATUS_REPLY, 80)]


def test_the_first_word_of_a_member_may_be_an_envelope() -> None:
    """A kernel that our STATUS reached before its lockspace was there: "not ready" comes in an envelope, number nought.

    Were it refused, every envelope after it would be one number too late for ever.
    """
    peer, stream = mc.Peer(2, 1), mc.Stream()
    not_ready = rcom(1, STATUS_REPLY)
    assert peer.receive(stream, opts(0, not_ready, 1)) == []        # of a stranger: nothing
    peer.add_user()
    assert peer.receive(stream, opts(1, message(1, 1), 1)) == []    # of an earlier life
    assert peer.version == 0
    assert peer.receive(stream, opts(0, not_ready, 1)) == [not_ready]
    assert peer.version == mc.VERSION_3_2
    assert peer.receive(stream, opts(1, message(1, 2), 1)) == [message(1, 2)]


def test_duplicates_are_acknowledged_again_and_gaps_are_not() -> None:
    peer, stream = established()
    assert peer.receive(stream, opts(0, message(1, 5), 1)) == [message(1, 5)]
    peer.acknowledge()
    take(peer)
    assert peer.receive(stream, opts(0, message(1, 5), 1)) == []
    assert [describe(x) for x in take(peer)] == ["ACK 1"]
    assert peer.receive(stream, opts(2, message(1, 6), 1)) == []
    assert (take(peer), peer.duplicates, peer.gaps, peer.seq_next) == ([], 1, 1, 1)


def test_numbers_wrap() -> None:
    start = 0xffffffff
    peer, stream = established(seq=start)
    assert len(peer.receive(stream, opts(start, message(1, 1), 1) + opts(0, message(1, 2), 1))) == 2
    assert len(peer.receive(stream, opts(start, message(1, 1), 1))) == 0
    peer.send(message(2, 1))
    peer.send(message(2, 2))
    assert [describe(x) for x in take(peer) if x[14] == 3] == [f"OPTS {start} 1 112", "OPTS 0 1 112"]
    peer.receive(stream, ack(0, 1))
    assert peer.unacked_count == 1
    peer.receive(stream, ack(1, 1))
    assert peer.unacked_count == 0


def test_an_ack_of_what_was_never_sent_changes_nothing() -> None:
    peer, stream = established()
    peer.send(message(2))
    for wrong in (2, 3, 0x7fffffff):
        peer.receive(stream, ack(wrong, 1))
        assert peer.unacked_count == 1
    peer.receive(stream, ack(0, 1) + ack(0xffffffff, 1))        # old ones
    assert (peer.unacked_count, peer.refused) == (1, 3)


# connections


def test_what_is_not_acknowledged_goes_again_in_order() -> None:
    peer, stream = established()
    for tag in range(4):
        peer.send(message(2, tag))
    first = take(peer)
    peer.receive(stream, ack(1, 1))
    peer.send(message(2, 4))            # not written when the connection breaks
    peer.reconnected()
    again = take(peer)
    assert again[:3] == first[1:]
    assert describe(again[3]) == "OPTS 4 1 112"
    assert peer.retransmitted == 3


def test_half_a_packet_goes_again_whole() -> None:
    peer, _ = established()
    peer.send(message(2, 1))
    whole = peer.output()
    peer.written(50)
    assert peer.output() == whole[50:]
    peer.reconnected()
    assert peer.output() == whole


def test_a_bare_packet_that_was_not_written_is_kept() -> None:
    peer, _ = established()
    peer.send(status(2))
    peer.reconnected()
    assert take(peer) == [status(2)]
    peer.reconnected()
    assert take(peer) == []


def test_acknowledged_between_two_connections() -> None:
    """Repeated packets wait to be written when their ACK comes by the other connection; later ones are not lost."""
    peer, stream = established()
    for tag in range(2):
        peer.send(message(2, tag))
    take(peer)
    peer.reconnected()
    peer.receive(stream, ack(2, 1))
    for tag in range(2, 4):
        peer.send(message(2, tag))
    peer.reconnected()
    assert [describe(x) for x in take(peer)][-2:] == ["OPTS 2 1 112", "OPTS 3 1 112"]
    peer.reconnected()
    assert [describe(x) for x in take(peer)] == ["OPTS 2 1 112", "OPTS 3 1 112"]


def test_packets_cut_anywhere() -> None:
    data = status(1) + b"".join(opts(i, message(1, i), 1) for i in range(3))
    for step in (1, 7, 16, 100):
        peer, stream, found = mc.Peer(2, 1), mc.Stream(), []
        for at in range(0, len(data), step):
            found += peer.receive(stream, data[at:at + step])
        assert found == [status(1), *(message(1, i) for i in range(3))]
        assert stream.pending_bytes == 0


@pytest.mark.parametrize("length", [0, 15, 4097, 0xffff])
def test_impossible_length_ends_the_connection(length: int) -> None:
    peer, stream = established()
    with pytest.raises(mc.BadStream):
        peer.receive(stream, header(1, 0, 1, length) + bytes(64))


def test_what_came_before_nonsense_counts() -> None:
    """Its number is taken, so it must be delivered: nobody would send it again."""
    peer, stream = established()
    assert peer.receive(stream, opts(0, message(1, 1), 1) + bytes(64)) == [message(1, 1)]
    assert peer.seq_next == 1
    with pytest.raises(mc.BadStream):
        peer.receive(stream, b"")


# versions and strangers


def test_a_lock_message_before_the_version_is_refused_both_ways() -> None:
    peer, stream = mc.Peer(2, 1), mc.Stream()
    assert peer.receive(stream, message(1) + opts(0, message(1), 1) + ack(0, 1)) == []
    peer.send(message(2))
    assert take(peer) == []
    assert peer.state == mc.CLOSED


def test_3_1_peer_is_bare() -> None:
    peer, stream = mc.Peer(2, 1), mc.Stream()
    peer.receive(stream, status(1, V31))
    assert peer.version == mc.VERSION_3_1
    peer.send(message(2, 1))
    assert take(peer) == [message(2, 1)]
    assert peer.receive(stream, message(1, 2, version=V31)) == [message(1, 2, version=V31)]
    assert (peer.unacked_count, peer.ack_owed) == (0, 0)
    assert peer.receive(stream, message(1, 3) + opts(0, message(1), 1) + status(1)) == []


@pytest.mark.parametrize("packet", [
    header(1, 0, 1, 88, 0x00040000) + bytes(72),
    message(3), opts(0, message(3), 3), ack(0, 3), status(3), opts(0, message(3), 1),
    header(1, 0, 1, 20) + bytes(4), header(2, 0, 1, 47) + bytes(31), header(9, 0, 1, 64) + bytes(48), fin(1),
    header(3, 0, 1, 24) + bytes(8),                                                 # nothing inside
    header(3, 0, 1, 40) + b"\1\0\xff\xff" + bytes(20),                              # options longer than the packet
    header(3, 0, 1, 40) + b"\5\0\1\0" + bytes(4) + fin(1),                          # no room for what is inside
    header(3, 0, 1, 112) + b"\2\0\0\0" + bytes(4) + message(1),                     # says RCOM, is MSG
    header(3, 0, 1, 111) + b"\1\0\0\0" + bytes(4) + message(1)[:-1],                # inner length beyond the outer
    opts(0, header(1, 0, 1, 40) + bytes(24), 1), opts(0, header(4, 0, 1, 16), 1), opts(0, opts(0, message(1), 1), 1),
    opts(0, message(1, version=V31), 1),
])
def test_forged_packets_change_nothing(packet: bytes) -> None:
    peer, stream = established()
    peer.take_events()
    assert peer.receive(stream, packet) == []
    assert (peer.seq_next, peer.seq_send, peer.state, peer.output()) == (0, 0, mc.ESTABLISHED, b"")
    assert peer.refused == 1
    assert peer.take_events()[0][0] == "warning"
    assert peer.receive(stream, opts(0, message(1, 9), 1)) == [message(1, 9)]


@pytest.mark.parametrize("packet", [b"", bytes(16), message(2)[:-1], message(2) + b"x", fin(2) + bytes(40),
                                    header(1, 0, 2, 4073) + bytes(4057), header(1, 0, 2, 60) + bytes(44)])
def test_what_is_no_packet_is_not_sent(packet: bytes) -> None:
    peer, _ = established()
    with pytest.raises(ValueError, match="cannot be sent"):
        peer.send(packet)


def test_a_peer_that_never_acknowledges_is_stuck() -> None:
    peer, _ = established()
    big = message(2, 0, mc.APP_PACKET_MAX)
    while peer.unacked_bytes < mc.UNACKED_MAX_BYTES:
        peer.send(big)
        peer.written(len(peer.output()))
    with pytest.raises(mc.PeerStuck):
        peer.send(big)


def test_events_are_bounded() -> None:
    peer, stream = established()
    for _ in range(1000):
        peer.receive(stream, ack(77, 1))
    assert (len(peer.take_events()), peer.refused, peer.take_events()) == (64, 1000, [])


# parting


def test_both_sides_of_a_shutdown() -> None:
    a, from_b = established(1, 2)
    b, from_a = established(2, 1)
    b.add_user()
    a.shutdown()
    assert a.state == mc.FIN_WAIT1
    fin_of_a = b"".join(take(a))
    b.receive(from_a, fin_of_a)
    assert b.state == mc.CLOSE_WAIT
    b.send(message(2, 1))               # the half that is open still carries
    assert len(a.receive(from_b, b"".join(take(b)))) == 1
    assert a.state == mc.FIN_WAIT2
    b.remove_user()
    assert b.state == mc.LAST_ACK
    a.receive(from_b, b"".join(take(b)))
    assert a.state == mc.CLOSED
    b.receive(from_a, b"".join(take(a)))
    assert b.state == mc.CLOSED
    assert (a.version, a.seq_next, a.seq_send, a.unacked_count) == (0, 0, 0, 0)


def test_both_begin_at_once() -> None:
    a, from_b = established(1, 2)
    b, from_a = established(2, 1)
    a.shutdown()
    b.shutdown()
    fin_a, fin_b = b"".join(take(a)), b"".join(take(b))
    a.receive(from_b, fin_b)
    b.receive(from_a, fin_a)
    assert (a.state, b.state) == (mc.CLOSING, mc.CLOSING)
    ack_a, ack_b = b"".join(take(a)), b"".join(take(b))
    a.receive(from_b, ack_b)
    b.receive(from_a, ack_a)
    assert (a.state, b.state) == (mc.CLOSED, mc.CLOSED)


def test_a_node_nobody_uses_answers_a_fin_at_once() -> None:
    peer, stream = established()
    peer.receive(stream, opts(0, fin(1), 1))
    assert peer.state == mc.LAST_ACK
    assert [describe(x) for x in take(peer)] == ["ACK 1", "OPTS 0 5 40"]


def test_a_fin_is_repeated_after_a_break() -> None:
    peer, stream = established()
    peer.shutdown()
    sent = take(peer)
    peer.reconnected()
    assert take(peer) == sent
    peer.receive(stream, ack(1, 1))
    assert peer.state == mc.FIN_WAIT2


def test_the_answer_to_a_repeated_fin_when_all_is_closed() -> None:
    """Our last ACK was lost with the connection: the peer would wait for ever."""
    peer, stream = mc.Peer(2, 1), mc.Stream()
    assert peer.receive(stream, opts(7, fin(1), 1)) == []
    assert [describe(x) for x in take(peer)] == ["ACK 8"]


def test_nothing_is_sent_after_fin() -> None:
    peer, _ = established()
    peer.shutdown()
    take(peer)
    peer.send(message(2))
    peer.send(status(2))
    assert take(peer) == []


def test_after_fin_nothing_is_delivered() -> None:
    peer, stream = established()
    peer.add_user()
    assert peer.receive(stream, opts(0, fin(1), 1) + opts(1, message(1), 1) + opts(1, fin(1), 1)) == []
    assert (peer.state, peer.seq_next) == (mc.CLOSE_WAIT, 1)


def test_a_new_life_after_a_stuck_shutdown() -> None:
    peer, stream = established()
    peer.send(message(2))
    peer.shutdown()
    take(peer)
    assert peer.receive(stream, status(1)) == [status(1)]
    assert (peer.state, peer.seq_send, peer.unacked_count) == (mc.ESTABLISHED, 0, 0)
    peer.send(message(2))
    assert describe(take(peer)[0]) == "OPTS 0 1 112"


def test_close_forgets_everything() -> None:
    peer, _ = established()
    peer.add_user()
    peer.send(message(2))
    peer.close()
    assert (peer.state, peer.users, peer.output(), peer.unacked_count) == (mc.CLOSED, 0, b"", 0)
    with pytest.raises(ValueError, match="no user"):
        peer.remove_user()


# a bad network


@pytest.mark.parametrize("case", range(60))
def test_nothing_is_lost_doubled_or_swapped(rng: random.Random, case: int) -> None:
    """Two machines, connections that break at any byte: each gets what the other sent, once and in order."""
    rng.seed(f"{rng.random()}/{case}")
    start = rng.choice([0, 0xfffffff0])
    ends = [mc.Peer(1, 2, start), mc.Peer(2, 1, start)]
    wires, streams = [b"", b""], [mc.Stream(), mc.Stream()]
    sent: list[list[int]] = [[], []]
    got: list[list[int]] = [[], []]

    def carry(i: int, most: int) -> None:
        chunk, wires[i] = wires[i][:most], wires[i][most:]
        for packet in ends[1 - i].receive(streams[i], chunk):
            if packet[14] == 1:
                got[1 - i].append(int.from_bytes(packet[28:32], "little"))

    def write(i: int, most: int) -> None:
        data = ends[i].output()[:most]
        wires[i] += data
        ends[i].written(len(data))

    for i in (0, 1):
        ends[i].send(status(i + 1))
        write(i, 1 << 20)
    for i in (0, 1):
        carry(i, 1 << 20)
    for _ in range(300):
        i = rng.randrange(2)
        match rng.choice(["send", "send", "write", "write", "carry", "carry", "ack", "break"]):
            case "send":
                tag = rng.randrange(1 << 32)
                ends[i].send(message(i + 1, tag, rng.choice([88, 92, 130, 4000])))
                sent[i].append(tag)
            case "write":
                write(i, rng.randrange(1, 9000))
            case "carry":
                carry(i, rng.randrange(1, 9000))
            case "ack":
                ends[i].acknowledge()
            case "break" if rng.random() < 0.2:
                wires, streams = [b"", b""], [mc.Stream(), mc.Stream()]
                for end in ends:
                    end.reconnected()
    for end in ends:
        end.reconnected()
    wires, streams = [b"", b""], [mc.Stream(), mc.Stream()]
    for _ in range(4):
        for i in (0, 1):
            ends[i].acknowledge()
            write(i, 1 << 30)
            carry(i, 1 << 30)
    assert got == [sent[1], sent[0]]
    assert [e.unacked_count for e in ends] == [0, 0]


@pytest.mark.parametrize("case", range(40))
def test_noise_changes_nothing_that_it_does_not_earn(rng: random.Random, case: int) -> None:
    """Valid streams with bytes turned over: no crash, numbers move one by one, every delivery is well-formed."""
    rng.seed(f"{rng.random()}/{case}")
    for _ in range(50):
        peer, stream = established()
        peer.send(message(2, 1))
        data = bytearray(b"".join(rng.choice([
            opts(n, message(1, n, rng.choice([88, 92])), 1), opts(n, rcom(1, RCOM_LOCK, 108), 1), ack(1, 1), status(1),
            rcom(1, NAMES_REPLY, 500), opts(n, fin(1), 1)]) for n in range(5)))
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 2, 3, 5, 0xff, rng.randrange(256)])
        try:
            found = peer.receive(stream, bytes(data[:rng.randrange(len(data) + 1)]))
        except mc.BadStream:
            continue
        for packet in found:
            assert packet[14] in (1, 2)
            assert int.from_bytes(packet[12:14], "little") == len(packet) >= {1: 88, 2: 48}[packet[14]]
            assert packet[8:12] == b"\1\0\0\0"
        assert peer.seq_next <= 5
        assert peer.seq_send <= 2       # a FIN may have been answered
