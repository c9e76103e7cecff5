"""The guest's initramfs: of the oracle's cluster image what the agent needs, so that it unpacks in a second."""

from __future__ import annotations

import importlib.util
import marshal
import re
import stat
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from interop.oracle.errors import OracleError
from interop.oracle.prepare import Cpio, kernel_dir

HERE = Path(__file__).parent
LIBS = re.compile(r"/(ld-linux|libc\.so|libm\.so|libz\.so|libexpat|libffi|libdl|libpthread|libutil|librt|"
                  r"libssl|libcrypto|libgcc_s)")
HEADER_LEN, FIELDS = 110, 13
GUEST_TAG = "cpython-311"


def entries(archive: bytes) -> Iterator[tuple[str, int, bytes]]:
    """(name, mode, data) of a newc cpio archive."""
    at = 0
    while True:
        if archive[at:at + 6] != b"070701":
            raise OracleError(f"the oracle's image is no cpio archive at byte {at}")
        field = [int(archive[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(FIELDS)]
        mode, size, name_len = field[1], field[6], field[11]
        name = archive[at + HEADER_LEN:at + HEADER_LEN + name_len - 1].decode()
        start = (at + HEADER_LEN + name_len + 3) & ~3
        if name == "TRAILER!!!":
            return
        yield name, mode, archive[start:start + size]
        at = (start + size + 3) & ~3


def wanted(name: str, mode: int) -> bool:
    """Directories and links, Python with its libraries, busybox, the modules."""
    if name == "init":
        return False
    if not stat.S_ISREG(mode):
        return True
    if name.startswith("usr/lib/x86_64-linux-gnu/"):
        return bool(LIBS.search(name))
    if name.startswith("usr/bin/"):
        return "python3" in name or "busybox" in name
    return not name.startswith(("usr/sbin/", "usr/lib/python3.11/test", "usr/lib/python3.11/ensurepip"))


def compiled(name: str, source: bytes) -> Iterator[tuple[str, int, bytes]]:
    """What Python would leave in __pycache__, not to be compared with its source: emulated, compiling takes minutes."""
    if sys.implementation.cache_tag != GUEST_TAG:
        return
    folder, _, base = name.rpartition("/")
    yield f"{folder}/__pycache__", stat.S_IFDIR | 0o755, b""
    unchecked = (1).to_bytes(4, "little") + importlib.util.source_hash(source)
    yield (f"{folder}/__pycache__/{base.removesuffix('.py')}.{GUEST_TAG}.pyc", stat.S_IFREG | 0o644,
           importlib.util.MAGIC_NUMBER + unchecked + marshal.dumps(compile(source, "/" + name, "exec", optimize=0)))


def build(path: Path, extra: Iterable[tuple[str, int, bytes]] = (),
          modules: Collection[str] = ()) -> None:
    """Write the initramfs. Raises OracleError when the oracle is not prepared.

    extra: more files and directories. modules: files of Python's library that are to be there compiled as well.
    """
    try:
        source = (kernel_dir() / "cluster.cpio").read_bytes()
    except FileNotFoundError:
        raise OracleError("the oracle is not prepared") from None
    with path.open("wb") as out:
        cpio = Cpio(out)
        for name, mode, data in entries(source):
            if wanted(name, mode):
                cpio.add(name, mode, data)
            if name in modules and stat.S_ISREG(mode):
                for entry in compiled(name, data):
                    cpio.add(*entry)
        cpio.add("init", stat.S_IFREG | 0o755, (HERE / "init.sh").read_bytes())
        cpio.add("agent.py", stat.S_IFREG | 0o644, (HERE / "agent.py").read_bytes())
        for name, mode, data in extra:
            cpio.add(name, mode, data)
        cpio.end()
