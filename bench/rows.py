"""What is measured. A row is a function of a mounted peer that returns values by name.

Every function leaves the mount as it found it: mounted, and empty of its own files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench import _driver
from bench.peers import Peer

NS = 10 ** 9
MIB = 1 << 20


@dataclass(frozen=True)
class Sizes:
    """How much work a row does."""

    files: int          # for the metadata rows
    io_mib: int         # for sequential I/O
    seconds: float      # for rows that run for a time
    tree_files: int     # how much of the standard library is copied

    @classmethod
    def full(cls) -> Sizes:
        # passthrough_ll holds a descriptor for every file it knows, and 20,000 is a common limit.
        return cls(files=16_000, io_mib=512, seconds=3, tree_files=3000)

    @classmethod
    def smoke(cls) -> Sizes:
        return cls(files=300, io_mib=8, seconds=0.3, tree_files=100)


@dataclass(frozen=True)
class Value:
    """One measured figure; more is better."""

    value: float
    unit: str


Values = dict[str, Value]
Row = Callable[[Peer, Sizes], Values]


def fio(peer: Peer, sizes: Sizes, rw: str, *, bs: str, jobs: int = 1, timed: bool = False,
        **options: str | int) -> dict[str, float]:
    """Run one fio job on the file `data`; returns bandwidth (bytes/s) and operations per second."""
    argv = ["fio", "--output-format=json", "--name=row", f"--directory={peer.root}", "--filename=data",
            "--ioengine=psync", "--thread", "--group_reporting", "--fallocate=none", "--invalidate=0",
            f"--rw={rw}", f"--bs={bs}", f"--size={sizes.io_mib}m", f"--numjobs={jobs}", "--randseed=1"]
    argv += ["--time_based", f"--runtime={sizes.seconds * 1000:.0f}ms"] if timed else []
    argv += [f"--{key}={value}" for key, value in options.items()]
    argv += peer.fio_options
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    # fio prints notes before the JSON.
    if done.returncode or "{" not in done.stdout:
        said = done.stdout.partition("{")[0] + done.stderr
        raise RuntimeError(f"{' '.join(argv)}: exit status {done.returncode}\n{said}")
    job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
    side = job["read" if "read" in rw else "write"]
    # The bandwidth of a job with end_fsync leaves the fsync out: its whole run time counts.
    elapsed_s = job["job_runtime"] / 1000 / jobs
    return {"bytes": side["io_bytes"] / elapsed_s, "ops": side["total_ios"] / elapsed_s}


def data_file(peer: Peer) -> Path:
    return peer.root / "data"


def sequential(peer: Peer, sizes: Sizes) -> Values:
    """1 MiB writes with one fsync at the end; 1 MiB reads with cold caches."""
    written = fio(peer, sizes, "write", bs="1m", end_fsync=1)
    peer.remount()
    read = fio(peer, sizes, "read", bs="1m")
    return {"sequential write + fsync": Value(written["bytes"] / MIB, "MiB/s"),
            "sequential read, cold": Value(read["bytes"] / MIB, "MiB/s")}


def random_io(peer: Peer, sizes: Sizes) -> Values:
    """4 KiB at random places of a file that is there: reads (cold to begin with), writes, fsync'd writes."""
    out = {}
    if not data_file(peer).exists():
        fio(peer, sizes, "write", bs="1m", end_fsync=1)
    for jobs in (1, 8):
        peer.remount()
        found = fio(peer, sizes, "randread", bs="4k", jobs=jobs, timed=True, norandommap=1)
        out[f"random read 4K, {jobs}t"] = Value(found["ops"], "op/s")
    found = fio(peer, sizes, "randwrite", bs="4k", timed=True, norandommap=1, end_fsync=1)
    out["random write 4K + fsync"] = Value(found["ops"], "op/s")
    found = fio(peer, sizes, "randwrite", bs="4k", timed=True, norandommap=1, fsync=1)
    out["write 4K + fsync each"] = Value(found["ops"], "op/s")
    data_file(peer).unlink()
    return out


def cached(peer: Peer, sizes: Sizes) -> Values:
    """Reads of a file that the page cache holds: the server is out of the way wherever the kernel may cache."""
    fio(peer, sizes, "write", bs="1m", end_fsync=1)
    fio(peer, sizes, "read", bs="1m")
    small = fio(peer, sizes, "randread", bs="4k", timed=True, norandommap=1)
    large = fio(peer, sizes, "read", bs="1m", timed=True)
    data_file(peer).unlink()
    return {"cached read 4K": Value(small["ops"], "op/s"), "cached read 1M": Value(large["bytes"] / MIB, "MiB/s")}


def direct(peer: Peer, sizes: Sizes) -> Values:
    """O_DIRECT through the mount: every call is a request, nothing is cached."""
    if not data_file(peer).exists():
        fio(peer, sizes, "write", bs="1m", end_fsync=1)
    written = fio(peer, sizes, "write", bs="1m", end_fsync=1, direct=1)
    read = fio(peer, sizes, "read", bs="1m", direct=1)
    small = fio(peer, sizes, "randread", bs="4k", timed=True, norandommap=1, direct=1)
    one = fio(peer, sizes, "randwrite", bs="4k", timed=True, norandommap=1, direct=1)
    data_file(peer).unlink()
    return {"direct write 1M + fsync": Value(written["bytes"] / MIB, "MiB/s"),
            "direct read 1M": Value(read["bytes"] / MIB, "MiB/s"),
            "direct random read 4K": Value(small["ops"], "op/s"),
            "direct random write 4K": Value(one["ops"], "op/s")}


