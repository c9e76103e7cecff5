"""races: processes that get in each other's way on purpose, each with a law that must hold.

python -m tests.torture.races [--seed N] [--ops N] [--procs N] [--bsize N] [--only NAME]

readdir   a name that stays is in every scan exactly once, whatever comes and goes around it
renames   among few names, many renamers: every name leads to one of the files, no file is lost
appends   O_APPEND by several processes, some with O_DIRECT: every record is there once and whole
mapped    one writes through a shared mapping, others read: never a torn or older record
stripes   neighbours in one block write, map and punch: nobody's bytes are touched by another
beside    a neighbour's page is written back while a piece of it is punched, zeroed or copied over: that stays so
full      the disk is filled by several, emptied, filled again: every block comes back
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import shutil
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from torture.beside import beside
from torture.guard import Guard
from torture.place import Place, arguments, crowd, place
from torture.sys_calls import EXCHANGE, KEEP_SIZE, NOREPLACE, PUNCH, fallocate, renameat2
from torture.walk import walk

Race = Callable[[Place, Guard, int, int, int, int], str]
LIMIT_S = 600.0
STABLE = 400
RECORD = struct.Struct(">HI90sI")           # process, sequence, filler, sequence again
PAGE = mmap.PAGESIZE


# -- readdir

def _churn(folder: Path, rng: random.Random, guard: Guard, ops: int) -> None:
    """Names come and go; enough of them that hash tables double and leaves split while others scan."""
    mine: list[str] = []
    for _ in range(ops):
        grow = len(mine) < 20 or (rng.random() < 0.55 and len(mine) < 1500)
        if grow:
            mine.append(f"{folder}/{os.getpid()}-{rng.randrange(1 << 40):x}" + "n" * rng.randrange(60))
            os.close(os.open(mine[-1], os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        else:
            name = mine.pop(rng.randrange(len(mine)))
            if rng.random() < 0.3:
                mine.append(f"{name[:180]}.{rng.randrange(1 << 20):x}")
                os.rename(name, mine[-1])
            else:
                os.unlink(name)
        guard.tick()


def _scan(folder: Path, stable: set[str]) -> None:
    with os.scandir(folder) as entries:
        everything = [e.name for e in entries]
    names = [name for name in everything if name.startswith("stable")]
    assert len(names) == len(set(names)), f"twice: {sorted(n for n in set(names) if names.count(n) > 1)[:5]}"
    missing = sorted(stable - set(names))
    assert not missing, f"missing from a scan of {len(everything)} names: {len(missing)} that stay: {missing[:5]}"
    assert set(names) == stable


def readdir(where: Place, guard: Guard, seed: int, ops: int, procs: int, bsize: int) -> str:
    folder = where.root / "readdir"
    folder.mkdir()
    stable = {f"stable{n}-{'s' * (n % 50)}" for n in range(STABLE)}
    for name in stable:
        (folder / name).touch()
    finished = where.top / "finished"
    finished.mkdir()

    def process(number: int) -> None:
        if number < procs:
            _churn(folder, random.Random(f"{seed}/readdir/{number}"), guard, ops)
            (finished / str(number)).touch()
            return
        scans = 0
        while not scans or len(os.listdir(finished)) < procs:
            _scan(folder, stable)
            scans += 1
            guard.tick()
        (where.top / f"scans{number}").write_text(str(scans))

    crowd(procs + 2, process, LIMIT_S)()
    _scan(folder, stable)
    left = sum(1 for _ in os.scandir(folder))
    scans = sum(int((where.top / f"scans{n}").read_text()) for n in (procs, procs + 1))
    shutil.rmtree(finished)
    return f"{procs * ops} changes, {scans} scans, {left} names left"


# -- renames

def renames(where: Place, guard: Guard, seed: int, ops: int, procs: int, bsize: int) -> str:
    """Files are only ever moved onto free names or exchanged, so none may disappear."""
    top = where.root / "renames"
    folders = [top / "a", top / "b", top / "b" / "c"]
    for folder in (top, *folders):
        folder.mkdir()
    slots = [f"{folder}/n{n}" for folder in folders for n in range(4)]
    files = {}
    for slot in slots[::2]:
        Path(slot).write_text(slot)
        files[os.stat(slot).st_ino] = slot

    def process(number: int) -> None:
        rng = random.Random(f"{seed}/renames/{number}")
        for _ in range(ops):
            old, new = rng.sample(slots, 2)
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                kind = rng.random()
                if kind < 0.45:
                    renameat2(old, new, NOREPLACE)
                elif kind < 0.8:
                    renameat2(old, new, EXCHANGE)
                elif kind < 0.9:
                    st = os.stat(old)
                    assert st.st_ino in files, f"{old} leads to inode {st.st_ino}, which is none of ours"
                else:
                    text = Path(old).read_text()
                    assert text in files.values(), f"{old} reads {text!r}"
            guard.tick()

    crowd(procs, process, LIMIT_S)()
    found = {}
    for slot in slots:
        with contextlib.suppress(FileNotFoundError):
            found[os.stat(slot).st_ino] = Path(slot).read_text()
    assert found == files, f"lost {set(files) - set(found)}"
    return f"{procs * ops} operations"


# -- appends

def appends(where: Place, guard: Guard, seed: int, ops: int, procs: int, bsize: int) -> str:
    path = where.root / "appends"
    path.touch()

    def process(number: int) -> None:
        rng = random.Random(f"{seed}/appends/{number}")
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        flagged = os.open(path, os.O_WRONLY)
        n = 0
        while n < ops:
            count = min(ops - n, rng.choice((1, 1, 1, 50)))
            record = b"".join(RECORD.pack(number, n + i, bytes([number + 1]) * 90, n + i) for i in range(count))
            if rng.random() < 0.2:
                assert os.pwritev(flagged, [record[:7], record[7:]], 0, os.RWF_APPEND) == len(record)
            else:
                assert os.write(fd, record) == len(record)
            n += count
            if rng.random() < 0.01:
                os.fsync(fd)
            if rng.random() < 0.05:
                os.close(fd)
                fd = os.open(path, os.O_WRONLY | os.O_APPEND | rng.choice((0, os.O_DIRECT)))
            guard.tick()
        os.close(fd)
        os.close(flagged)

    crowd(procs, process, LIMIT_S)()
    data = path.read_bytes()
    assert len(data) == procs * ops * RECORD.size, f"{len(data)} bytes, wanted {procs * ops * RECORD.size}"
    following = [0] * procs
    for at in range(0, len(data), RECORD.size):
        number, n, filler, again = RECORD.unpack_from(data, at)
        assert number < procs, f"a torn record at {at}"
        assert (n, again, filler) == (following[number], n, bytes([number + 1]) * 90), f"a bad record at {at}"
        following[number] += 1
    return f"{procs * ops} records"


# -- mapped

def mapped(where: Place, guard: Guard, seed: int, ops: int, procs: int, bsize: int) -> str:
    """A counter at the start of each page only rises; readers by mapping and by read(2) never see it fall."""
    path = where.root / "mapped"
    pages = 16
    path.write_bytes(bytes(pages * PAGE))
    done = where.top / "mapped-done"

    def writer(fd: int, rng: random.Random) -> None:
        with mmap.mmap(fd, pages * PAGE) as mapping:
            view = memoryview(mapping).cast("Q")
            for n in range(1, ops + 1):
                view[rng.randrange(pages) * PAGE // 8] = n
                if not rng.randrange(50):
                    mapping.flush()
                if not rng.randrange(200):
                    os.fsync(fd)
                guard.tick()
            view.release()
        done.touch()

    def reader(fd: int, rng: random.Random, drop: bool) -> None:
        last = [0] * pages
        with mmap.mmap(fd, pages * PAGE, prot=mmap.PROT_READ) as mapping:
            while not done.exists():
                page = rng.randrange(pages)
                if rng.random() < 0.5:
                    seen = struct.unpack_from("=Q", mapping, page * PAGE)[0]
                else:
                    seen = struct.unpack("=Q", os.pread(fd, 8, page * PAGE))[0]
                assert last[page] <= seen <= ops, f"page {page}: {seen} after {last[page]}"
                last[page] = seen
                if drop and not rng.randrange(100):
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                guard.tick()

    def process(number: int) -> None:
        rng = random.Random(f"{seed}/mapped/{number}")
        fd = os.open(path, os.O_RDWR)
        if number == 0:
            writer(fd, rng)
        else:
            reader(fd, rng, number % 2 == 0)
        os.close(fd)

    crowd(procs, process, LIMIT_S)()
    done.unlink()
    return f"{ops} stores"


# -- stripes

def _stale(got: bytes, past: list[tuple[str, bytes]]) -> str:
    """What was found, in words: where it is not the last content, and how old it is there."""
    wanted = past[-1][1]
    wrong = [n for n, (a, b) in enumerate(zip(got, wanted, strict=True)) if a != b]
    first, last = wrong[0], wrong[-1] + 1
    age = next((f"{back} changes old" for back, (_, was) in enumerate(reversed(past)) if back
                and was[first:last] == got[first:last]), "never there")
    return (f"bytes {first} to {last} of {len(got)} are not what it wrote, but {age}"
            f"{', zeros' if not any(got[first:last]) else ''}; last {', '.join(how for how, _ in past[-4:])}")


def stripes(where: Place, guard: Guard, seed: int, ops: int, procs: int, bsize: int) -> str:
    """Neighbours in one block: each process owns every n-th piece of a file and finds only its own bytes there."""
    path = where.root / "stripes"
    piece, rows = 700, 60
    path.write_bytes(bytes(piece * rows * procs))

    def process(number: int) -> None:
        rng = random.Random(f"{seed}/stripes/{number}")
        mine = {row: bytes(piece) for row in range(rows)}
        # For the words of a failure: how each piece came to what it is, and what it was before.
        past: dict[int, list[tuple[str, bytes]]] = {row: [("made", bytes(piece))] for row in range(rows)}
        fd = os.open(path, os.O_RDWR)
        with mmap.mmap(fd, piece * rows * procs) as mapping:
            for _ in range(ops):
                row = rng.randrange(rows)
                at = (row * procs + number) * piece
                kind = rng.random()
                if kind < 0.35:
                    mine[row] = rng.randbytes(piece)
                    assert os.pwrite(fd, mine[row], at) == piece
                    past[row].append(("written", mine[row]))
                elif kind < 0.5:
                    mine[row] = rng.randbytes(piece)
                    mapping[at:at + piece] = mine[row]
                    past[row].append(("stored", mine[row]))
                elif kind < 0.6:
                    fallocate(fd, PUNCH | KEEP_SIZE, at, piece)
                    mine[row] = bytes(piece)
                    past[row].append(("punched", mine[row]))
                elif kind < 0.62:
                    os.fsync(fd)
                elif kind < 0.65:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                else:
                    got = os.pread(fd, piece, at) if kind < 0.85 else mapping[at:at + piece]
                    assert got == mine[row], (f"process {number}, piece {row} at {at}, "
                                              f"{'read' if kind < 0.85 else 'seen through the map'}: "
                                              f"{_stale(got, past[row])}")
                guard.tick()
        os.close(fd)
        (where.top / f"stripes{number}").write_bytes(b"".join(mine.values()))

    crowd(procs, process, LIMIT_S)()
    data = path.read_bytes()
    for number in range(procs):
        wanted = (where.top / f"stripes{number}").read_bytes()
        got = b"".join(data[at:at + piece] for at in range(number * piece, len(data), piece * procs))
        assert got == wanted, f"stripes of process {number} differ"
    return f"{procs * ops} operations"


# -- full

def _fill(folder: Path, rng: random.Random, guard: Guard) -> None:
    """Files of all sizes and kinds until there is no space; then small ones until there is none for them."""
    folder.mkdir(exist_ok=True)
    refused = 0
    number = 0
    while refused < 5:
        number += 1
        size = rng.choice((0, 100, 3000, 20_000, 300_000, 2_000_000)) if refused < 3 else rng.choice((0, 100))
        name = f"{folder}/{number}"
        try:
            kind = rng.random()
            if kind < 0.1:
                os.mkdir(name)
                continue
            fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR)
            try:
                if kind < 0.2 and size:
                    os.posix_fallocate(fd, 0, size)
                elif size:
                    data = rng.randbytes(size)
                    written = 0
                    while written < size:
                        written += os.write(fd, data[written:])
                if rng.random() < 0.3:
                    os.setxattr(fd, "user.x", bytes(rng.randrange(3000)))
                if rng.random() < 0.2:
                    os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as e:
            if e.errno != errno.ENOSPC:
                raise
            refused += 1
        guard.tick()


def free_blocks(root: Path, wanted: int, limit_s: float = 30.0) -> int:
    """Free blocks at rest: what was unlinked is freed behind the call's back, so look until it is as wanted."""
    deadline = time.monotonic() + limit_s
    while True:
        st = os.statvfs(root)
        if st.f_bfree == wanted or time.monotonic() > deadline:
            return st.f_bfree
        time.sleep(0.02)


