"""Resource groups: reading the index, allocating, freeing, waiting for the commit, reserving."""

import errno
import itertools
import random
import struct

import pytest
from spacekit import (
    DINODE,
    DIRECTORY,
    FILE,
    FREE,
    MIB,
    UNLINKED,
    USED,
    blocks_of,
    check_groups_on_disk,
    formatted,
    fresh,
    laboratory,
    states_on_disk,
    total_free,
)

from gfs2py.block._memory import MemoryDevice
from gfs2py.engine._spacelab import SpaceLab
from gfs2py.ondisk import constants as c

SDF_DISCARD = 64


def code(excinfo: pytest.ExceptionInfo[OSError]) -> str:
    return errno.errorcode[excinfo.value.errno or 0]


@pytest.mark.parametrize("bsize", [512, 1024, 2048, 4096])
def test_index_and_counts_of_every_block_size(bsize: int) -> None:
    dev = fresh(64, bsize)
    with laboratory(dev) as lab:
        groups = lab.groups()
        assert all(not g["loaded"] for g in groups)
        assert lab.statfs() == lab.statfs(slow=True)
        assert all(g["loaded"] and g["free"] == g["free_clone"] for g in lab.groups())
        for i, g in enumerate(groups):
            assert lab.find(g["data0"]) == lab.find(g["data0"] + g["data"] - 1) == i
            assert lab.find(g["addr"]) is None
        assert lab.find(groups[-1]["data0"] + groups[-1]["data"]) is None
    check_groups_on_disk(dev, lab_groups(dev), bsize)


def lab_groups(dev: MemoryDevice) -> list[dict[str, int]]:
    with laboratory(dev) as lab:
        lab.statfs(slow=True)
        return lab.groups()


def test_groups_that_are_added_while_mounted_can_be_used() -> None:
    dev = fresh()
    everything = lab_groups(dev)
    lab = SpaceLab(dev, hide_groups=2)
    assert len(lab.groups()) == len(everything) - 2
    owner = lab.owner(FILE)
    left = total_free(lab)
    while left:
        left -= len(blocks_of(lab.alloc(owner, min(left, 4000), min_target=1)))
    with pytest.raises(OSError) as full:
        lab.alloc(owner, 1)
    assert code(full) == "ENOSPC"
    lab.read_index()
    assert [g["addr"] for g in lab.groups()] == [g["addr"] for g in everything]
    assert lab.find(lab.alloc(owner, 100)[0][0]) in (len(everything) - 2, len(everything) - 1)
    lab.read_index()
    assert len(lab.groups()) == len(everything)
    lab.close()


def test_allocation_is_contiguous_and_reaches_the_disk() -> None:
    dev = fresh()
    with laboratory(dev) as lab:
        total, before, dinodes = lab.statfs()
        runs = lab.alloc(lab.owner(FILE), 100)
        assert len(runs) == 1
        assert runs[0][1] == 100
        assert lab.statfs() == (total, before - 100, dinodes) == lab.statfs(slow=True)
        assert {lab.state(b) for b in blocks_of(runs)} == {USED}
        groups = lab.groups()
    check_groups_on_disk(dev, groups, 4096)
    group = groups[next(i for i, g in enumerate(groups) if g["data0"] <= runs[0][0] < g["data0"] + g["data"])]
    states = states_on_disk(dev, group, 4096)
    first = runs[0][0] - group["data0"]
    assert states[first : first + 100] == [USED] * 100


def test_a_growing_file_stays_in_one_piece_next_to_another_one() -> None:
    with laboratory() as lab:
        a, b = lab.owner(FILE), lab.owner(FILE)
        got: dict[int, list[int]] = {a: [], b: []}
        for _ in range(200):
            for owner in (a, b):
                got[owner] += blocks_of(lab.alloc(owner, 4))
        for blocks in got.values():
            pieces = 1 + sum(y != x + 1 for x, y in itertools.pairwise(blocks))
            assert pieces <= 12, "reservations grow with the file"
        assert lab.reservation(a) is not None
        lab.drop_reservation(a)
        lab.drop_reservation(b)
        assert lab.reservation(a) is None
        assert all(g["reserved"] == 0 == g["n_rs"] for g in lab.groups())


def test_freed_blocks_wait_for_the_commit() -> None:
    with laboratory() as lab:
        blk = lab.alloc(lab.owner(FILE), 64)[0][0]
        lab.flush()
        lab.free(blk, 64)
        index = lab.find(blk)
        assert index is not None
        group = lab.groups()[index]
        assert group["free"] == group["free_clone"] + 64
        assert group["clones"] == 1
        assert {lab.state(blk + i) for i in range(64)} == {FREE}
        taken = blocks_of(lab.alloc(lab.owner(DIRECTORY, goal=blk), 64))
        assert not set(taken) & set(range(blk, blk + 64))
        lab.flush()
        group = lab.groups()[index]
        assert group["free"] == group["free_clone"]
        assert group["clones"] == 0
        assert lab.alloc(lab.owner(DIRECTORY, goal=blk), 64) == [(blk, 64)]


