"""Nothing is found where nothing is wrong: images of gfs2-utils' mkfs and of the kernel."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from fsck.patient import Patient
from gfs2py.block import FileDevice, MemoryDevice, Snapshot
from gfs2py.fsck import CODES, KINDS, check, check_quick
from gfs2py.fsck._check import Checker
from gfs2py.fsck._state import Kind
from interop.commands import Commands
from interop.oracle.kernel import Kernel

HERE = Path(__file__).parent


def silent(image: Path) -> None:
    report = check(FileDevice(image, readonly=True, direct=False), full_journals=True)
    assert report.checked
    assert [str(f) for f in report.findings] == []
    assert report.clean


@pytest.mark.parametrize("image", ["kernel_4096", "kernel_512"])
def test_kernel_filled_image(image: str, request: pytest.FixtureRequest) -> None:
    snap: Snapshot = request.getfixturevalue(image)
    report = check(MemoryDevice.from_snapshot(snap), full_journals=True)
    assert [str(f) for f in report.findings] == []
    assert report.counts["dinodes"] > 500
    quick = check_quick(MemoryDevice.from_snapshot(snap))
    assert quick.checked
    assert not quick.findings


def test_quick_search_finds_the_head_of_the_full_scan(kernel_4096: Snapshot, kernel_512: Snapshot) -> None:
    for snap in (kernel_4096, kernel_512):
        ck = Checker(MemoryDevice.from_snapshot(snap))
        assert ck.open()
        addr = ck.lookup(ck.lookup(ck.geometry()["master"], b"jindex"), b"journal0")
        quick, full = ck.journal(addr, False), ck.journal(addr, True)
        assert quick["n_headers"] < full["n_headers"]
        for key in ("head", "head_block", "sequence", "flags", "tail"):
            assert quick[key] == full[key]


def test_image_holds_the_hard_cases(kernel_4096: Snapshot) -> None:
    """The image is only worth something if the shapes the checker must know are in it."""
    p = Patient(MemoryDevice.from_snapshot(kernel_4096))
    assert p.ino("collide").number("di_depth") == 17
    assert len(p.chain()) >= 3
    assert p.ino("sparse/higher").height >= 4
    assert p.ino("xattrs/many").number("di_flags") & 8
    assert p.r.block(p.eattr("xattrs/large"))[24 + 15 - 4] > 5
    assert p.ino("jdata/file").number("di_flags") & 1
    assert p.ino("plain/file1").number("di_uid") == 1000


def test_quota_is_compared_on_demand(kernel_4096: Snapshot) -> None:
    """The kernel of the image had quotas off: the file is out of date, which is worth a note only."""
    report = check(MemoryDevice.from_snapshot(kernel_4096), quota=True)
    assert report.clean
    notes = {f.name: f for f in report.of("quota_usage")}
    assert notes["user 1000"].wanted == 3
    assert notes["user 1000"].found == 0


def test_statfs_changes_are_added(kernel_4096: Snapshot) -> None:
    p = Patient(MemoryDevice.from_snapshot(kernel_4096))
    master, change = p.system("statfs").addr, p.system("per_node/statfs_change0").addr
    p.ptr(master, 232 + 8, p.get_ptr(master, 232 + 8) + 7)
    p.raw(change, 232 + 8, struct.pack(">q", -7))
    report = check(p.dev)
    assert report.clean
    assert {f.code for f in report.findings} == {"statfs_pending"}


def test_findings_are_counted_beyond_the_cap(kernel_4096: Snapshot) -> None:
    p = Patient(MemoryDevice.from_snapshot(kernel_4096))
    for e in list(p.r.dirents(p.ino("big")))[:300]:
        p.put(e.block, "dirent", "de_type", 1, at=e.at)
    report = check(p.dev)
    assert report.totals["de_type"] == 300
    assert len(report.of("de_type")) == 64
    assert report.n_errors == 300


def test_progress_and_findings_are_told(kernel_4096: Snapshot) -> None:
    p = Patient(MemoryDevice.from_snapshot(kernel_4096))
    p.di("plain/file1", "di_nlink", 9)
    passes: list[str] = []
    told: list[str] = []
    report = check(p.dev, progress=lambda name, done, total: passes.append(name),
                   on_finding=lambda f: told.append(f.code))
    assert list(dict.fromkeys(passes)) == ["open", "bitmaps", "pass1", "pass2", "pass3", "pass4", "reconcile",
                                           "system"]
    assert told == ["nlink"] == [f.code for f in report.findings]
    assert report.as_dict()["errors"] == 1


def test_passes_out_of_order_are_refused(kernel_4096: Snapshot) -> None:
    ck = Checker(MemoryDevice.from_snapshot(kernel_4096))
    for step in (ck.list_dirs, ck.connect, ck.prepare, lambda: ck.walk1(0, 1), lambda: ck.lookup(1, b"x")):
        with pytest.raises(RuntimeError):
            step()


def test_every_kind_is_described() -> None:
    numbers = {k.value for k in Kind if k not in (Kind.K_NONE, Kind.K_COUNT)}
    assert set(KINDS) == numbers
    assert len(CODES) == len(KINDS)


@pytest.mark.interop
@pytest.mark.parametrize("bsize", [512, 1024, 2048, 4096])
@pytest.mark.parametrize("fmt", [1801, 1802])
@pytest.mark.parametrize("journals", [1, 3])
def test_debian_mkfs(bsize: int, fmt: int, journals: int, make_image: Callable[..., Path],
                     commands: Commands) -> None:
    image = make_image(64)
    commands.mkfs(image, "-b", str(bsize), "-o", f"format={fmt}", "-j", str(journals), "-J", "8", "-K",
                  debian=True)
    silent(image)


@pytest.mark.interop
def test_debian_mkfs_many_journals(make_image: Callable[..., Path], commands: Commands) -> None:
    """So many that jindex and per_node are hashed directories."""
    image = make_image(512)
    commands.mkfs(image, "-b", "1024", "-j", "24", "-J", "8", "-K", debian=True)
    silent(image)


@pytest.mark.interop
def test_debian_mkfs_huge_and_small_groups(make_image: Callable[..., Path], commands: Commands) -> None:
    image = make_image(1 << 20)
    commands.mkfs(image, "-K", debian=True)
    silent(image)
    image = make_image(4096, "small-groups")
    commands.mkfs(image, "-r", "32", "-K", "-J", "32", debian=True)
    silent(image)


@pytest.mark.kernel
@pytest.mark.parametrize("bsize", [1024, 2048])
def test_kernel_fills_other_block_sizes(bsize: int, make_image: Callable[..., Path], commands: Commands,
                                        kernel: Kernel) -> None:
    image = make_image(128)
    commands.mkfs(image, "-b", str(bsize), "-J", "8", "-j", "2", debian=True)
    kernel.run(image, (HERE / "populate.sh").read_text(), timeout_s=300)
    silent(image)
    commands.assert_clean(image)


@pytest.mark.kernel
def test_unlinked_inode_after_a_crash(make_image: Callable[..., Path], commands: Commands,
                                      kernel: Kernel) -> None:
    """A file that was removed while open stays as an unlinked inode: a note, its blocks are accounted for."""
    image = make_image(128)
    commands.mkfs(image, "-J", "8", debian=True)
    kernel.crash(image, "head -c 50000 /dev/zero >victim; exec 9<victim; rm victim; sync; echo late >late")
    dirty = check(FileDevice(image, readonly=True, direct=False))
    assert dirty.dirty_journals == [0]
    assert dirty.of("journal_dirty")
    kernel.run(image, "true")
    report = check(FileDevice(image, readonly=True, direct=False))
    assert report.clean
    assert [f.code for f in report.findings] == ["di_unlinked"]
    assert report.counts["unlinked"] == 1
