"""stress: many processes do anything to one tree; it must stay consistent, and nobody may hang or get EIO.

python -m tests.torture.stress [--seed N] [--procs N] [--ops N] [--bsize N] [--kill ROUNDS]

Half of the operations of each process go to a subtree of its own that has a model (private.py). With --kill the
daemon is killed in the middle of each round, and the image is mounted and checked again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import pickle
import random
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from interop.commands import is_mounted
from torture.guard import Guard
from torture.place import Place, arguments, crowd, leave_free, place
from torture.private import Private, check_tree
from torture.sys_calls import (
    EXCHANGE,
    KEEP_SIZE,
    NOREPLACE,
    PUNCH,
    ZERO,
    fallocate,
    link_open_file,
    renameat2,
    set_jdata,
)
from torture.walk import walk

# What a call may say when others move names away under it.
FINE = {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ELOOP, errno.EINVAL,
        errno.ENODATA, errno.EPERM, errno.EAGAIN, errno.ENXIO, errno.EBUSY, errno.EMLINK, errno.EDEADLK, errno.ESPIPE,
        errno.EOPNOTSUPP, errno.EACCES, errno.ENOTTY}
GONE = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO}
NAMES = 7
DEPTHS = (0, 0, 0, 1, 1, 2)
COUNTERS = ("flock", "fcntl")
FITRIM, ACL_NO_ID = 0xC0185879, 0xFFFFFFFF
PROGRESS_BYTES = 4096
TIGHT_BYTES = 1_000_000
POLL_S = 0.01


class Stress:
    """One process. Paths are drawn from few names, so that everybody meets everybody."""

    def __init__(self, top: Path, number: int, seed: int, *, private: bool) -> None:
        self.shared, self.top = os.fspath(top / "shared"), top
        self.rng = random.Random(f"{seed}/{number}")
        self.private = Private(top / f"private{number}", random.Random(f"{seed}/{number}/own")) if private else None
        self.fine = set(FINE)
        self.increments = dict.fromkeys(COUNTERS, 0)
        self.done: Counter[str] = Counter()
        self.operations = [getattr(self, n) for n in sorted(dir(self)) if n.startswith("op_")]

    def name(self) -> str:
        parts = [f"d{self.rng.randrange(3)}" for _ in range(self.rng.choice(DEPTHS))]
        return "/".join([self.shared, *parts, f"{self.rng.choice('dfff')}{self.rng.randrange(NAMES)}"])

    def folder(self) -> str:
        return "/".join([self.shared, *(f"d{self.rng.randrange(3)}" for _ in range(self.rng.choice(DEPTHS)))])

    @contextlib.contextmanager
    def opened(self, flags: int = os.O_RDWR) -> Iterator[int]:
        fd = os.open(self.name(), flags | os.O_NONBLOCK, 0o644)
        try:
            yield fd
        finally:
            os.close(fd)

    def step(self) -> None:
        if self.private is not None and self.rng.random() < 0.5:
            self.private.step()
            self.done["private"] += 1
            return
        operation = self.rng.choice(self.operations)
        try:
            operation()
            self.done[operation.__name__[3:]] += 1
        except OSError as e:
            if e.errno not in self.fine:
                e.add_note(f"in {operation.__name__}")
                raise
            self.done["refused"] += 1

    # -- operations on the shared tree

    def op_create(self) -> None:
        with self.opened(os.O_CREAT | os.O_RDWR) as fd:
            os.write(fd, self.rng.randbytes(self.rng.choice((0, 100, 5000))))

    def op_create_excl(self) -> None:
        with self.opened(os.O_CREAT | os.O_EXCL | os.O_RDWR):
            pass

    def op_open_trunc(self) -> None:
        with self.opened(os.O_TRUNC | os.O_RDWR) as fd:
            os.write(fd, b"x" * self.rng.randrange(9000))

    def op_mkdir(self) -> None:
        os.mkdir(f"{self.folder()}/d{self.rng.randrange(3)}")

    def op_rmdir(self) -> None:
        os.rmdir(self.folder() + f"/d{self.rng.randrange(NAMES)}")

    def op_link(self) -> None:
        os.link(self.name(), self.name(), follow_symlinks=False)

    def op_symlink(self) -> None:
        os.symlink(self.rng.choice(("f0", "../d1", "nowhere", "x" * 200)), self.name())

    def op_readlink(self) -> None:
        os.readlink(self.name())

    def op_mknod(self) -> None:
        os.mkfifo(self.name())

    def op_rename(self) -> None:
        os.rename(self.name(), self.name())

    def op_rename_dir(self) -> None:
        os.rename(self.folder(), f"{self.folder()}/d{self.rng.randrange(3)}")

    def op_noreplace(self) -> None:
        renameat2(self.name(), self.name(), NOREPLACE)

    def op_exchange(self) -> None:
        renameat2(self.name(), self.name(), EXCHANGE)

    def op_unlink(self) -> None:
        os.unlink(self.name())

    def op_truncate(self) -> None:
        os.truncate(self.name(), self.rng.randrange(100_000))

    def op_write(self) -> None:
        with self.opened(os.O_RDWR | self.rng.choice((0, 0, os.O_APPEND, os.O_DSYNC))) as fd:
            data = self.rng.randbytes(self.rng.choice((1, 600, 5000, 70_000)))
            if not self.rng.randrange(3):
                os.write(fd, data)
            else:
                os.pwrite(fd, data, self.rng.randrange(100_000))

    def op_read(self) -> None:
        with self.opened(os.O_RDONLY) as fd:
            os.pread(fd, self.rng.randrange(100_000), self.rng.randrange(50_000))

    def op_map(self) -> None:
        with self.opened() as fd:
            size = min(os.fstat(fd).st_size, 4096)
            if size:        # the first page only, and through the kernel: others may cut the file meanwhile
                with contextlib.suppress(ValueError), mmap.mmap(fd, size) as mapping:
                    os.pwrite(fd, b"m", 0)
                    mapping.flush()

    def op_xattrs(self) -> None:
        name, key = self.name(), f"user.k{self.rng.randrange(8)}"
        if self.rng.random() < 0.6:
            os.setxattr(name, key, self.rng.randbytes(self.rng.choice((0, 30, 2000))), follow_symlinks=False)
        else:
            os.removexattr(name, key, follow_symlinks=False)

    def op_getxattrs(self) -> None:
        name = self.name()
        for key in os.listxattr(name, follow_symlinks=False):
            os.getxattr(name, key, follow_symlinks=False)

    def op_chmod(self) -> None:
        os.chmod(self.name(), self.rng.choice((0o600, 0o644, 0o1777)))

    def op_chown(self) -> None:
        os.chown(self.name(), self.rng.randrange(5), self.rng.randrange(5), follow_symlinks=False)

    def op_utimes(self) -> None:
        os.utime(self.name(), ns=(self.rng.randrange(1 << 60), self.rng.randrange(1 << 60)), follow_symlinks=False)

    def op_fallocate(self) -> None:
        with self.opened() as fd:
            fallocate(fd, self.rng.choice((0, KEEP_SIZE, PUNCH | KEEP_SIZE, ZERO, ZERO | KEEP_SIZE)),
                      self.rng.randrange(60_000), self.rng.randrange(1, 60_000))

    def op_copy(self) -> None:
        with self.opened(os.O_RDONLY) as source, self.opened(os.O_WRONLY) as target:
            os.copy_file_range(source, target, self.rng.randrange(1, 50_000), 0, self.rng.randrange(10_000))

    def op_readdir(self) -> None:
        names = os.listdir(self.folder())
        assert len(names) == len(set(names)), f"twice in one readdir: {sorted(names)}"

    def op_stat(self) -> None:
        os.lstat(self.name())

    def op_statfs(self) -> None:
        st = os.statvfs(self.shared)
        assert 0 <= st.f_bfree < st.f_blocks

    def op_fsync(self) -> None:
        with self.opened(os.O_RDONLY) as fd:
            os.fsync(fd)

    def op_unlinked(self) -> None:
        """Open, unlink, go on using it."""
        name = f"{self.folder()}/u{self.rng.randrange(1 << 30)}"
        fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        try:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(name)
            data = self.rng.randbytes(self.rng.randrange(1, 20_000))
            data = data[:os.pwrite(fd, data, 3000)]         # a full disk makes it short
            if self.rng.random() < 0.3:
                os.fsync(fd)
            assert os.pread(fd, 30_000, 3000) == data, "what was written after the unlink"
            os.ftruncate(fd, 10)
            assert os.fstat(fd).st_size == 10
        finally:
            os.close(fd)

    def op_tmpfile(self) -> None:
        fd = os.open(self.folder(), os.O_TMPFILE | os.O_RDWR, 0o600)
        try:
            os.write(fd, b"t" * self.rng.randrange(5000))
            if self.rng.random() < 0.7:
                link_open_file(fd, self.name())
        finally:
            os.close(fd)

    def op_seek(self) -> None:
        with self.opened(os.O_RDONLY) as fd:
            at = os.lseek(fd, self.rng.randrange(5000), os.SEEK_DATA)
            assert os.lseek(fd, at, os.SEEK_HOLE) >= at

    def op_jdata(self) -> None:
        """chattr +j or -j: data changes between journal and place while others write it."""
        with self.opened(os.O_RDONLY) as fd:
            set_jdata(fd, self.rng.random() < 0.5)

    def op_acl(self) -> None:
        """An ACL with a named user, also as the default of a directory."""
        kind = self.rng.choice(("access", "access", "default"))
        user = (2, self.rng.randrange(8), self.rng.randrange(1, 100))
        entries = [(1, 6, ACL_NO_ID), user, (4, 5, ACL_NO_ID), (16, 7, ACL_NO_ID), (32, 4, ACL_NO_ID)]
        value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)
        os.setxattr(self.name(), f"system.posix_acl_{kind}", value)

    def op_trim(self) -> None:
        """What is free goes from the image, while others allocate it."""
        if not self.rng.randrange(10):
            fd = os.open(self.shared, os.O_RDONLY)
            try:
                fcntl.ioctl(fd, FITRIM, struct.pack("QQQ", 0, 1 << 62, self.rng.choice((0, 65536))))
            finally:
                os.close(fd)

    def op_try_locks(self) -> None:
        with self.opened() as fd:
            fcntl.flock(fd, self.rng.choice((fcntl.LOCK_SH, fcntl.LOCK_EX)) | fcntl.LOCK_NB)
            fcntl.lockf(fd, self.rng.choice((fcntl.LOCK_SH, fcntl.LOCK_EX)) | fcntl.LOCK_NB,
                        self.rng.randrange(1, 100), self.rng.randrange(1000))

    def op_count(self) -> None:
        """Under a lock that waits: read a number, write the next one. No increment may be lost."""
        kind = self.rng.choice(COUNTERS)
        lock = fcntl.flock if kind == "flock" else fcntl.lockf
        fd = os.open(self.top / f"counter.{kind}", os.O_RDWR)
        try:
            lock(fd, fcntl.LOCK_EX)
            value = int(os.pread(fd, 32, 0) or b"0")
            os.pwrite(fd, b"%d" % (value + 1), 0)
            lock(fd, fcntl.LOCK_UN)
        finally:
            os.close(fd)
        self.increments[kind] += 1


def work(where: Place, guard: Guard, number: int, seed: int, ops: int, *, tight: bool) -> None:
    """A process of the crowd; what it has to say to its parent goes to a file beside the image."""
    stress = Stress(where.root, number, seed, private=not tight)
    if tight:
        stress.fine |= {errno.ENOSPC}
    for _ in range(ops):
        stress.step()
        guard.tick()
    if stress.private is not None:
        check_tree(where.root / f"private{number}", stress.private.model)
    (where.top / f"said{number}").write_bytes(
        pickle.dumps((stress.private and stress.private.model, stress.increments, stress.done)))


def prepare(where: Place) -> None:
    (where.root / "shared").mkdir()
    for kind in COUNTERS:
        (where.root / f"counter.{kind}").write_bytes(b"0")


def stressed(where: Place, guard: Guard, seed: int, procs: int, ops: int, *, tight: bool) -> Counter[str]:
    """One run from an empty file system to both checkers; returns what was done how often."""
    where.mount()
    prepare(where)
    if tight:
        leave_free(where.root, TIGHT_BYTES)
    crowd(procs, lambda n: work(where, guard, n, seed, ops, tight=tight), limit_s=ops * procs)()
    said = [pickle.loads((where.top / f"said{n}").read_bytes()) for n in range(procs)]
    for kind in COUNTERS:
        wanted = sum(increments[kind] for _, increments, _ in said)
        got = int((where.root / f"counter.{kind}").read_bytes())
        assert got == wanted, f"{kind}: {got} counted, {wanted} increments"
    for again in range(2):
        counts = walk(where.root)
        for number, (model, _, _) in enumerate(said):
            if model is not None:
                check_tree(where.root / f"private{number}", model)
        where.umount()
        where.check()
        guard.tick()
        if not again:
            where.mount()
    return sum((done for _, _, done in said), Counter(counts))


def killed(where: Place, guard: Guard, seed: int, procs: int, rounds: int) -> None:
    """kill -9 in the middle, mount, walk, check; the tree lives through all rounds."""
    rng = random.Random(seed)
    progress = mmap.mmap(-1, PROGRESS_BYTES)        # operations done, by process

    def until_gone(number: int) -> None:
        stress = Stress(where.root, number, rng_seed, private=False)
        with contextlib.suppress(FileNotFoundError):
            while is_mounted(where.root):
                try:
                    stress.step()
                except OSError as e:
                    if e.errno in GONE:
                        return
                    if not is_mounted(where.root):
                        return
                    raise
                guard.tick()
                struct.pack_into("Q", progress, number * 8, struct.unpack_from("Q", progress, number * 8)[0] + 1)

    def operations() -> int:
        return sum(struct.unpack_from(f"{procs}Q", progress))

    for number in range(rounds):
        where.mount()
        if not (where.root / "shared").exists():
            prepare(where)
        for kind in COUNTERS:       # a crash may leave anything of what was not synced
            (where.root / f"counter.{kind}").write_bytes(b"0")
        rng_seed = rng.randrange(1 << 32)
        wanted = operations() + rng.randrange(20, 4000)
        join = crowd(procs, until_gone, limit_s=300)
        while operations() < wanted:
            time.sleep(POLL_S)
        where.kill()
        join()
        where.mount()
        counts = walk(where.root)
        where.umount()
        where.check()
        guard.tick()
        print(f"round {number}: killed after {operations()} operations, {counts}", flush=True)


def main() -> int:
    parser = arguments(__doc__ or "", procs=4, ops=2000, bsize=4096, mib=512, kill=0)
    parser.add_argument("--tight", action="store_true", help="a nearly full disk; nothing has a model then")
    args = parser.parse_args()
    print(f"stress: --seed {args.seed} --procs {args.procs} --ops {args.ops} --bsize {args.bsize} --kill {args.kill}"
          f" --options {args.options}{' --tight' if args.tight else ''}", flush=True)
    with place(args.options, args.stall) as (where, guard):
        where.mkfs(args.mib, args.bsize)
        if args.kill:
            killed(where, guard, args.seed, args.procs, args.kill)
        else:
            done = stressed(where, guard, args.seed, args.procs, args.ops, tight=args.tight)
            print(f"seed {args.seed}: {' '.join(f'{k}={v}' for k, v in sorted(done.items()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
