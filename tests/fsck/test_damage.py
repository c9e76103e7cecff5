"""Every damage of the table is found: its kind, its place; and Debian's checker sees it where it can."""

from __future__ import annotations

from pathlib import Path

import pytest

from fsck.damages import TABLE, Damage, Patient
from gfs2py.block import MemoryDevice, Snapshot
from gfs2py.fsck import CODES, check
from interop.commands import Commands

IDS = [d.name for d in TABLE]


def test_table_is_as_long_as_it_must_be() -> None:
    assert len(TABLE) >= 60
    assert len({d.code for d in TABLE}) >= 40
    assert {d.code for d in TABLE} <= set(CODES)


@pytest.mark.parametrize("damage", TABLE, ids=IDS)
def test_found(damage: Damage, kernel_4096: Snapshot) -> None:
    dev = MemoryDevice.from_snapshot(kernel_4096)
    place = damage.plant(Patient(dev))
    report = check(dev, full_journals=True)
    hits = report.of(damage.code)
    assert hits, [str(f) for f in report.findings]
    if place is not None:
        wanted = place if isinstance(place, set) else {place}
        assert any(f.block in wanted for f in hits), (wanted, [str(f) for f in hits])
    info = CODES[damage.code]
    assert hits[0].severity == info.severity
    assert report.checked != damage.fatal
    if info.severity == "error":
        assert not report.clean
    together = check(dev, full_journals=True, threads=3)
    assert (together.findings, together.totals) == (report.findings, report.totals)


@pytest.mark.interop
@pytest.mark.parametrize("damage", [d for d in TABLE if d.debian is True],
                         ids=[d.name for d in TABLE if d.debian is True])
def test_debian_agrees(damage: Damage, kernel_4096: Snapshot, tmp_path: Path, commands: Commands) -> None:
    dev = MemoryDevice.from_snapshot(kernel_4096)
    damage.plant(Patient(dev))
    image = tmp_path / "image"
    dev.save(image)
    done = commands.debian("fsck.gfs2", "-n", image)
    assert done.returncode != 0, done.stdout + done.stderr


def test_owners_are_named(kernel_4096: Snapshot) -> None:
    dev = MemoryDevice.from_snapshot(kernel_4096)
    p = Patient(dev)
    block = next(p.r.data_blocks(p.ino("sparse/low")))[1]
    p.ptr(p.ino("sparse/truncated").addr, 232, block)
    found = check(dev).of("block_duplicate")
    assert len(found) == 1
    assert {a for a, _ in found[0].owners} == {p.ino("sparse/low").addr, p.ino("sparse/truncated").addr}


def test_paths_after_a_second_walk(kernel_4096: Snapshot) -> None:
    """Two owners of one block make the checker walk again; what it knew of names stays known."""
    p = Patient(MemoryDevice.from_snapshot(kernel_4096))
    p.di("deep/level1/level2/level3", "di_entries", 77)
    p.ptr(p.ino("sparse/truncated").addr, 232, next(p.r.data_blocks(p.ino("sparse/low")))[1])
    report = check(p.dev)
    assert report.of("block_duplicate")
    assert [f.path for f in report.of("dir_entries")] == ["/deep/level1/level2/level3"]


def test_a_disk_that_changes_under_the_checker(kernel_4096: Snapshot) -> None:
    """Before the second walk many inodes come into a bitmap, more than the inode table has places."""
    dev = MemoryDevice.from_snapshot(kernel_4096)
    p = Patient(dev)
    folder, file = p.ino("big"), p.ino("sparse/truncated")
    leaf = next(p.r.leaves(folder))[0]
    p.ptr(file.addr, 232, leaf)
    group = int(p.r.rindex()[0]["ri_addr"])
    assert group < int(p.rgrp_of(folder.addr)["ri_addr"]), "the places of all that follow would be others"
    changed = []

    def progress(what: str, done: int, of: int) -> None:
        if what == "pass1b" and not changed:
            dev.write(group * p.bsize + 128, b"\xff" * (p.bsize - 128))
            changed.append(done)
    found = check(dev, progress=progress).of("block_duplicate")
    assert changed
    assert [{a for a, _ in f.owners} for f in found] == [{folder.addr, file.addr}]


def test_paths(kernel_4096: Snapshot) -> None:
    """A file with a finding of pass 1, a directory deep down, and a system file are named."""
    p = Patient(MemoryDevice.from_snapshot(kernel_4096))
    file = next(e for e in p.r.dirents(p.ino("big")) if len(e.name) > 30)
    p.put(file.addr, "dinode", "di_blocks", 77)
    p.di("deep/level1/level2/level3", "di_entries", 77)
    p.put(p.system("per_node/inum_range0").addr, "dinode", "di_blocks", 77)
    report = check(p.dev)
    assert {f.path for f in report.findings if f.code != "sys_size"} == {
        "/big/" + file.name.decode(), "/deep/level1/level2/level3", "//per_node/inum_range0"}
