"""Malformed requests, fed to a session through a socket that keeps messages apart as /dev/fuse does."""

from __future__ import annotations

import errno
import random
import socket
import struct
from collections.abc import Iterator

import pytest

from gfs2py.fuse._nullfs import NullFileSystem
from gfs2py.fuse._ops import FileSystemHandle
from gfs2py.fuse._session import Session

IN_HEADER = struct.Struct("=IIQQIIIHH")
OUT_HEADER = struct.Struct("=IiQ")
LOOKUP, FORGET, GETATTR, SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK = 1, 2, 3, 4, 6, 8, 9, 10
RENAME, LINK = 12, 13
OPEN, READ, WRITE, SETXATTR, GETXATTR, LISTXATTR, INIT, READDIR, CREATE, INTERRUPT = \
    14, 15, 16, 21, 22, 23, 26, 28, 35, 36
IOCTL, BATCH_FORGET, FALLOCATE, READDIRPLUS, RENAME2, LSEEK, STATX = 39, 42, 43, 44, 45, 46, 52
INIT_EXT, SETXATTR_EXT = 1 << 30, 1 << 29
ANSWER_TIMEOUT_S = 60.0
KNOWN = [*range(1, 54), 63, 64, 4096, 0xFFFFFFFF]


class Wire:
    """The kernel's end of a session."""

    def __init__(self, minor: int = 45, init: bytes | None = None, handle: FileSystemHandle | None = None) -> None:
        self.handle = NullFileSystem() if handle is None else handle
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(ANSWER_TIMEOUT_S)
        self.unique = 2
        self.session = Session(self.handle, theirs.detach(), clone=False, threads=2, max_write_bytes=65536)
        body = struct.pack("=IIIII44x", 7, minor, 131072, 0xFFFFFFFF, 0xFFFFFFFF) if init is None else init
        self.send(INIT, body)

    def send(self, opcode: int, body: bytes = b"", *, nodeid: int = 1, length: int | None = None,
             extension_units: int = 0) -> int:
        self.unique += 2
        header = IN_HEADER.pack(IN_HEADER.size + len(body) if length is None else length, opcode, self.unique,
                                nodeid, 0, 0, 1, extension_units, 0)
        self.sock.send(header + body)
        return self.unique

    def answer(self) -> tuple[int, int, bytes]:
        """(unique, positive errno or 0, body) of the next answer."""
        data = self.sock.recv(1 << 20)
        length, error, unique = OUT_HEADER.unpack_from(data)
        assert length == len(data)
        return unique, -error, data[OUT_HEADER.size:]

    def call(self, opcode: int, body: bytes = b"", **more: int) -> tuple[int, bytes]:
        unique = self.send(opcode, body, **more)  # type: ignore[arg-type]
        answered, error, data = self.answer()
        assert answered == unique
        return error, data

    def alive(self) -> bool:
        """A good request still gets a good answer."""
        error, data = self.call(GETATTR, bytes(16))
        return error == 0 and len(data) == 104

    def close(self) -> None:
        self.sock.close()
        self.session.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    w = Wire()
    w.session.start()
    w.answer()
    yield w
    w.close()


def test_init_is_answered_with_what_was_offered() -> None:
    w = Wire()
    w.session.start()
    _, error, body = w.answer()
    major, minor, _, flags = struct.unpack_from("=IIII", body)
    assert (error, major, minor, len(body)) == (0, 7, 45, 64)
    assert flags & INIT_EXT
    assert w.session.protocol()["minor"] == 45
    w.close()


def test_init_with_few_flags_takes_no_more() -> None:
    """An older kernel: no INIT_EXT, so the second word of flags is not believed."""
    offered = 1 << 5 | 1 << 22
    w = Wire(init=struct.pack("=IIIII", 7, 31, 4096, offered, 0xFFFFFFFF))
    w.session.start()
    _, error, body = w.answer()
    assert error == 0
    assert struct.unpack_from("=I", body, 12)[0] == offered
    assert struct.unpack_from("=I", body, 32)[0] == 0
    assert w.session.protocol()["minor"] == 31
    w.close()