def per_second(count: int, ns: int) -> Value:
    return Value(count * NS / max(ns, 1), "op/s")


def metadata(peer: Peer, sizes: Sizes) -> Values:
    """One directory of many files: create, stat cold and warm, list, rename, unlink."""
    out, n, where = {}, sizes.files, peer.root / "meta"
    where.mkdir()

    def loop(op: str, prefix: bytes, **more: bytes | int) -> Value:
        fd = os.open(where, os.O_RDONLY)
        try:
            return per_second(n, _driver.loop(op, fd, prefix, n, **more))
        finally:
            os.close(fd)

    out["create"] = loop("create", b"file-")
    peer.remount()
    out["stat, cold"] = loop("stat", b"file-")
    out["stat, warm"] = loop("stat", b"file-")
    peer.remount()
    out["readdir, cold"] = per_second(*_driver.list_entries(str(where), 1))
    peer.remount()
    out["readdir + stat, cold"] = per_second(*_driver.list_entries(str(where), 1, attributes=True))
    out["rename"] = loop("rename", b"file-", other=b"renamed-file-")
    out["unlink"] = loop("unlink", b"renamed-file-")
    where.rmdir()
    return out


def small_files(peer: Peer, sizes: Sizes) -> Values:
    """Files of 4 KiB, each fsync'd: what a mail server does."""
    where, n = peer.root / "small", max(50, sizes.files // 40)
    where.mkdir()
    fd = os.open(where, os.O_RDONLY)
    try:
        value = per_second(n, _driver.loop("create_fsync", fd, b"mail-", n, size=4096))
    finally:
        os.close(fd)
    shutil.rmtree(where)
    return {"create 4K + fsync": value}


def threads(peer: Peer, sizes: Sizes) -> Values:
    """The metadata loops by several threads, each in a directory of its own, and all in one."""
    out = {}
    for count in (2, 8):
        n = sizes.files // count
        for shared in (False, True):
            folders = [peer.root / ("shared" if shared else f"own-{t}") for t in range(count)]
            for folder in folders:
                folder.mkdir(exist_ok=True)
            fds = [os.open(f, os.O_RDONLY) for f in folders]
            for op in ("create", "unlink"):
                start = time.monotonic_ns()
                with ThreadPoolExecutor(count) as pool:
                    jobs = [pool.submit(_driver.loop, op, fd, b"t%d-" % t, n) for t, fd in enumerate(fds)]
                    for job in jobs:
                        job.result()
                where = "one directory" if shared else "own directories"
                out[f"{op}, {count}t, {where}"] = per_second(n * count, time.monotonic_ns() - start)
            for fd, folder in zip(fds, folders, strict=True):
                os.close(fd)
                shutil.rmtree(folder, ignore_errors=True)
    return out


def source_tree(limit: int) -> list[Path]:
    """Files of Python's standard library: a real tree that every machine has."""
    top = Path(sysconfig.get_paths()["stdlib"])
    found = [p for p in sorted(top.rglob("*.py")) if "site-packages" not in p.parts]
    return found[:limit]


def tree_copy(peer: Peer, sizes: Sizes) -> Values:
    """A tree of small files: copied in and made durable, then read with cold caches, then removed."""
    top, where = Path(sysconfig.get_paths()["stdlib"]), peer.root / "tree"
    contents = [(where / p.relative_to(top), p.read_bytes()) for p in source_tree(sizes.tree_files)]
    start = time.monotonic_ns()
    for path, data in contents:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
        path.write_bytes(data)
    fd = os.open(where, os.O_RDONLY)
    subprocess.run(["sync", "-f", where], check=True)
    os.close(fd)
    out = {"tree copy + sync": per_second(len(contents), time.monotonic_ns() - start)}
    peer.remount()
    start = time.monotonic_ns()
    same = all(path.read_bytes() == data for path, data in contents)
    out["tree read, cold"] = per_second(len(contents), time.monotonic_ns() - start)
    if not same:
        raise RuntimeError(f"{peer.name}: the tree was read back differently")
    start = time.monotonic_ns()
    shutil.rmtree(where)
    out["tree remove"] = per_second(len(contents), time.monotonic_ns() - start)
    return out


def remounts(peer: Peer, sizes: Sizes) -> Values:
    """Unmount and mount of an idle file system."""
    count = 3
    start = time.monotonic_ns()
    for _ in range(count):
        peer.umount()
        peer.mount()
    return {"umount + mount": per_second(count, time.monotonic_ns() - start)}


ROWS: dict[str, Row] = {
    "sequential": sequential, "random": random_io, "direct": direct, "cached": cached,
    "metadata": metadata, "small": small_files, "threads": threads, "tree": tree_copy, "mount": remounts,
}
