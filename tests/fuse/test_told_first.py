"""A change under pages that the kernel may hold: it is told to drop them before it hears that the change was made."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest

from fuse.test_wire import FALLOCATE, Wire
from gfs2py.engine.volume import Volume
from memfs import assert_clean, fresh, mounted

COPY_FILE_RANGE, COPY_FILE_RANGE_64 = 47, 53
INVAL_INODE = 2
KEEP_SIZE, PUNCH, ZERO = 1, 2, 16
SIZE = 16384


class Told:
    """The kernel's end of an engine's session."""

    def __init__(self, volume: Volume) -> None:
        self.wire = Wire(handle=volume.fs)
        self.wire.session.start()
        self.wire.answer()
        calls = volume.calls
        self.file, self.source = (calls.create(1, name)[:2] for name in (b"file", b"source"))
        for node, fh in (self.file, self.source):
            calls.write(node, 0, b"x" * SIZE, fh)

    def ask(self, opcode: int, body: bytes, node: int) -> list[tuple[int, int, int] | tuple[int, bytes]]:
        """What comes until the request is answered: ranges of nodes to be dropped; the errno and body of the answer."""
        unique = self.wire.send(opcode, body, nodeid=node)
        came: list[tuple[int, int, int] | tuple[int, bytes]] = []
        while True:
            answered, error, data = self.wire.answer()
            if answered == unique:
                return [*came, (error, data)]
            assert (answered, error) == (0, -INVAL_INODE)
            came.append(struct.unpack("=Qqq", data))

    def fallocate(self, mode: int, off: int, length: int) -> list[tuple[int, int, int] | tuple[int, bytes]]:
        node, fh = self.file
        return self.ask(FALLOCATE, struct.pack("=QQQII", fh, off, length, mode, 0), node)


@pytest.fixture
def told() -> Iterator[Told]:
    device = fresh()
    volume = mounted(device)
    t = Told(volume)
    yield t
    t.wire.close()
    for node, fh in (t.file, t.source):
        volume.calls.release(node, fh)
    volume.close()
    assert_clean(device)


@pytest.mark.parametrize("mode", [PUNCH | KEEP_SIZE, ZERO | KEEP_SIZE, ZERO])
def test_holes_and_zeros(told: Told, mode: int) -> None:
    for off, length in ((700, 1000), (0, SIZE), (SIZE - 100, 1)):
        assert told.fallocate(mode, off, length) == [(told.file[0], off, length), (0, b"")]


@pytest.mark.parametrize("opcode", [COPY_FILE_RANGE, COPY_FILE_RANGE_64])
def test_copies_say_how_much_was_copied(told: Told, opcode: int) -> None:
    (node, fh), (source, source_fh) = told.file, told.source
    body = struct.pack("=QQQQQQQ", source_fh, SIZE - 3000, node, fh, 500, 10_000, 0)
    dropped, (error, data) = told.ask(opcode, body, source)
    assert dropped == (node, 500, 3000)
    assert (error, int.from_bytes(data, "little")) == (0, 3000)
    body = struct.pack("=QQQQQQQ", source_fh, SIZE, node, fh, 500, 10_000, 0)
    assert told.ask(opcode, body, source) == [(0, bytes(8))]


def test_nothing_is_dropped_for_what_changes_no_content(told: Told) -> None:
    assert told.fallocate(KEEP_SIZE, 0, 2 * SIZE) == [(0, b"")]
    assert told.fallocate(0x40, 0, SIZE) == [(errno.EOPNOTSUPP, b"")]