def test_a_commit_releases_only_what_was_freed_before_its_switch() -> None:
    with laboratory() as lab:
        blk = lab.alloc(lab.owner(FILE), 40)[0][0]
        lab.flush()
        lab.free(blk, 10)
        lab.switch()
        lab.free(blk + 20, 10)
        lab.after_commit()
        assert lab.alloc(lab.owner(DIRECTORY, goal=blk), 10) == [(blk, 10)]
        index = lab.find(blk)
        assert index is not None
        assert lab.groups()[index]["free"] == lab.groups()[index]["free_clone"] + 10
        later = blocks_of(lab.alloc(lab.owner(DIRECTORY, goal=blk + 20), 10))
        assert not set(later) & set(range(blk + 20, blk + 30))
        lab.switch()
        lab.after_commit()
        assert lab.groups()[index]["clones"] == 0
        assert lab.alloc(lab.owner(DIRECTORY, goal=blk + 20), 10) == [(blk + 20, 10)]


def test_every_block_can_be_had_and_then_no_more() -> None:
    with laboratory(fresh(64)) as lab:
        owner = lab.owner(FILE)
        free = total_free(lab)
        seen: set[int] = set()
        while free:
            blocks = blocks_of(lab.alloc(owner, min(free, 5000), min_target=1))
            assert not seen & set(blocks)
            seen |= set(blocks)
            free -= len(blocks)
        assert total_free(lab) == 0 == lab.statfs()[1]
        with pytest.raises(OSError) as full:
            lab.alloc(owner, 1)
        assert code(full) == "ENOSPC"
        # The last resort commits, so that what waits for a commit can be had.
        back = sorted(seen)[100:110]
        lab.free(back[0], 1)
        assert lab.alloc(lab.owner(FILE), 1) == [(back[0], 1)]


def test_reservations_are_taken_away_when_space_is_short() -> None:
    with laboratory(fresh(64)) as lab:
        hoarder, taker = lab.owner(FILE, blocks=100_000), lab.owner(FILE)
        lab.alloc(hoarder, 1)
        held = lab.reservation(hoarder)
        assert held is not None
        assert held[1] > 100
        free = total_free(lab)
        while free:
            free -= len(blocks_of(lab.alloc(taker, min(free, 5000), min_target=1)))
        assert lab.reservation(hoarder) is None
        assert all(g["reserved"] == 0 for g in lab.groups())


def test_min_target_gives_what_there_is_in_one_group() -> None:
    with laboratory(fresh(64)) as lab:
        owner = lab.owner(FILE)
        biggest = max(lab.groups(), key=lambda g: g["data"])["data"]
        with pytest.raises(OSError) as none:
            lab.alloc(owner, biggest + 1)
        assert code(none) == "ENOSPC"
        assert len(blocks_of(lab.alloc(owner, biggest + 1, min_target=10))) >= 10


def test_dinodes_from_birth_to_death() -> None:
    with laboratory() as lab:
        parent = lab.owner(DIRECTORY)
        total, free, dinodes = lab.statfs()
        born = [lab.alloc(parent, 1, dinode=True)[0] for _ in range(10)]
        generations = [gen for _, gen in born]
        assert generations == list(range(generations[0], generations[0] + 10))
        assert generations[0] > 0
        assert lab.statfs() == (total, free - 10, dinodes + 10) == lab.statfs(slow=True)
        blk = born[3][0]
        group = lab.find(blk)
        assert group is not None
        assert lab.state(blk) == DINODE
        lab.unlink_dinode(blk)
        assert lab.state(blk) == UNLINKED
        assert lab.unlinked(group) == [blk]
        lab.relink_dinode(blk)
        assert lab.unlinked(group) == []
        lab.unlink_dinode(blk)
        lab.free_dinode(blk)
        assert lab.state(blk) == FREE
        assert lab.groups()[group]["unlinked"] == 0
        assert lab.statfs() == (total, free - 9, dinodes + 9) == lab.statfs(slow=True)


