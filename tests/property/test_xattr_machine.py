"""Extended attributes against a dict: every size, replaced and removed in any order, across remounts."""

import errno
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from memfs import assert_clean, fresh, mounted

ROOT = 1
CREATE, REPLACE = 1, 2
NAMES = st.one_of(
    st.integers(0, 12).map(lambda i: b"user.%d" % i),
    st.integers(0, 3).map(lambda i: b"security.%d" % i),
    st.integers(0, 3).map(lambda i: b"trusted." + b"t" * 60 + b"%d" % i),
    st.integers(0, 2).map(lambda i: b"user." + b"l" * 200 + b"%d" % i),
)


def value(size: int, number: int) -> bytes:
    return random.Random(number).randbytes(size)


def fits(bsize: int, name: bytes, size: int) -> bool:
    """A record with the value, or with pointers to its blocks, must fit in one block."""
    usable = bsize - 24
    head = 16 + len(name.partition(b".")[2])
    return -(-(head + size) // 8) * 8 <= usable or -(-(head + 8 * -(-size // usable)) // 8) * 8 <= usable


class XattrMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    @initialize(bsize=st.sampled_from([512, 1024, 4096]))
    def begin(self, bsize: int) -> None:
        self.bsize = bsize
        self.device = fresh(bsize, 64)
        self.volume = mounted(self.device)
        self.volume.create("file")
        self.values: dict[bytes, bytes] = {}

    @rule(name=NAMES, data=st.data(), flags=st.sampled_from([0, 0, 0, CREATE, REPLACE]))
    def put(self, name: bytes, data: st.DataObject, flags: int) -> None:
        usable = self.bsize - 24
        room = usable - 16 - len(name.partition(b".")[2])
        size = data.draw(st.one_of(
            st.integers(0, 40), st.integers(0, 3 * usable), st.integers(0, 65536),
            st.sampled_from([0, room - 1, room, room + 1, usable, usable + 1, 2 * usable, 65536]),
        ))
        self.count += 1
        new = value(size, self.count)
        wanted = 0
        if not fits(self.bsize, name, size):
            wanted = errno.ERANGE
        if flags == CREATE and name in self.values:
            wanted = errno.EEXIST
        if flags == REPLACE and name not in self.values:
            wanted = errno.ENODATA
        if wanted:
            with pytest.raises(OSError) as caught:
                self.volume.setxattr("file", name, new, flags)
            assert caught.value.errno == wanted
        else:
            self.volume.setxattr("file", name, new, flags)
            self.values[name] = new
        self.read(name)

    @rule(name=NAMES)
    def read(self, name: bytes) -> None:
        if name in self.values:
            assert self.volume.getxattr("file", name) == self.values[name]
        else:
            with pytest.raises(OSError) as caught:
                self.volume.getxattr("file", name)
            assert caught.value.errno == errno.ENODATA

    @rule(name=NAMES)
    def remove(self, name: bytes) -> None:
        if self.values.pop(name, None) is not None:
            self.volume.removexattr("file", name)
            return
        with pytest.raises(OSError) as caught:
            self.volume.removexattr("file", name)
        assert caught.value.errno == errno.ENODATA

    @rule()
    def everything(self) -> None:
        assert sorted(self.volume.listxattr("file")) == sorted(self.values)
        for name, content in self.values.items():
            assert self.volume.getxattr("file", name) == content

    @rule()
    def remount(self) -> None:
        self.volume.close()
        assert_clean(self.device)
        self.volume = mounted(self.device)

    @rule()
    def start_again(self) -> None:
        """The file goes with all it has."""
        self.volume.unlink("file")
        self.volume.create("file")
        self.values.clear()

    @invariant()
    def is_well(self) -> None:
        if self.count:
            assert self.volume.fs.withdrawn is None

    def teardown(self) -> None:
        if not hasattr(self, "volume"):
            return
        try:
            self.everything()
            self.volume.close()
            assert_clean(self.device)
        finally:
            self.volume.abandon()


TestXattrs = XattrMachine.TestCase
TestXattrs.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
