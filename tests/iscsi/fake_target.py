"""An iSCSI target in Python whose cache is volatile and which misbehaves on request.

Enough of RFC 7143 and SBC for an initiator: login, SCSI commands with immediate and unsolicited data, NOP, logout. Each
connection is served by a thread of its own. What a command meets is decided by `plan`, a function of the test.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

BHS_BYTES = 48
SEGMENT_BYTES = 262144
NO_TAG = 0xFFFFFFFF
WINDOW = 64
TARGET = "iqn.2011-07.com.example:fake"

READ16, WRITE16, SYNC10, UNMAP, READY = 0x88, 0x8A, 0x35, 0x42, 0x00


class Disk:
    """Blocks with a cache that loses what was not flushed; `log` has every write and flush in order."""

    def __init__(self, blocks: int, block_bytes: int = 512, *, write_cache: bool = True, fua: bool = True) -> None:
        self.blocks, self.block_bytes = blocks, block_bytes
        self.write_cache, self.fua = write_cache, fua
        self.durable = bytearray(blocks * block_bytes)
        self.cached: dict[int, bytes] = {}
        self.serial = b"fake-1"
        self.lock = threading.Lock()
        self.log: list[tuple[str, int, int]] = []

    def read(self, lba: int, count: int) -> bytes:
        with self.lock:
            n = self.block_bytes
            out = bytearray(self.durable[lba * n:(lba + count) * n])
            for at in range(lba, lba + count):
                if at in self.cached:
                    out[(at - lba) * n:(at - lba + 1) * n] = self.cached[at]
            return bytes(out)

    def write(self, lba: int, data: bytes, fua: bool) -> None:
        with self.lock:
            n = self.block_bytes
            self.log.append(("fua" if fua else "write", lba, len(data) // n))
            for k in range(len(data) // n):
                piece = data[k * n:(k + 1) * n]
                if fua or not self.write_cache:
                    self.cached.pop(lba + k, None)
                    self.durable[(lba + k) * n:(lba + k + 1) * n] = piece
                else:
                    self.cached[lba + k] = piece

    def flush(self) -> None:
        with self.lock:
            self.log.append(("flush", 0, 0))
            for lba, piece in self.cached.items():
                self.durable[lba * self.block_bytes:(lba + 1) * self.block_bytes] = piece
            self.cached.clear()

    def power_cut(self) -> None:
        """What was not flushed is gone."""
        with self.lock:
            self.log.append(("power cut", 0, 0))
            self.cached.clear()


@dataclass
class Command:
    """A SCSI command as it came."""

    cdb: bytes
    expected: int
    writes: bool
    tag: int
    data: bytearray = field(default_factory=bytearray)
    got: int = 0

    @property
    def opcode(self) -> int:
        return self.cdb[0]


@dataclass(frozen=True)
class Do:
    """What to do with a command. before: it is carried out first.

    kinds: "answer" (as it should be), "status", "sense", "drop" (hang up), "silence", "bytes" (send these instead),
    "short" (half of the data, and GOOD), "later" (carried out, and answered after the next command's answer), "hold"
    (carried out and answered after the next request of any kind).
    """

    kind: str = "answer"
    status: int = 0
    key: int = 0
    ascq: int = 0
    raw: bytes = b""
    before: bool = False


ANSWER = Do()
Plan = Callable[[Command], Do]


class FakeTarget:
    """Listens on 127.0.0.1:port from start() on; stop() and start() again keep the port."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.plan: Plan = lambda _: ANSWER
        self.login_status = 0               # class << 8 | detail
        self.login_raw: bytes | None = None
        self.bend: Callable[[bytearray], bool] | None = None    # change a header; true: hang up soon
        self.logins: list[bytes] = []       # ISIDs
        self.commands = 0
        self.pinged = threading.Event()     # for a test to clear
        self.port = 0
        self._listener: socket.socket | None = None
        self._open: dict[socket.socket, bytes] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"iscsi://127.0.0.1:{self.port}/{TARGET}/1"

    def start(self) -> FakeTarget:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(16)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._spawn(self._accept, listener)
        return self

    def stop(self) -> None:
        """Hang up on everybody and listen no more."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.hang_up()

    def hang_up(self, isid: bytes | None = None) -> None:
        with self._lock:
            found = [s for s, who in self._open.items() if isid is None or who == isid]
        for one in found:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def restart(self) -> None:
        """A power cut of the target, at once over."""
        self.stop()
        self.join()
        self.disk.power_cut()
        self.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
        self._threads = [t for t in self._threads if t.is_alive()]
        assert not self._threads, "a connection of the fake target hangs"

    def __enter__(self) -> FakeTarget:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.join()

    def _spawn(self, work: Callable[[socket.socket], None], s: socket.socket) -> None:
        thread = threading.Thread(target=work, args=(s,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                s, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._open[s] = b""
            self._spawn(self._serve, s)

    def _serve(self, s: socket.socket) -> None:
        try:
            Connection(self, s).run()
        except (OSError, EOFError):
            pass
        finally:
            with self._lock:
                self._open.pop(s, None)
            s.close()

    def opened(self, s: socket.socket, isid: bytes) -> None:
        """A login: the session that had this ISID before ends (reinstatement)."""
        self.hang_up(isid)
        with self._lock:
            self.logins.append(isid)
            if s in self._open:
                self._open[s] = isid


class Connection:
    """One connection: reads PDUs, answers them."""

    def __init__(self, target: FakeTarget, s: socket.socket) -> None:
        self.target, self.disk, self.socket = target, target.disk, s
        self.stat_sn = self.exp_cmd_sn = 1
        self.waiting: dict[int, Command] = {}
        self.late: list[Command] = []
        self.held: list[Command] = []
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(self, n: int) -> bytes:
        out = bytearray()
        while len(out) < n:
            piece = self.socket.recv(n - len(out))
            if not piece:
                raise EOFError
            out += piece
        return bytes(out)

    def run(self) -> None:
        while True:
            head = self.receive(BHS_BYTES)
            length = int.from_bytes(head[5:8], "big")
            data = self.receive((length + 3) & ~3)[:length]
            opcode, immediate = head[0] & 0x3F, head[0] & 0x40
            if opcode in (0x00, 0x01) and not immediate:
                self.exp_cmd_sn = int.from_bytes(head[24:28], "big") + 1 & NO_TAG
            handlers = {0x00: self.nop, 0x01: self.scsi, 0x03: self.login, 0x05: self.data_out, 0x06: self.logout}
            held, self.held = self.held, []
            handlers[opcode](head, data)
            for one in held:
                self.finish(one, self.carry_out(one))

    def send(self, opcode: int, flags: int, tag: bytes, *, data: bytes = b"", status: bool = True,
             **fields: bytes) -> None:
        """fields: b followed by an offset in the header, such as b36=..."""
        head = bytearray(BHS_BYTES)
        head[0], head[1] = opcode, flags
        head[5:8] = len(data).to_bytes(3, "big")
        head[16:20] = tag
        struct.pack_into(">III", head, 24, self.stat_sn, self.exp_cmd_sn, self.exp_cmd_sn + WINDOW - 1)
        if status:
            self.stat_sn += 1
        for name, value in fields.items():
            at = int(name[1:])
            head[at:at + len(value)] = value
        if self.target.bend is not None and self.target.bend(head):
            threading.Timer(0.05, self.hang_up).start()
        self.socket.sendall(bytes(head) + data + bytes(-len(data) % 4))

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def nop(self, head: bytes, _: bytes) -> None:
        self.target.pinged.set()
        if head[16:20] != b"\xff\xff\xff\xff":
            self.send(0x20, 0x80, head[16:20], b20=b"\xff\xff\xff\xff")

    def logout(self, head: bytes, _: bytes) -> None:
        self.send(0x26, 0x80, head[16:20])
        raise EOFError

    def login(self, head: bytes, _: bytes) -> None:
        if self.target.login_raw is not None:
            self.socket.sendall(self.target.login_raw)
            raise EOFError
        stage, following = head[1] >> 2 & 3, head[1] & 3
        status = self.target.login_status
        words = [b"AuthMethod=None"] if stage == 0 else [
            b"HeaderDigest=None", b"DataDigest=None", b"InitialR2T=No", b"ImmediateData=Yes",
            b"MaxBurstLength=262144", b"FirstBurstLength=262144", b"MaxRecvDataSegmentLength=%d" % SEGMENT_BYTES]
        if following == 3 and not status:
            self.target.opened(self.socket, head[8:14])
        self.send(0x23, head[1] & 0x8F, head[16:20], data=b"\0".join(words) + b"\0", b8=head[8:14],
                  b14=b"\0\1" if following == 3 else b"\0\0", b36=status.to_bytes(2, "big"))
        if status:
            raise EOFError

    def scsi(self, head: bytes, data: bytes) -> None:
        command = Command(head[32:48], int.from_bytes(head[20:24], "big"), bool(head[1] & 0x20),
                          int.from_bytes(head[16:20], "big"))
        if command.writes:
            command.data = bytearray(command.expected)
            command.data[:len(data)] = data
            command.got = len(data)
            if command.got < command.expected:
                self.waiting[command.tag] = command
                return
        self.execute(command)

    def data_out(self, head: bytes, data: bytes) -> None:
        command = self.waiting[int.from_bytes(head[16:20], "big")]
        at = int.from_bytes(head[40:44], "big")
        command.data[at:at + len(data)] = data
        command.got += len(data)
        if command.got == command.expected:
            del self.waiting[command.tag]
            self.execute(command)

    # -- commands

    def execute(self, command: Command) -> None:
        self.target.commands += 1
        late, self.late = self.late, []
        do = self.target.plan(command)
        if do.before:
            self.carry_out(command)
        if do.kind == "answer":
            self.finish(command, self.carry_out(command))
        elif do.kind == "short":
            out = self.carry_out(command)
            self.data_in(command, out[:len(out) // 2], tell=False)
        elif do.kind == "status":
            self.respond(command, do.status)
        elif do.kind == "sense":
            self.respond(command, 2, sense(do.key, do.ascq))
        elif do.kind == "bytes":
            self.socket.sendall(do.raw)
        elif do.kind == "drop":
            raise EOFError
        elif do.kind == "later":
            self.carry_out(command)
            self.late.append(command)
        elif do.kind == "hold":
            self.held.append(command)
        else:
            assert do.kind == "silence", do.kind
        for one in late:
            self.respond(one, 0)

    def finish(self, command: Command, out: bytes | None) -> None:
        if out is None:
            self.respond(command, 2, sense(5, 0x2000))
        elif command.expected and not command.writes:
            self.data_in(command, out)
        else:
            self.respond(command, 0)

    def carry_out(self, command: Command) -> bytes | None:
        """The data that goes back; None for a command that this disk does not know."""
        cdb, disk = command.cdb, self.disk
        if cdb[0] in (READ16, WRITE16):
            lba, count = struct.unpack(">QI", cdb[2:14])
            if cdb[0] == READ16:
                return disk.read(lba, count)
            disk.write(lba, bytes(command.data), bool(cdb[1] & 0x08))
            return b""
        if cdb[0] == SYNC10:
            disk.flush()
            return b""
        if cdb[0] == READY:
            return b""
        if cdb[0] == 0x9E:
            return struct.pack(">QI20x", disk.blocks - 1, disk.block_bytes)
        if cdb[0] == 0x12:
            return self.inquiry(cdb)
        if cdb[0] == 0x1A:
            page = bytes([0x08, 0x12, 0x04 if disk.write_cache else 0]) + bytes(17)
            return bytes([3 + len(page), 0, 0x10 if disk.fua else 0, 0]) + page
        return None

    def inquiry(self, cdb: bytes) -> bytes | None:
        if not cdb[1] & 1:
            return bytes([0, 0, 6, 2, 31, 0, 0, 2]) + b"GFS2PY  FAKE            0001"
        if cdb[2] == 0x83:
            name = self.disk.serial
            return bytes([0, 0x83, 0, len(name) + 4, 2, 1, 0, len(name)]) + name
        return None

    def data_in(self, command: Command, out: bytes, tell: bool = True) -> None:
        out = out[:command.expected]
        tag, missing = command.tag.to_bytes(4, "big"), command.expected - len(out)
        flags = 0x02 if missing and tell else 0
        for number, at in enumerate(range(0, max(len(out), 1), SEGMENT_BYTES)):
            last = at + SEGMENT_BYTES >= len(out)
            self.send(0x25, 0x81 | flags if last else 0, tag, data=out[at:at + SEGMENT_BYTES], status=last,
                      b20=b"\xff\xff\xff\xff", b36=number.to_bytes(4, "big"), b40=at.to_bytes(4, "big"),
                      b44=(missing if tell and last else 0).to_bytes(4, "big"))

    def respond(self, command: Command, status: int, data: bytes = b"") -> None:
        missing = command.expected if status == 2 and not command.writes else 0
        self.send(0x21, 0x80, command.tag.to_bytes(4, "big"), data=data, b3=bytes([status]),
                  b44=missing.to_bytes(4, "big"))


def sense(key: int, ascq: int) -> bytes:
    """Fixed-format sense data with its length in front."""
    return struct.pack(">HBBB4xB4xH4x", 18, 0x70, 0, key, 10, ascq)