def full(where: Place, guard: Guard, seed: int, ops: int, procs: int, bsize: int) -> str:
    top = where.root / "full"
    top.mkdir()
    for n in range(procs):          # a directory stays as large as it was once: that is not what is measured
        (top / str(n)).mkdir()
    for n in range(procs):
        (top / str(n)).rmdir()
    where.umount()                  # sees every deletion through
    where.mount()
    before = os.statvfs(where.root).f_bfree
    made = 0
    for round_number in range(3):
        crowd(procs, lambda n, r=round_number: _fill(                       # type: ignore[misc]
            top / str(n), random.Random(f"{seed}/full/{r}/{n}"), guard), LIMIT_S)()
        made += sum(len(files) for _, _, files in os.walk(top))
        assert os.statvfs(where.root).f_bfree < before // 20, "not full after all"
        if round_number == 1:       # no space is no obstacle to removing, nor to a remount
            where.umount()
            where.check()
            where.mount()
        for n in range(procs):
            shutil.rmtree(top / str(n))
            guard.tick()
        after = free_blocks(where.root, before)
        assert after == before, f"round {round_number}: {before} free blocks before, {after} after"
    return f"{made} files in 3 rounds"


RACES: dict[str, Race] = {"readdir": readdir, "renames": renames, "appends": appends, "mapped": mapped,
                          "stripes": stripes, "beside": beside, "full": full}


def race_main(doc: str, races: dict[str, Race]) -> int:
    """The program of a module with such functions: each on a mount of its own, checked afterwards."""
    parser = arguments(doc, procs=4, ops=2000, bsize=4096, mib=128)
    parser.add_argument("--only", choices=list(races))
    args = parser.parse_args()
    print(f"{doc.partition(':')[0]}: --seed {args.seed} --procs {args.procs} --ops {args.ops} --bsize {args.bsize}"
          f" --mib {args.mib} --options {args.options}", flush=True)
    with place(args.options, args.stall) as (where, guard):
        where.mkfs(args.mib, args.bsize)
        for name, race in races.items():
            if args.only in (None, name):
                where.mount()
                said = race(where, guard, args.seed, args.ops, args.procs, args.bsize)
                walk(where.root)
                where.umount()
                where.check()
                guard.tick()
                print(f"{name}: {said}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(race_main(__doc__ or "", RACES))
