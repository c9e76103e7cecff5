"""Instructions per request in the daemon's code, from reading the message to after the answer, counted by valgrind.

    python bench/instructions.py [--tree DIRECTORY] [--requests N]

The session is fed through a pair of sockets instead of /dev/fuse, over a GFS2 in memory; the count of N requests
less that of none is divided by N. System calls count as nothing. --tree takes the compiled package of another checkout:
run it with both to compare. The figures are exact to a few instructions, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
COLLECT = "__pyx_f_6gfs2py_4fuse_7_worker_serve"
IN_HEADER = struct.Struct("=IIQQIIIHH")
LOOKUP, GETATTR, UNLINK, OPEN, READ, WRITE, INIT, CREATE, RELEASE = 1, 3, 10, 14, 15, 16, 26, 35, 18
IMAGE_BYTES = 64 << 20
BLOCK = 4096
KINDS = ("getattr", "lookup", "read 4 KiB", "write 4 KiB", "create, release, unlink")


class Wire:
    """The kernel's end of a session."""

    def __init__(self, handle: object) -> None:
        from gfs2py.fuse._session import Session

        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.unique = 2
        self.session = Session(handle, theirs.detach(), clone=False, threads=1, max_write_bytes=65536)
        self.send(INIT, struct.pack("=IIIII44x", 7, 45, 131072, 0xFFFFFFFF, 0xFFFFFFFF), 0)
        self.session.start()
        self.sock.recv(65536)

    def send(self, opcode: int, body: bytes, node: int) -> None:
        self.unique += 2
        self.sock.send(IN_HEADER.pack(IN_HEADER.size + len(body), opcode, self.unique, node, 0, 0, 1, 0, 0) + body)

    def call(self, opcode: int, body: bytes, node: int) -> bytes:
        self.send(opcode, body, node)
        data = self.sock.recv(131072)
        error = -struct.unpack_from("=i", data, 4)[0]
        if error:
            raise OSError(error, os.strerror(error))
        return data[16:]

    def create(self, name: bytes) -> tuple[int, int]:
        """(node, handle)"""
        body = self.call(CREATE, struct.pack("=IIII", os.O_RDWR, 0o100644, 0, 0) + name + b"\0", 1)
        return struct.unpack_from("=Q", body)[0], struct.unpack_from("=Q", body, 128)[0]


def requests(wire: Wire, kind: str) -> Callable[[], object]:
    """One request of a kind, or the few that it names."""
    node, fh = wire.create(b"file")
    data = bytes(BLOCK)
    write = struct.pack("=QQIIQII", fh, 0, BLOCK, 0, 0, os.O_RDWR, 0) + data
    wire.call(WRITE, write, node)

    def create() -> None:
        one, handle = wire.create(b"another")
        wire.call(RELEASE, struct.pack("=QIIQ", handle, os.O_RDWR, 0, 0), one)
        wire.call(UNLINK, b"another\0", 1)

    return {"getattr": lambda: wire.call(GETATTR, bytes(16), node), "lookup": lambda: wire.call(LOOKUP, b"file\0", 1),
            "read 4 KiB": lambda: wire.call(READ, struct.pack("=QQIIQII", fh, 0, BLOCK, 0, 0, os.O_RDWR, 0), node),
            "write 4 KiB": lambda: wire.call(WRITE, write, node), "create, release, unlink": create}[kind]


def child(image: str, kind: str, n: int) -> None:
    from gfs2py.block._file import FileDevice
    from gfs2py.engine._mount import Gfs2

    device = FileDevice(image, direct=False)
    handle = Gfs2(device, commit_ms=0, background=False)
    wire = Wire(handle)
    one = requests(wire, kind)
    for _ in range(20):
        one()
    for _ in range(n):
        one()
    wire.sock.close()
    wire.session.close()
    handle.close()


def count(tree: Path, image: str, kind: str, n: int) -> int:
    """Instructions of n requests of a kind on a fresh image, setting up included."""
    subprocess.run([Path(sys.executable).parent / "mkfs.gfs2", "-O", "-q", "-p", "lock_nolock", "-J", "8", image],
                   check=True)
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--toggle-collect={COLLECT}",
         sys.executable, __file__, "--child", image, kind, str(n)],
        env={**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'tools'}"}, capture_output=True, text=True,
        check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None:
        raise SystemExit(done.stderr[-2000:])
    return int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description="instructions per request")
    parser.add_argument("--tree", type=Path, default=TOP)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--child", nargs=3)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], args.child[1], int(args.child[2]))
        return
    with tempfile.TemporaryDirectory() as top:
        image = f"{top}/image"
        with open(image, "wb") as f:
            f.truncate(IMAGE_BYTES)
        for kind in KINDS:
            base = count(args.tree, image, kind, 0)
            each = (count(args.tree, image, kind, args.requests) - base) / args.requests
            print(f"{kind:<26}{each:8.0f}", flush=True)


if __name__ == "__main__":
    main()