@pytest.mark.parametrize("wrong", ["free twice", "free a dinode", "unlink data", "free a linked dinode"])
def test_states_that_do_not_fit_withdraw(wrong: str) -> None:
    lab = SpaceLab(fresh())
    blk = lab.alloc(lab.owner(FILE), 8)[0][0]
    dinode = lab.alloc(lab.owner(DIRECTORY), 1, dinode=True)[0][0]
    lab.free(blk, 4)
    act = {
        "free twice": lambda: lab.free(blk, 8),
        "free a dinode": lambda: lab.free(dinode, 1),
        "unlink data": lambda: lab.unlink_dinode(blk + 5),
        "free a linked dinode": lambda: lab.free_dinode(dinode),
    }[wrong]
    with pytest.raises(OSError, match="state of a") as broken:
        act()
    assert code(broken) == "EIO"
    with pytest.raises(OSError):
        lab.alloc(lab.owner(FILE), 1)
    lab.close(crash=True)


def test_groups_marked_noalloc_are_left_alone() -> None:
    dev = fresh()
    groups = lab_groups(dev)
    shut = groups[1]
    head = bytearray(dev.read(shut["addr"] * 4096, 4096))
    struct.pack_into(">I", head, 24, c.GFS2_RGF_NOALLOC)
    dev.write(shut["addr"] * 4096, bytes(head))
    with laboratory(dev) as lab:
        owner = lab.owner(FILE, goal=shut["data0"])
        left = total_free(lab) - shut["free"]
        while left:
            blocks = blocks_of(lab.alloc(owner, min(left, 4000), min_target=1))
            assert all(lab.find(b) != 1 for b in blocks)
            left -= len(blocks)
        with pytest.raises(OSError) as full:
            lab.alloc(owner, 1)
        assert code(full) == "ENOSPC"


def test_new_directories_of_the_root_are_spread() -> None:
    with laboratory(fresh(256)) as lab:
        top = lab.owner(DIRECTORY, diskflags=c.GFS2_DIF_TOPDIR)
        other = lab.owner(DIRECTORY, goal=lab.groups()[2]["data0"])
        spread = {lab.find(lab.alloc(top, 1, dinode=True, orlov=True)[0][0]) for _ in range(16)}
        near = {lab.find(lab.alloc(other, 1, dinode=True, orlov=True)[0][0]) for _ in range(16)}
        assert len(spread) >= len(lab.groups()) // 2
        assert near == {2}


def test_only_a_bounded_number_of_bitmaps_is_held() -> None:
    with laboratory(fresh(2048)) as lab:
        lab.statfs(slow=True)
        groups = lab.groups()
        assert len(groups) > 50
        assert 1 <= sum(g["held"] for g in groups) <= 32


# ---- discarding


def test_trimming_discards_exactly_what_is_free() -> None:
    """Blocks in use keep their content, free ones read as zeros; what awaits a commit is left alone."""
    dev = fresh(64)
    with laboratory(dev) as lab:
        runs = [lab.alloc(lab.owner(DIRECTORY), 50)[0] for _ in range(4)]
        for blk, n in runs:
            dev.write(blk * 4096, b"\xaa" * 4096 * n)
        lab.free(*runs[0])
        lab.flush()
        lab.free(*runs[2])
        free = total_free(lab)
        assert lab.trim(0, 1 << 40) == free - 50
        assert not any(dev.read(runs[0][0] * 4096, 50 * 4096))
        for blk, n in runs[1:]:
            assert dev.read(blk * 4096, n * 4096) == b"\xaa" * 4096 * n
        lab.flush()
        # Only the group that had frees pending is not yet marked as trimmed.
        assert lab.trim(0, 1 << 40) < free
        assert not any(dev.read(runs[2][0] * 4096, 50 * 4096))
        assert lab.trim(0, 1 << 40) == 0
        with pytest.raises(OSError) as nothing:
            lab.trim(5, 5)
        assert code(nothing) == "EINVAL"


def test_trimming_respects_range_and_length() -> None:
    dev = fresh(64)
    with laboratory(dev) as lab:
        group = lab.groups()[-1]
        start = group["data0"] + 100
        assert lab.trim(start, start + 30) == 30
        assert lab.trim(start, start + 30, 31) == 0


def test_freed_blocks_are_discarded_when_they_may_be_used_again() -> None:
    dev = fresh(64)
    with laboratory(dev) as lab:
        lab.set_flag(SDF_DISCARD)
        blk, n = lab.alloc(lab.owner(FILE), 20)[0]
        dev.write(blk * 4096, b"\xaa" * 4096 * n)
        lab.free(blk + 5, 10)
        assert dev.read(blk * 4096, n * 4096) == b"\xaa" * 4096 * n
        lab.flush()
        assert dev.read(blk * 4096, n * 4096) == b"\xaa" * 4096 * 5 + bytes(4096 * 10) + b"\xaa" * 4096 * 5


# ---- damage