@pytest.mark.parametrize(
    "init", [b"", bytes(4), struct.pack("=IIII", 7, 12, 0, 0), struct.pack("=IIII", 6, 1, 0, 0)],
    ids=["empty", "short", "old minor", "old major"])
def test_init_that_cannot_be_is_refused(init: bytes) -> None:
    w = Wire(init=init)
    with pytest.raises(OSError) as e:
        w.session.start()
    assert e.value.errno == errno.EPROTO
    assert w.answer()[1] == errno.EPROTO
    w.close()


def test_newer_major_is_asked_to_come_again() -> None:
    w = Wire(init=struct.pack("=IIIII44x", 8, 0, 0, 0, 0))
    w.send(INIT, struct.pack("=IIIII44x", 7, 45, 4096, 0, 0))
    w.session.start()
    assert struct.unpack_from("=I", w.answer()[2])[0] == 7
    assert w.answer()[1] == 0
    w.close()


BAD = {
    "lookup without name": (LOOKUP, b"", errno.EINVAL),
    "lookup name without end": (LOOKUP, b"abc", errno.EINVAL),
    "lookup empty name": (LOOKUP, b"\0\0", errno.EINVAL),
    "lookup slash": (LOOKUP, b"a/b\0", errno.EINVAL),
    "lookup dot": (LOOKUP, b".\0", errno.EINVAL),
    "lookup dotdot": (LOOKUP, b"..\0", errno.EINVAL),
    "lookup long": (LOOKUP, b"n" * 256 + b"\0", errno.ENAMETOOLONG),
    "getattr short": (GETATTR, bytes(15), errno.EINVAL),
    "setattr short": (SETATTR, bytes(87), errno.EINVAL),
    "symlink without target": (SYMLINK, b"name\0", errno.EINVAL),
    "symlink empty target": (SYMLINK, b"name\0\0", errno.EINVAL),
    "symlink long target": (SYMLINK, b"name\0" + b"t" * 4096 + b"\0", errno.ENAMETOOLONG),
    "mknod without name": (MKNOD, bytes(16), errno.EINVAL),
    "mkdir name without end": (MKDIR, bytes(8) + b"abc", errno.EINVAL),
    "unlink slash": (UNLINK, b"/\0", errno.EINVAL),
    "rename one name": (RENAME, struct.pack("=Q", 1) + b"abc\0", errno.EINVAL),
    "rename2 unknown flag": (RENAME2, struct.pack("=QII", 1, 8, 0) + b"a\0b\0", errno.EINVAL),
    "link slash": (LINK, struct.pack("=Q", 1) + b"a/\0", errno.EINVAL),
    "create short": (CREATE, bytes(17), errno.EINVAL),
    "open short": (OPEN, bytes(7), errno.EINVAL),
    "read too much": (READ, struct.pack("=QQIIQII", 1, 0, 1 << 30, 0, 0, 0, 0), errno.EINVAL),
    "write less than said": (WRITE, struct.pack("=QQIIQII", 1, 0, 10, 0, 0, 0, 0) + b"123", errno.EINVAL),
    "write huge size": (WRITE, struct.pack("=QQIIQII", 1, 0, 0xFFFFFFFF, 0, 0, 0, 0) + b"1", errno.EINVAL),
    "readdir too much": (READDIR, struct.pack("=QQIIQII", 1, 0, 1 << 30, 0, 0, 0, 0), errno.EINVAL),
    "setxattr value too short": (SETXATTR, struct.pack("=IIII", 9, 0, 0, 0) + b"user.a\0v", errno.EINVAL),
    "setxattr without name": (SETXATTR, struct.pack("=IIII", 0, 0, 0, 0), errno.EINVAL),
    "getxattr too much": (GETXATTR, struct.pack("=II", 1 << 31, 0) + b"user.a\0", errno.EINVAL),
    "listxattr too much": (LISTXATTR, struct.pack("=II", 1 << 31, 0), errno.EINVAL),
    "ioctl input missing": (IOCTL, struct.pack("=QIIQII", 1, 0, 5, 0, 100, 0), errno.EINVAL),
    "ioctl huge output": (IOCTL, struct.pack("=QIIQII", 1, 0, 5, 0, 0, 0xFFFFFFFF), errno.EINVAL),
    "fallocate overflow": (FALLOCATE, struct.pack("=QQQII", 1, 1 << 62, 1 << 63, 0, 0), errno.EINVAL),
    "fallocate nothing": (FALLOCATE, struct.pack("=QQQII", 1, 0, 0, 0, 0), errno.EINVAL),
    "unknown opcode": (61, bytes(100), errno.ENOSYS),
    "opcode beyond the table": (9999, bytes(100), errno.ENOSYS),
    "access is the kernel's business": (34, bytes(8), errno.ENOSYS),
    "unknown inode": (GETATTR, None, errno.ESTALE),
}


