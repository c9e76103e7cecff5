"""One file system mounted by a stock kernel and by ours at once, in one cluster: cman and dlm_controld in the guest.

The steps build on each other: one guest and one room serve all of them, and the last one switches the guest off.
"""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterator

import pytest

from interop.dlm_guest.member import KernelMember
from interop.oracle.kernel import Kernel, one_guest
from lab import Lab, guide_topology
from lab.etc import cluster_conf

pytestmark = [pytest.mark.kernel, pytest.mark.interop, pytest.mark.mount, pytest.mark.slow, pytest.mark.timeout(900)]

KERNEL, ONE, TWO = "Mysql1", "web1", "web2"
DEVICE, TARGET = "/dev/sdb5", "/gfs2"
# The guest is emulated on a machine that is busy with other tests: it may be slow without being dead.
TOTEM = '  <totem token="10000" consensus="5000"/>\n</cluster>'
LIMIT_S = "240"
LINES = 25
FILES = 30
APPEND = """
import fcntl, os, sys
for i in range(1, int(sys.argv[2]) + 1):
    fd = os.open("/gfs2/log", os.O_WRONLY | os.O_APPEND)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.write(fd, b"%s %d\\n" % (sys.argv[1].encode(), i))
    os.close(fd)
"""


@dataclasses.dataclass
class Play:
    """Two nodes of the room with gfs2d, and the kernel's."""

    room: Lab
    kernel: KernelMember

    def sh(self, node: str, script: str) -> str:
        """On any of the three; all must succeed."""
        if node == KERNEL:
            return self.kernel.sh(script)
        return self.room.exec(node, ["timeout", LIMIT_S, "sh", "-c", f"set -e; {script}"], check=True).stdout

    def at_once(self, scripts: dict[str, str]) -> None:
        """One script on each of several nodes, the kernel's among them."""
        ours = {n: self.room.popen(n, ["timeout", LIMIT_S, "sh", "-c", f"set -e; {s}"], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                for n, s in scripts.items() if n != KERNEL}
        try:
            self.kernel.sh(scripts[KERNEL])
        finally:
            told = {n: p.communicate()[0] for n, p in ours.items()}
        assert {n: (p.returncode, told[n]) for n, p in ours.items()} == dict.fromkeys(ours, (0, ""))

    def mount(self, *nodes: str) -> None:
        for node in nodes:
            if node == KERNEL:
                self.kernel.mount()
            else:
                self.sh(node, f"mount -t gfs2 {DEVICE} {TARGET}")

    def umount(self, *nodes: str) -> None:
        for node in nodes:
            self.sh(node, f"umount {TARGET}")

    def check(self) -> None:
        """Both checkers have nothing to say, and the kernel of the guest has not complained.

        An inode that was deleted while several nodes knew it may have been left by each to the others: the next first
        mount takes it.
        """
        self.mount(ONE)
        self.umount(ONE)
        for fsck in ("fsck.gfs2", "/usr/sbin/fsck.gfs2"):
            self.sh(ONE, f"{fsck} -n {DEVICE}")
        assert self.kernel.trouble() == []


@pytest.fixture(scope="module")
def play(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    topology = guide_topology(3, size="256M")
    # Before the guest is up nobody is to fence the machine whose place it takes.
    conf = cluster_conf(topology).replace("<fence_daemon ", '<fence_daemon clean_start="1" ') \
        .replace("</cluster>", TOTEM)
    with one_guest(), Lab(dataclasses.replace(topology, cluster_conf=conf)) as room:
        starts = [room.popen(n, ["service", "cman", "start"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
                  for n in (ONE, TWO)]
        disk = room.place.path / "disks" / "sdb5.img"
        with KernelMember(room, KERNEL, disk, tmp_path_factory.mktemp("guest")) as node:
            assert [p.wait() for p in starts] == [0, 0]
            made = Play(room, node)
            made.sh(ONE, f"mkfs.gfs2 -O -q -p lock_dlm -t mycluster:fs -j 3 -J 8 {DEVICE}")
            yield made
            # Shown when something has failed.
            for name in (ONE, TWO):
                print(name, room.exec(name, ["sh", "-c", "tail -n 60 /var/log/messages; dlm_tool dump; "
                                                         "dlm_tool lockdump -w fs"]).stdout)


def test_ours_mounts_first(play: Play) -> None:
    """Contents, names, attributes, truncation: what one side makes the other finds, whoever was there first."""
    p = play
    p.mount(ONE, KERNEL, TWO)
    assert "jid=1: Done" in p.kernel.guest.console()
    p.sh(ONE, "cd /gfs2; echo by ours > a; mkdir d; ln -s a link; mkfifo fifo; seq 20000 > long")
    assert p.sh(KERNEL, "cd /gfs2; cat a link; wc -l < long; ls") == "by ours\nby ours\n20000\na\nd\nfifo\nlink\nlong\n"
    p.sh(KERNEL, "cd /gfs2; echo by the kernel > d/b; echo more >> a; mv long d/longer; chmod 600 d/b; rm fifo")
    assert p.sh(TWO, "cd /gfs2; cat a d/b; wc -l < d/longer; stat -c %a d/b; ls") == \
        "by ours\nmore\nby the kernel\n20000\n600\na\nd\nlink\n"
    p.sh(ONE, "cd /gfs2; truncate -s 9 d/longer; rm a; mv d/b d/c")
    assert p.sh(KERNEL, "cd /gfs2; wc -c < d/longer; ls . d; cat d/c") == \
        "9\n.:\nd\nlink\n\nd:\nc\nlonger\nby the kernel\n"
    digests = [p.sh(n, f"head -c {size} /dev/urandom > /gfs2/big{n}; md5sum < /gfs2/big{n}")
               for n, size in ((KERNEL, 1 << 20), (ONE, 3 << 20))]
    assert [p.sh(n, f"md5sum < /gfs2/big{of}") for n, of in ((ONE, KERNEL), (KERNEL, ONE))] == digests
    assert len({p.sh(n, "stat -f -c %b /gfs2") for n in (ONE, TWO, KERNEL)}) == 1


def test_contention(play: Play) -> None:
    """All three append to one file and make files in one directory: nothing is lost, torn or out of order.

    The appends are under flock(2), of all three: the kernel's gfs2_file_write_iter() looks for the end of the file in
    a glock that it gives up before it takes the one to write in, and leaves the rest to the application's own locks.
    Ours need none, and append to a second file without.
    """
    p = play
    nodes = (ONE, TWO, KERNEL)
    p.sh(ONE, "mkdir /gfs2/shared; : > /gfs2/log; : > /gfs2/free")
    scripts = {n: f"python3.11 -SEc '{APPEND}' {n} {LINES}" for n in nodes}
    for n in (ONE, TWO):
        scripts[n] += f"; for i in $(seq {LINES}); do echo {n} $i >> /gfs2/free; done"
    p.at_once(scripts)
    for name, writers in (("log", nodes), ("free", (ONE, TWO))):
        texts = {n: p.sh(n, f"cat /gfs2/{name}") for n in nodes}
        assert len(set(texts.values())) == 1
        lines = texts[ONE].splitlines()
        assert {n: [x for x in lines if x.startswith(n)] for n in writers} == \
            {n: [f"{n} {i}" for i in range(1, LINES + 1)] for n in writers}, texts[ONE]
        assert len(lines) == len(writers) * LINES
    p.at_once({n: f"cd /gfs2/shared; for i in $(seq {FILES}); do echo {n} > {n}.$i; done; "
                  f"for i in $(seq 2 2 {FILES}); do mv {n}.$i moved.{n}.$i; done" for n in nodes})
    want = sorted(f"{'' if i % 2 else 'moved.'}{n}.{i}" for n in nodes for i in range(1, FILES + 1))
    assert [sorted(p.sh(n, "ls /gfs2/shared").split()) for n in nodes] == [want] * 3
    assert p.sh(KERNEL, f"cat /gfs2/shared/*{ONE}.*") == f"{ONE}\n" * FILES
    p.sh(TWO, f"rm /gfs2/shared/*{KERNEL}.*")
    p.sh(KERNEL, f"rm /gfs2/shared/*{TWO}.*")
    assert p.sh(ONE, "ls /gfs2/shared | wc -l") == f"{FILES}\n"


def test_open_here_and_deleted_there(play: Play) -> None:
    """Whoever has it open reads on; the blocks come back when it is closed. rm does not wait for that."""
    p = play
    p.sh(ONE, "seq 30000 > /gfs2/ours; seq 30000 > /gfs2/theirs; sync /gfs2")
    blocks = int(p.sh(ONE, "stat -c %b /gfs2/ours"))
    held = p.kernel.begin("exec 3< /gfs2/ours; echo > /tmp/open; while [ -e /tmp/open ]; do sleep 0.1; done; wc -l <&3")
    p.kernel.wait_for("test -e /tmp/open")
    reader = p.room.popen(TWO, ["sh", "-c", "exec 3< /gfs2/theirs; echo; read line; wc -l <&3"], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert reader.stdout
    assert reader.stdout.readline() == "\n"
    p.sh(TWO, "rm /gfs2/ours")
    p.sh(KERNEL, "rm /gfs2/theirs")
    assert "ours" not in p.sh(KERNEL, "ls /gfs2")
    assert "theirs" not in p.sh(ONE, "ls /gfs2")
    p.sh(KERNEL, "rm /tmp/open")
    assert p.kernel.end(held) == (0, "30000\n")
    assert reader.communicate("go\n")[0] == "30000\n"
    assert blocks > 0


def test_unmounted_and_mounted_again(play: Play) -> None:
    """Ours go first; then the kernel mounts first, and goes first."""
    p = play
    p.umount(ONE, TWO)
    assert p.sh(KERNEL, "ls /gfs2/d; echo alone > /gfs2/alone; cat /gfs2/alone") == "c\nlonger\nalone\n"
    p.umount(KERNEL)
    p.check()
    p.mount(KERNEL, ONE)
    assert "first mount done, others may mount" in p.kernel.guest.console()
    assert p.sh(ONE, "cat /gfs2/alone; rm /gfs2/alone; echo again > /gfs2/again") == "alone\n"
    assert p.sh(KERNEL, "cat /gfs2/again") == "again\n"
    p.umount(KERNEL)
    assert p.sh(ONE, "cat /gfs2/again") == "again\n"
    p.umount(ONE)
    p.check()


def test_ours_crashes(play: Play) -> None:
    """The daemon is killed; the kernel, alone with its journal, replays it."""
    p = play
    p.mount(TWO, KERNEL)
    p.sh(TWO, "cd /gfs2; mkdir crash; for i in $(seq 40); do echo $i > crash/f$i; done; sync crash/f40")
    # A node's processes are in a pid namespace of their own.
    p.sh(TWO, "for p in /proc/[0-9]*; do case $(tr '\\0' ' ' < $p/cmdline) in 'gfs2d /'*) kill -9 ${p#/proc/};; esac; "
              "done")
    assert p.sh(KERNEL, "cd /gfs2/crash; cat f40; ls | wc -l; echo on > on; cat on") == "40\n40\non\n"
    assert "jid=0: Done" in p.kernel.guest.console()
    p.sh(TWO, "umount -l /gfs2 2>/dev/null || true")
    p.mount(TWO)
    assert p.sh(TWO, "cat /gfs2/crash/f40 /gfs2/crash/on") == "40\non\n"
    p.umount(TWO, KERNEL)
    p.check()


def test_the_kernel_crashes(play: Play) -> None:
    """The last step: the guest stops dead and is fenced; one of ours replays its journal, and both go on."""
    p = play
    p.mount(ONE, KERNEL, TWO)
    p.sh(KERNEL, "cd /gfs2; mkdir dead; for i in $(seq 40); do echo $i > dead/f$i; done; sync; echo last > dead/last")
    p.kernel.unplug()
    assert p.sh(ONE, "cd /gfs2/dead; cat f40; ls | grep -c f; echo on > on") == "40\n40\n"
    assert p.sh(TWO, "cat /gfs2/dead/on; rm -r /gfs2/dead; ls /gfs2") \
        .startswith("on\n")
    p.umount(ONE, TWO)
    p.check()
