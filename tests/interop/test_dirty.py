"""Journals left dirty: the kernel's by us, ours by the kernel, and our own after kill -9."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from interop import workload
from interop.commands import Commands, Mounts
from interop.conftest import TREE_SOURCE, make_tree_in
from interop.manifest import assert_same, parse
from interop.oracle.kernel import Kernel
from interop.oracle.walk import walk

pytestmark = [pytest.mark.mount, pytest.mark.interop, pytest.mark.slow]
MakeImage = Callable[..., Path]

WORKERS = 3
ROUNDS = 4
EXIT_TIMEOUT_S = 60.0
SMALL = ("--scale", "0.2", "--without", "many,flags")


@pytest.mark.kernel
def test_we_replay_the_kernels_journal(kernel: Kernel, commands: Commands, mounts: Mounts,
                                       make_image: MakeImage) -> None:
    image = make_image(1024)
    commands.mkfs(image, "-J", "32", debian=True)
    kernel.crash(image, f"mkdir a b; python3 -S /ctl/tree.py {' '.join(SMALL)} a; sync -f .\n"
                        f"python3 -S /ctl/tree.py --seed 2 {' '.join(SMALL)} b; rm -r a/wide a/xattrs\n"
                        "dd if=/dev/urandom of=b/synced bs=64k count=10 conv=fsync status=none; echo x >lost",
                 files={"tree.py": TREE_SOURCE})
    # The kernel's own replay, in an overlay: the image stays dirty for us.
    wanted = kernel.manifest(image)
    assert parse(wanted)["/b/synced"]["size"] == "655360"
    mounted = mounts.mount(image, "acl")
    ours = list(walk(os.fspath(mounted.path)))
    mounted.umount()
    assert_same(wanted, ours, ignore=("rdev",))
    commands.assert_clean(image)


@pytest.mark.kernel
def test_the_kernel_replays_our_journal(kernel: Kernel, commands: Commands, mounts: Mounts,
                                        make_image: MakeImage) -> None:
    image = make_image(1024)
    commands.mkfs(image, "-J", "32")
    mounted = mounts.mount(image, "acl,commit=600")
    (mounted.path / "a").mkdir()
    make_tree_in(mounted.path / "a", *SMALL)
    commands.check("sync", "-f", mounted.path)
    synced = list(walk(os.fspath(mounted.path / "a")))
    (mounted.path / "b").mkdir()
    make_tree_in(mounted.path / "b", "--seed", "2", *SMALL)
    fd = os.open(mounted.path / "b", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    (mounted.path / "lost").write_bytes(b"x")
    mounted.kill()

    copy = image.with_name("copy")
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    theirs = kernel.manifest(copy, replay="image")
    commands.assert_clean(copy)
    inside = [x.removeprefix("/a") for x in theirs if x.startswith("/a/")]
    assert_same([x for x in synced if not x.startswith("/ ")], inside, ignore=("rdev",))
    assert any(x.startswith("/b/owners/") for x in theirs), "what fsync of b made durable is lost"

    mounted = mounts.mount(image, "acl")
    ours = list(walk(os.fspath(mounted.path)))
    mounted.umount()
    assert_same(theirs, ours, ignore=("rdev",))
    commands.assert_clean(image)


def kill_during_work(mounts: Mounts, image: Path, logs: list[Path], rng: random.Random) -> None:
    """Mount, let the workers run for a moment, kill the daemon, see every worker end."""
    mounted = mounts.mount(image)
    for number in range(WORKERS):       # what earlier rounds kept is not claimed any more
        shutil.rmtree(mounted.path / f"w{number}", ignore_errors=True)
    said = logs[0].with_suffix(".stderr")
    with said.open("wb") as stderr:
        workers = [subprocess.Popen([sys.executable, "-S", workload.__file__, mounted.path / f"w{n}", log,
                                     str(rng.randrange(1 << 32))], stderr=stderr)
                   for n, log in enumerate(logs)]
    try:
        deadline = time.monotonic() + rng.uniform(0.5, 3)
        while time.monotonic() < deadline or not all(log.exists() and log.stat().st_size for log in logs):
            assert all(w.poll() is None for w in workers), f"a worker ended early: {said.read_text()}"
            assert time.monotonic() < deadline + EXIT_TIMEOUT_S, "a worker does not get anything done"
            time.sleep(0.02)
        mounted.kill()
        for worker in workers:
            assert worker.wait(EXIT_TIMEOUT_S) == 0, said.read_text()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def test_kill_9_loses_nothing_that_was_synced(commands: Commands, mounts: Mounts, make_image: MakeImage,
                                              rng: random.Random, tmp_path: Path) -> None:
    image = make_image(1024)
    commands.mkfs(image, "-J", "32")
    checked = 0
    for round_number in range(ROUNDS):
        logs = [tmp_path / f"log-{round_number}-{n}" for n in range(WORKERS)]
        kill_during_work(mounts, image, logs, rng)
        mounted = mounts.mount(image)
        for number, log in enumerate(logs):
            for path, digest in workload.survivors(log).items():
                data = (mounted.path / f"w{number}" / path).read_bytes()
                assert hashlib.sha256(data).hexdigest() == digest, f"round {round_number}: w{number}/{path}"
                checked += 1
        list(walk(os.fspath(mounted.path)))
        mounted.umount()
        commands.assert_clean(image)
    assert checked > ROUNDS * WORKERS


@pytest.mark.kernel
def test_kernel_takes_over_after_kill_9(kernel: Kernel, commands: Commands, mounts: Mounts,
                                        make_image: MakeImage, rng: random.Random, tmp_path: Path) -> None:
    image = make_image(1024)
    commands.mkfs(image, "-J", "32")
    logs = [tmp_path / f"log-{n}" for n in range(WORKERS)]
    kill_during_work(mounts, image, logs, rng)
    theirs = parse(kernel.manifest(image, replay="image"))
    for number, log in enumerate(logs):
        for path, digest in workload.survivors(log).items():
            assert theirs[f"/w{number}/{path}"]["sha256"] == digest
    # The kernel replays, but files that were unlinked and not yet freed when the daemon died are left to the next
    # mount that reclaims: ours does.
    mounts.mount(image).umount()
    commands.assert_clean(image)