@pytest.mark.parametrize(("opcode", "body", "error"), BAD.values(), ids=BAD)
def test_malformed_request_is_refused(wire: Wire, opcode: int, body: bytes | None, error: int) -> None:
    if body is None:
        assert wire.call(opcode, bytes(16), nodeid=1 << 60)[0] == error
    else:
        assert wire.call(opcode, body)[0] == error
    assert wire.alive()


@pytest.mark.parametrize("length", [0, 39, 41, 1 << 31, 0xFFFFFFFF])
def test_header_that_lies_about_its_length(wire: Wire, length: int) -> None:
    assert wire.call(GETATTR, bytes(16), length=length)[0] == errno.EIO
    assert wire.alive()


@pytest.mark.parametrize("raw", [b"", b"x", b"y" * 15, b"z" * 39])
def test_message_shorter_than_a_header(wire: Wire, raw: bytes) -> None:
    """From 16 bytes on there is a request number to answer; nothing breaks either way."""
    if raw:
        wire.sock.send(raw)
        if len(raw) >= 16:
            assert wire.answer()[1] == errno.EIO
    assert wire.alive()


@pytest.mark.parametrize("units", [1, 3, 0xFFFF])
def test_extensions_that_cannot_be(wire: Wire, units: int) -> None:
    assert wire.call(MKDIR, struct.pack("=II", 0o755, 0) + b"name\0\0\0\0" + b"\xff" * 8,
                     extension_units=units)[0] == errno.EINVAL
    assert wire.alive()


def test_supplementary_group_extension_is_read(wire: Wire) -> None:
    ext = struct.pack("=IIII", 16, 32, 1, 77)
    assert wire.call(MKDIR, struct.pack("=II", 0o755, 0) + b"dir\0\0\0\0\0" + ext, extension_units=2)[0] == 0


def test_batch_forget_with_a_wild_count(wire: Wire) -> None:
    wire.send(BATCH_FORGET, struct.pack("=II", 0xFFFFFFFF, 0) + bytes(16))
    wire.send(FORGET, bytes(3))
    wire.send(INTERRUPT, bytes(2))
    assert wire.alive()
    assert wire.session.statistics()["malformed"] >= 1


def test_interrupt_of_an_unknown_request_is_asked_to_come_again(wire: Wire) -> None:
    unique = wire.send(INTERRUPT, struct.pack("=Q", 123456))
    answers = [wire.answer() for _ in range(wire.session.statistics()["workers"])]
    assert all(a == (unique, errno.EAGAIN, b"") for a in answers)
    assert wire.alive()


def test_random_messages_never_break_the_session(wire: Wire, rng: random.Random) -> None:
    """Opcodes with random bodies, true and false lengths: an answer or none, and the session lives."""
    for _ in range(3000):
        opcode = rng.choice(KNOWN)
        if opcode in (INIT, 38, INTERRUPT):
            continue                                # INIT once; DESTROY waits; INTERRUPT answers per clone
        body = rng.randbytes(rng.choice([0, 1, 7, 8, 16, 24, 40, 48, 64, 88, 200, 5000]))
        if rng.random() < 0.5:
            body = body[:rng.randrange(len(body) + 1)] + rng.choice([b"name\0", b"a\0b\0", b"\0"])
        if opcode == FALLOCATE or opcode in (47, 53):
            body = body[:30]                        # random lengths would really be allocated
        wire.send(opcode, body, nodeid=rng.choice([0, 1, 2, 3, 1 << 63]),
                  extension_units=rng.choice([0, 0, 0, 1, 65535]))
        if opcode in (FORGET, BATCH_FORGET, 41):
            continue
        wire.answer()
    assert wire.alive()
