"""Journal recovery on journals built by hand: the rules of replay, damage, a crash in the middle."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_writer import (
    DI,
    IN,
    JDATA,
    LD,
    METADATA,
    RECOVERY,
    REVOKE,
    RG,
    UNMOUNT,
    Log,
    dinode,
    log_header,
    meta_header,
    metadata,
)

from gfs2py.block import FaultyDevice, MemoryDevice, RecordingDevice
from gfs2py.engine._recovery import Journal, JournalDamage, JournalHead

BSIZE = 512
FIRST = 65536 // BSIZE + 1  # the first block behind the superblock
FS_BLOCKS = 4096
LOG_BLOCKS = 64


def disk() -> MemoryDevice:
    return MemoryDevice(FS_BLOCKS * BSIZE)


def log_on(dev: MemoryDevice | RecordingDevice | FaultyDevice, n: int = LOG_BLOCKS, at: int = 1000) -> Log:
    return Log(dev, BSIZE, list(range(at, at + n)))


def journal_of(log: Log, dev: object = None) -> Journal:
    extents = [(i, b, 1) for i, b in enumerate(log.at)]
    return Journal.from_extents(dev or log.dev, log.bsize, extents)  # type: ignore[arg-type]


def block(n: int, kind: int = DI) -> bytes:
    return metadata(kind, bytes([n % 255 + 1]), BSIZE)


def content(dev: MemoryDevice, blkno: int) -> bytes:
    return dev.read(blkno * BSIZE, BSIZE)


class TestHead:
    def test_the_highest_sequence_wins_wherever_the_ring_turns(self) -> None:
        for turn in (0, 1, 31, 62, 63):
            log = log_on(disk())
            log.pos = (turn + 1) % LOG_BLOCKS
            for _ in range(LOG_BLOCKS):
                log.tail = log.pos
                log.header()
            head = journal_of(log).head()
            assert (head.blkno, head.sequence, head.tail) == (turn, log.seq - 1, turn)

    def test_torn_and_foreign_headers_do_not_count(self) -> None:
        dev = disk()
        log = log_on(dev)
        log.header()
        good = journal_of(log).head()
        newer = log_header(BSIZE, 900, 1, 0)
        bad = {
            "hash": newer[:24] + bytes([newer[24] ^ 1]) + newer[25:],
            "crc": newer[:-1] + b"\1",
            "place": log_header(BSIZE, 900, 2, 0),
            "tail": log_header(BSIZE, 900, 1, LOG_BLOCKS),
            "magic": b"\0" + newer[1:],
            "kind": meta_header(DI) + newer[24:],
        }
        for damaged in bad.values():
            dev.write(log.at[1] * BSIZE, damaged)
            assert journal_of(log).head() == good
        dev.write(log.at[1] * BSIZE, newer)
        assert journal_of(log).head().sequence == 900

    def test_a_version_1_header_has_no_crc(self) -> None:
        log = log_on(disk())
        log.header(v1=True)
        head = journal_of(log).head()
        assert head.v1
        assert head.sequence == 100

    def test_all_fields(self) -> None:
        log = log_on(disk())
        log.tail = 5
        log.header(UNMOUNT, statfs_addr=777, local=(-1, -20, 3))
        assert journal_of(log).head() == JournalHead(100, UNMOUNT, 5, 0, False, 0, 777, 0, -1, -20, 3)
        assert journal_of(log).head().clean

    @pytest.mark.parametrize("seed", range(40))
    def test_found_wherever_it_is(self, seed: int) -> None:
        """In a long ring whose headers are near or far apart, one lap behind the head or none."""
        rng = random.Random(seed)
        blocks = rng.choice([2, 256, 257, 700, 3000])
        spread = rng.choice([1, 2, 40, 900])
        places = sorted({0 if rng.random() < 0.5 else rng.randrange(blocks)}
                        | {rng.randrange(blocks) for _ in range(blocks // spread)})
        head = rng.choice(places)
        dev = MemoryDevice((1000 + blocks) * BSIZE)
        first, laps = rng.randrange(1, 1000), rng.random() < 0.7
        for i, at in enumerate(places):
            if at <= head or laps:
                number = first + i + (0 if at > head else len(places))
                dev.write((1000 + at) * BSIZE, log_header(BSIZE, number, at, 0, v1=True))
        found = Journal.from_extents(dev, BSIZE, [(0, 1000, blocks)]).head()
        assert (found.blkno, found.sequence) == (head, first + places.index(head) + len(places))

    def test_no_header_at_all_is_damage(self) -> None:
        with pytest.raises(JournalDamage, match="valid log headers") as e:
            journal_of(log_on(disk())).head()
        assert e.value.block == 1000


class TestReplay:
    def test_last_copy_wins_and_revokes_forget_what_came_before(self) -> None:
        dev = disk()
        log = log_on(dev)
        log.copy({2000: block(1), 2001: block(2), 2002: block(3)})
        log.header()
        log.copy({2000: block(4)})
        log.revoke([2001, 2002, 2003])
        log.header()
        log.copy({2002: block(5)})
        log.header()
        stats = journal_of(log).replay()
        assert content(dev, 2000) == block(4)
        assert content(dev, 2001) == bytes(BSIZE)
        assert content(dev, 2002) == block(5)
        assert (stats.found_meta, stats.found_data, stats.replayed) == (5, 0, 2)
        assert (stats.revokes, stats.revoked, stats.log_blocks) == (3, 1, 11)

    def test_what_lies_before_the_tail_is_left_alone(self) -> None:
        dev = disk()
        log = log_on(dev)
        log.copy({2000: block(1)})
        log.tail = log.pos
        log.copy({2001: block(2)})
        log.header()
        journal_of(log).replay()
        assert content(dev, 2000) == bytes(BSIZE)
        assert content(dev, 2001) == block(2)

    def test_a_clean_looking_tail_at_the_head_replays_nothing(self) -> None:
        dev = disk()
        log = log_on(dev)
        log.copy({2000: block(1)})
        log.tail = log.pos
        log.header()
        assert journal_of(log).replay().replayed == 0
        assert content(dev, 2000) == bytes(BSIZE)

    def test_journaled_data_gets_its_magic_back(self) -> None:
        dev = disk()
        log = log_on(dev)
        looks = meta_header(DI) + b"not a dinode" * 45
        looks = looks[:BSIZE]
        log.copy_data({2000: looks, 2001: b"plain" + bytes(BSIZE - 5), 2002: bytes(BSIZE)})
        log.header()
        assert content(dev, log.at[1])[:4] == bytes(4)
        stats = journal_of(log).replay()
        assert (content(dev, 2000), content(dev, 2001)[:5]) == (looks, b"plain")
        assert (stats.found_data, stats.replayed) == (3, 3)

    def test_dry_run_counts_and_writes_nothing(self) -> None:
        dev = RecordingDevice(disk())
        log = log_on(dev)
        log.copy({2000: block(1)})
        log.header()
        before = dev.writes
        assert journal_of(log).replay(dry_run=True).replayed == 1
        assert dev.writes == before

    def test_writes_are_few_and_one_flush_ends_them(self) -> None:
        dev = FaultyDevice(disk())
        log = log_on(dev)
        log.copy({b: block(b) for b in range(2000, 2020)})
        log.header()
        journal = journal_of(log)
        before = dev.stats()
        journal.replay()
        after = dev.stats()
        assert after["writes"] - before["writes"] == 20
        assert after["flushes"] - before["flushes"] == 1

    def test_a_newer_resource_group_on_the_disk_is_reported(self) -> None:
        dev = disk()
        log = log_on(dev)

        def rgrp(generation: int) -> bytes:
            b = meta_header(RG) + struct.pack(">IIIIQ", 0, 0, 0, 0, generation)
            return b + bytes(BSIZE - len(b))

        dev.write(2000 * BSIZE, rgrp(9))
        dev.write(2001 * BSIZE, rgrp(3))
        log.copy({2000: rgrp(5), 2001: rgrp(5)})
        log.header()
        assert journal_of(log).replay().stale_rgrps == 1
        assert content(dev, 2000) == rgrp(5)

    def test_a_journal_in_pieces(self) -> None:
        dev = disk()
        places = random.Random(5).sample(range(1000, 2000), LOG_BLOCKS)
        log = Log(dev, BSIZE, places, pos=50, tail=50)
        log.copy({b: block(b) for b in range(3000, 3050)})
        log.header()
        journal_of(log).replay()
        assert all(content(dev, b) == block(b) for b in range(3000, 3050))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["copy", "data", "revoke", "header"]), st.integers(1, 70), st.integers(0, 1 << 30)
    ),
    max_size=20,
)


@given(steps=STEPS, start=st.integers(0, 399), scattered=st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_log_gives_what_its_history_says(
    steps: list[tuple[str, int, int]], start: int, scattered: bool
) -> None:
    dev = disk()
    rng = random.Random(start)
    at = rng.sample(range(200, 2000), 400) if scattered else list(range(1000, 1400))
    log = Log(dev, BSIZE, at, pos=start, tail=start)
    old = {b: rng.randbytes(BSIZE) for b in range(2000, 2100)}
    for b, data in old.items():
        dev.write(b * BSIZE, data)
    used = 0
    for op, n, seed in steps:
        if used + 2 * n + 10 > 390:
            break
        used += 2 * n + 4
        draw = random.Random(seed)
        blocks = draw.sample(range(2000, 2100), n)
        if op == "copy":
            log.copy({b: metadata(IN, draw.randbytes(1), BSIZE) for b in blocks})
        elif op == "data":
            begin = (meta_header(IN), b"x" * 24)
            log.copy_data({b: draw.choice(begin) + draw.randbytes(BSIZE - 24) for b in blocks})
        elif op == "revoke":
            log.revoke(blocks)
        else:
            log.header()
    log.header()
    stats = journal_of(log).replay()
    for b in range(2000, 2100):
        assert content(dev, b) == log.result.get(b, old[b])
    assert stats.found_meta + stats.found_data == log.copies
    assert stats.replayed == len(log.result)
    assert stats.revokes == len(log.revoked)


def put_raw(log: Log, data: bytes) -> None:
    log.put(data + bytes(BSIZE - len(data)))


def desc(kind: int, length: int, count: int, *blocks: int) -> bytes:
    head = meta_header(LD) + struct.pack(">IIII", kind, length, count, 0) + bytes(32)
    return head + struct.pack(f">{len(blocks)}Q", *blocks)


DAMAGE: dict[str, tuple[Callable[[Log], object], str]] = {
    "no magic": (lambda log: put_raw(log, b""), "log descriptor: mh_magic"),
    "not a descriptor": (lambda log: put_raw(log, meta_header(DI)), "log descriptor: mh_type"),
    "unknown type": (lambda log: put_raw(log, desc(299, 1, 0)), "ld_type"),
    "length 0": (lambda log: put_raw(log, desc(METADATA, 0, 0)), "ld_length"),
    "longer than the log": (lambda log: put_raw(log, desc(METADATA, 40, 1, 2000)), "ld_length"),
    "more blocks than its length": (lambda log: put_raw(log, desc(METADATA, 1, 1, 2000)), "ld_data1"),
    "more than a descriptor holds": (
        lambda log: (put_raw(log, desc(METADATA, 58, 57)), [put_raw(log, b"") for _ in range(57)]),
        "ld_data1: expected 0x37, found 0x39",
    ),
    "more data than its length": (lambda log: put_raw(log, desc(JDATA, 1, 2, 2000, 0)), "ld_data1"),
    "more revokes than it holds": (lambda log: put_raw(log, desc(REVOKE, 1, 56, 2000)), "ld_data1"),
    "block 0": (lambda log: log.copy({0: block(1)}), "block number"),
    "the superblock": (lambda log: log.copy({65536 // BSIZE: block(1)}), "block number"),
    "past the end": (
        lambda log: log.copy({FS_BLOCKS: block(1)}),
        "block number: expected 0x1000, found 0x1000",
    ),
    "far past the end": (lambda log: log.copy_data({1 << 63: block(1)}), "block number"),
    "into the journal": (lambda log: log.copy({1003: block(1)}), "inside the journal"),
    "revoke past the end": (lambda log: log.revoke([1 << 60]), "revoke: block number"),
    "revokes go on elsewhere": (
        lambda log: (put_raw(log, desc(REVOKE, 2, 56, *range(2000, 2055))), put_raw(log, meta_header(DI))),
        "log block of revokes: mh_type",
    ),
    "metadata without magic": (
        lambda log: log.copy({2000: bytes(BSIZE)}),
        "metadata in the journal: mh_magic",
    ),
    "header of another place": (lambda log: log.put(log_header(BSIZE, 50, 33, 0)), "log header"),
}


@pytest.mark.parametrize("kind", list(DAMAGE))
def test_damage_is_named_and_nothing_is_written(kind: str) -> None:
    plant, says = DAMAGE[kind]
    dev = RecordingDevice(disk())
    log = log_on(dev)
    log.copy({2001: block(1)})
    log.header()
    where = log.pos
    plant(log)
    log.header()
    before = dev.writes
    with pytest.raises(JournalDamage, match=says) as e:
        journal_of(log).recover()
    assert dev.writes == before
    assert log.at[where] <= e.value.block < log.at[log.pos]
    assert e.value.filename == "memory"


def test_a_revoked_copy_may_be_damaged() -> None:
    log = log_on(disk())
    log.copy({2000: bytes(BSIZE)})
    log.revoke([2000])
    log.header()
    assert journal_of(log).replay().revoked == 1


def statfs_file(addr: int, values: tuple[int, int, int]) -> bytes:
    return dinode(BSIZE, addr, 24, 0, struct.pack(">qqq", *values))


def read_statfs(dev: MemoryDevice, addr: int) -> tuple[int, ...]:
    return struct.unpack(">qqq", dev.read(addr * BSIZE + 232, 24))


class TestRecover:
    def make(self, dev: MemoryDevice | RecordingDevice, *, v1: bool = False) -> Log:
        log = log_on(dev)
        dev.write(3000 * BSIZE, statfs_file(3000, (4000, 3000, 50)))
        dev.write(3001 * BSIZE, statfs_file(3001, (0, -3, 1)))
        log.copy({2000: block(1), 3001: statfs_file(3001, (0, -7, 2))})
        log.header(statfs_addr=3001, local=(0, -7, 2), v1=v1)
        return log

    def test_statfs_and_the_clean_header(self) -> None:
        dev = disk()
        log = self.make(dev)
        head, stats = journal_of(log).recover(master_statfs=3000, jid=3, sec=1234, nsec=56)
        assert (head.sequence, head.flags, stats.replayed) == (100, 0, 2)
        assert read_statfs(dev, 3000) == (4000, 2993, 52)
        assert read_statfs(dev, 3001) == (0, 0, 0)
        now = journal_of(log).head()
        # The changed statfs files are logged first: descriptor, two dinodes, header 101.
        assert (now.sequence, now.flags, now.blkno, now.tail) == (102, UNMOUNT | RECOVERY, log.pos + 4, 0)
        assert (now.v1, now.statfs_addr, now.local_free) == (False, 0, 0)
        raw = content(dev, log.at[log.pos + 4])
        assert struct.unpack_from(">I", raw, 20) == (3,)
        assert struct.unpack_from(">IQQ", raw, 52) == (56, 1234, log.at[log.pos + 4])
        want = log_header(BSIZE, 102, log.pos + 4, 0, UNMOUNT | RECOVERY)
        assert raw[24:40] == want[24:40]

    def test_a_clean_journal_is_left_alone(self) -> None:
        dev = RecordingDevice(disk())
        log = self.make(dev)
        journal_of(log).recover(master_statfs=3000)
        before = dev.writes
        head, stats = journal_of(log).recover(master_statfs=3000)
        assert head.clean
        assert stats.log_blocks == 0
        assert dev.writes == before

    def test_the_header_goes_round_the_end(self) -> None:
        dev = disk()
        log = log_on(dev)
        log.pos = log.tail = LOG_BLOCKS - 3
        log.copy({2000: block(1)})
        log.header()
        assert log.pos == 0
        journal_of(log).recover()
        assert journal_of(log).head().blkno == 0

    def test_version_1_leaves_statfs_to_the_owner(self) -> None:
        dev = disk()
        log = self.make(dev, v1=True)
        journal_of(log).recover(master_statfs=3000, local_statfs=3001)
        assert read_statfs(dev, 3000) == (4000, 3000, 50)
        assert read_statfs(dev, 3001) == (0, -7, 2)

    def test_statfs_files_are_checked(self) -> None:
        for bad, says in (
            (bytes(BSIZE), "mh_magic"),
            (statfs_file(3009, (0, 0, 0)), "no_addr"),
            (dinode(BSIZE, 3000, 24, 1, b""), "di_height"),
            (dinode(BSIZE, 3000, 23, 0, b""), "di_size"),
        ):
            dev = disk()
            log = self.make(dev)
            dev.write(3000 * BSIZE, bad)
            with pytest.raises(JournalDamage, match=f"statfs dinode: {says}"):
                journal_of(log).recover(master_statfs=3000)
            assert not journal_of(log).head().clean

    def test_power_cut_anywhere_in_the_recovery_and_again(self) -> None:
        base = disk()
        log = log_on(base, 128)
        for b in range(2000, 2030):
            log.copy({b: block(b)})
            if b % 7 == 0:
                log.revoke([b - 1])
        log.header()
        dev = RecordingDevice(MemoryDevice.from_snapshot(base.snapshot()))
        journal_of(log, dev).recover(sec=5)
        want = dev.read(0, FS_BLOCKS * BSIZE)
        n = 0
        for epoch in range(dev.epochs + 1):
            for cut in dev.cuts(epoch, samples=20):
                journal_of(log, cut.device).recover(sec=5)
                assert cut.device.read(0, FS_BLOCKS * BSIZE) == want
                n += 1
        assert n > 20

    def test_every_io_may_fail_once(self) -> None:
        base = disk()
        log = self.make(base)
        k = 0
        while True:
            k += 1
            image = MemoryDevice.from_snapshot(base.snapshot())
            dev = FaultyDevice(image, fail_at=k)
            try:
                journal_of(log, dev).recover(master_statfs=3000)
                break
            except JournalDamage:
                raise
            except OSError:
                # What was promised before the error is intact: the journal is still there to be replayed.
                assert not journal_of(log, image).head().clean
        assert k > 8
        assert content(image, 2000) == block(1)


class TestMap:
    def tree(self, dev: MemoryDevice, height: int, n: int, at: int = 500) -> tuple[int, list[int]]:
        """Write a journal's dinode and indirect blocks; returns its address and where the log blocks lie."""
        free = iter(range(at + 1, FS_BLOCKS))
        level = list(range(2000, 2000 + n))
        log = list(level)
        for _ in range(height - 1):
            above = []
            for i in range(0, len(level), (BSIZE - 24) // 8):
                addr = next(free)
                ptrs = level[i : i + (BSIZE - 24) // 8]
                dev.write(addr * BSIZE, meta_header(IN) + struct.pack(f">{len(ptrs)}Q", *ptrs))
                above.append(addr)
            level = above
        dev.write(at * BSIZE, dinode(BSIZE, at, n * BSIZE, height, struct.pack(f">{len(level)}Q", *level)))
        return at, log

    @pytest.mark.parametrize(("height", "n"), [(1, 2), (1, 35), (2, 36), (2, 1500), (3, 1500), (4, 1500)])
    def test_any_height(self, height: int, n: int) -> None:
        dev = disk()
        addr, log = self.tree(dev, height, n)
        journal = Journal(dev, BSIZE, addr)
        assert journal.blocks == n
        assert [d + i for _, d, count in journal.extents for i in range(count)] == log

    def test_damage_in_the_tree_is_named(self) -> None:
        def patched(off: int, data: bytes, block: int = 500) -> MemoryDevice:
            dev = disk()
            self.tree(dev, 2, 100)
            dev.write(block * BSIZE + off, data)
            return dev

        for dev, says in (
            (patched(0, b"\xff"), "block 500: dinode of a journal: mh_magic"),
            (patched(7, b"\x05"), "mh_type"),
            (patched(32, bytes(8)), "no_addr"),
            (patched(56, struct.pack(">Q", 1000)), "di_size"),
            (patched(56, bytes(8)), "di_size"),
            (patched(56, struct.pack(">Q", 1 << 62)), "di_size"),
            (patched(138, b"\0\0"), "di_height"),
            (patched(138, b"\0\1"), "di_height"),
            (patched(138, b"\xff\xff"), "di_height"),
            (patched(232, bytes(8)), "dinode of a journal: pointer"),
            (patched(232, struct.pack(">Q", FS_BLOCKS)), "dinode of a journal: pointer"),
            (patched(0, bytes(4), 501), "block 501: indirect block of a journal: mh_magic"),
            (patched(24, bytes(8), 501), "block 501: indirect block of a journal: pointer"),
        ):
            with pytest.raises(JournalDamage, match=says):
                Journal(dev, BSIZE, 500)
        for addr in (0, FS_BLOCKS, 1 << 63):
            with pytest.raises(JournalDamage, match="address"):
                Journal(disk(), BSIZE, addr)

    def test_maps_must_be_whole(self) -> None:
        dev = disk()
        for extents in (
            [],
            [(0, 1000, 1)],
            [(1, 1000, 5)],
            [(0, 1000, 5), (6, 2000, 5)],
            [(0, FS_BLOCKS - 2, 5)],
        ):
            with pytest.raises(OSError):
                Journal.from_extents(dev, BSIZE, extents)
        with pytest.raises(OSError):
            Journal.from_extents(MemoryDevice(1 << 20, align=4096), BSIZE, [(0, 1000, 5)])