RINDEX_DAMAGE = {
    "overlap": (1, 0, ">Q", lambda v: v - 5),
    "beyond the device": (3, 0, ">Q", lambda v: v + (1 << 40)),
    "length": (1, 8, ">I", lambda v: v + 1),
    "data0": (1, 16, ">Q", lambda v: v - 1),
    "data": (1, 24, ">I", lambda v: v + 1),
    "bitbytes": (1, 28, ">I", lambda v: v + 1),
    "no data": (1, 24, ">I", lambda v: 0),
}


@pytest.mark.parametrize("kind", RINDEX_DAMAGE)
def test_a_damaged_index_is_refused(kind: str) -> None:
    dev = fresh()
    entry, offset, fmt, change = RINDEX_DAMAGE[kind]
    groups = lab_groups(dev)
    raw = struct.pack(">QI", groups[entry]["addr"], groups[entry]["length"])
    at = find_bytes(dev, raw) + offset
    page = bytearray(dev.read(at // 512 * 512, 1024))
    (value,) = struct.unpack_from(fmt, page, at % 512)
    struct.pack_into(fmt, page, at % 512, change(value))
    dev.write(at // 512 * 512, bytes(page))
    with pytest.raises(OSError, match="rindex") as broken:
        SpaceLab(dev)
    assert code(broken) == "EIO"


def find_bytes(dev: MemoryDevice, what: bytes) -> int:
    """Where these bytes stand on the device, the only time."""
    places = []
    for off in range(0, 16 * MIB, MIB):
        data = dev.read(off, MIB)
        at = data.find(what)
        while at >= 0:
            places.append(off + at)
            at = data.find(what, at + 1)
    assert len(places) == 1
    return places[0]


GROUP_DAMAGE = [(28, "rg_free"), (32, "rg_dinodes"), (48, "rg_data0"), (56, "rg_data"), (60, "rg_bitbytes"),
                (4, "mh_type"), (200, "rg_free")]


@pytest.mark.parametrize(("offset", "what"), GROUP_DAMAGE)
def test_a_damaged_group_withdraws_when_it_is_locked(offset: int, what: str) -> None:
    dev = fresh()
    addr = lab_groups(dev)[2]["addr"]
    block = bytearray(dev.read(addr * 4096, 4096))
    block[offset + 3 if offset != 200 else offset] ^= 4
    dev.write(addr * 4096, bytes(block))
    lab = SpaceLab(dev)
    with pytest.raises(OSError, match=what) as broken:
        lab.statfs(slow=True)
    assert code(broken) == "EIO"
    assert str(addr) in str(broken.value)
    lab.close(crash=True)


# ---- a model

@pytest.mark.parametrize(("bsize", "size_mib"), [(512, 64), (4096, 256)])
def test_a_thousand_random_steps_against_a_model(bsize: int, size_mib: int, rng: random.Random) -> None:
    """No block is given twice or before its time; memory, statfs and disk agree with the model."""
    dev = fresh(size_mib, bsize)
    with laboratory(dev) as lab:
        owners = [lab.owner(FILE) for _ in range(8)]
        owned: set[int] = set()
        pending: set[int] = set()
        total, free, dinodes = lab.statfs()
        for _ in range(1000):
            step = rng.random()
            if step < 0.5:
                blocks = blocks_of(lab.alloc(rng.choice(owners), rng.randint(1, 200)))
                assert not owned & set(blocks)
                assert not pending & set(blocks)
                owned |= set(blocks)
            elif step < 0.9 and owned:
                first = rng.choice(sorted(owned))
                n = 1
                while n < rng.randint(1, 300) and first + n in owned:
                    n += 1
                if lab.find(first) == lab.find(first + n - 1):
                    lab.free(first, n, meta=rng.random() < 0.3)
                    owned -= set(range(first, first + n))
                    pending |= set(range(first, first + n))
            elif step < 0.95:
                lab.drop_reservation(rng.choice(owners))
            else:
                lab.flush()
                pending.clear()
            assert lab.statfs() == (total, free - len(owned), dinodes)
        assert lab.statfs(slow=True) == lab.statfs()
        lab.flush()
        groups = lab.groups()
        assert all(g["free"] == g["free_clone"] and g["clones"] == 0 for g in groups)
    check_groups_on_disk(dev, groups, bsize)
    used = {g["data0"] + i for g in groups for i, s in enumerate(states_on_disk(dev, g, bsize)) if s == USED}
    empty = MemoryDevice.from_snapshot(formatted(size_mib, bsize))
    assert used - {g["data0"] + i for g in groups for i, s in enumerate(states_on_disk(empty, g, bsize))
                   if s == USED} == owned
