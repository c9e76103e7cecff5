"""A LUN of an iSCSI target as a block device; discovery of targets. See docs/design/iscsi.md.

The data path is compiled (ext/cffi); this opens a session, asks the LUN what it is, and offers the commands that are
not reading and writing: persistent reservations above all, for fencing.
"""

from __future__ import annotations

import errno
import os
import secrets
from dataclasses import asdict, dataclass
from typing import Any

from gfs2py.block import iscsi_config, scsi
from gfs2py.block._iscsi import InitiatorDevice
from gfs2py.block._libiscsi import ffi, lib
from gfs2py.block.iscsi_url import IscsiUrl, Portal, parse_url

CACHES = {"replay": lib.GI_REPLAY, "through": lib.GI_THROUGH, "fail": lib.GI_FAIL}
STATES = ("down", "connecting", "logging in", "checking", "repeating writes", "up", "given up")
# DEV_* of _device.pxd.
RDONLY, HAS_FLUSH, HAS_FUA, HAS_DISCARD = 1, 2, 4, 8
COMMAND_BYTES_MAX = 1 << 18         # larger transfers are split: as much as goes without asking for leave (R2T)
UNIT_ATTENTIONS_MAX = 8
KEYS_BYTES = 8192                   # room for a thousand registrations
TIMEOUT_DEFAULT_S = 120             # as node.session.timeo.replacement_timeout of open-iscsi


@dataclass(frozen=True, slots=True)
class IscsiOptions:
    """How to log in and what to do in an outage.

    timeout_s: how long an outage may last before I/O fails; 0 for ever. cache: "replay", "through" or "fail", what
    becomes of acknowledged writes that the target may forget. credentials: a file of CHAP secrets. header_digest:
    ask for CRC32C. ping_s: silence after which the target is asked. depth: commands in flight. keep_bytes: of writes
    kept for a replay. isid: 24 bits of the session's name; drawn when None.
    """

    timeout_s: int = TIMEOUT_DEFAULT_S
    cache: str = "replay"
    credentials: str | None = None
    header_digest: bool = False
    ping_s: int = 5
    depth: int = 64
    keep_bytes: int = 64 << 20
    initiator: str | None = None
    isid: int | None = None


DEFAULTS = IscsiOptions()


@dataclass(frozen=True, slots=True)
class IscsiStatus:
    """How a session is doing."""

    state: str
    portal: str
    sessions: int           # logins since opening
    in_flight: int
    queued: int
    unflushed_writes: int
    unflushed_bytes: int    # kept for a replay
    resent: int             # commands sent again because nobody had answered
    replayed: int           # acknowledged writes sent again after a login
    busy: int               # answers BUSY and TASK SET FULL
    outage_s: float         # of the present outage
    why: str                # the reason of the present or last outage

    def as_dict(self) -> dict[str, str | int | float]:
        return asdict(self)


def _texts(url: IscsiUrl, options: IscsiOptions) -> dict[str, str | None]:
    found = iscsi_config.credentials(url.target, url.user, file=options.credentials)
    return {"initiator": options.initiator or iscsi_config.initiator_name(), "target": url.target,
            "label": f"iscsi {url.target} lun {url.lun}",
            "user": found.user if found else None, "password": found.password if found else None,
            "target_user": found.target_user if found else None,
            "target_password": found.target_password if found else None}


def _new(url: IscsiUrl, options: IscsiOptions) -> Any:
    """The initiator's handle, not connected. Raises OSError."""
    settings = ffi.new("struct gi_settings *")
    keep = []                       # cffi's memory lives as long as its Python object
    for name, text in _texts(url, options).items():
        if text is not None:
            keep.append(ffi.new("char[]", text.encode()))
            setattr(settings, name, keep[-1])
    for number, portal in enumerate(url.portals):
        keep.append(ffi.new("char[]", str(portal).encode()))
        settings.portals[number] = keep[-1]
    settings.n_portals = len(url.portals)
    settings.lun = url.lun
    settings.isid = secrets.randbits(24) if options.isid is None else options.isid & 0xFFFFFF
    settings.depth = options.depth
    settings.header_digest = options.header_digest
    settings.timeout_s = options.timeout_s
    settings.ping_s = options.ping_s
    settings.keep_bytes = options.keep_bytes
    handle = lib.gi_new(settings)
    if handle == ffi.NULL:
        raise MemoryError("no memory for an iSCSI session")
    return handle


def _status(handle: Any) -> IscsiStatus:
    s = ffi.new("struct gi_status *")
    lib.gi_get_status(handle, s)
    return IscsiStatus(STATES[s.state], _text(s.portal), s.sessions, s.in_flight, s.queued, s.unflushed_writes,
                       s.unflushed_bytes, s.resent, s.replayed, s.busy, s.outage_ns / 1e9, _text(s.why))


def _text(c: Any) -> str:
    return ffi.string(c).decode("utf-8", "replace")


def _command(handle: Any, name: str, what: str, cdb: bytes, data: bytes = b"", want: int = 0) -> bytes:
    """One SCSI command; a unit attention means that it was not carried out. Raises ScsiError, OSError."""
    answer = ffi.new("struct gi_answer *")
    room = ffi.new("uint8_t[]", max(want, 1))
    err = lib.gi_command(handle, cdb, len(cdb), ffi.from_buffer(data), len(data), room if want else ffi.NULL, want,
                         answer)
    if err == -errno.ECONNRESET:
        raise OSError(errno.ECONNRESET, f"{what}: the session was lost before the answer ({_status(handle).why})", name)
    if answer.status and err:
        raise scsi.ScsiError(what, name, -err, answer.status, answer.key, answer.ascq)
    if err:
        raise OSError(-err, f"{what}: {_status(handle).why or os.strerror(-err)}", name)
    return bytes(ffi.buffer(room, answer.got))


class IscsiDevice(InitiatorDevice):
    """A LUN. Opening logs in; an outage later is waited for up to `timeout_s`.

    Raises OSError with the reason: no portal answers, the login is refused, there is no such LUN, it is no disk.
    """

    def __init__(self, url: str, *, readonly: bool = False, options: IscsiOptions = DEFAULTS) -> None:
        where = parse_url(url)
        if options.cache not in CACHES:
            raise OSError(errno.EINVAL, f"iscsi_cache={options.cache} must be one of {', '.join(CACHES)}", url)
        handle = _new(where, options)
        try:
            err = lib.gi_connect(handle)
            if err:
                raise OSError(-err, _status(handle).why or os.strerror(-err), url)
            self._probe(handle, url, readonly)
            lib.gi_set_cache(handle, CACHES["through" if self._only_fua else options.cache])
        except scsi.AnswerError as e:
            lib.gi_close(handle)
            raise OSError(e.errno, e.args[1], url) from None
        except BaseException:
            lib.gi_close(handle)
            raise
        address = int(ffi.cast("uintptr_t", handle))
        try:
            self._own(int(ffi.cast("uintptr_t", lib.gi_operations())), address,
                      size_bytes=self.capacity.blocks * self.capacity.block_bytes, align=self.capacity.block_bytes,
                      flags=self._flags, name=url)
        except BaseException:
            lib.gi_close(handle)
            raise

    def _probe(self, handle: Any, url: str, readonly: bool) -> None:
        """Ask the LUN what it is; what has to be the same after a login is remembered."""
        def ask(what: str, cdb: bytes, want: int = scsi.ALLOCATION_BYTES) -> bytes:
            return _command(handle, url, what, cdb, want=want)

        def perhaps(what: str, cdb: bytes) -> bytes:
            try:
                return ask(what, cdb)
            except scsi.ScsiError as e:
                if e.key != scsi.ILLEGAL_REQUEST:
                    raise
                return b""

        self.inquiry = scsi.Inquiry.parse(ask("INQUIRY", scsi.inquiry()))
        if not self.inquiry.present:
            raise OSError(errno.ENODEV, "the target has no such LUN", url)
        if self.inquiry.device_type != scsi.TYPE_DISK:
            raise OSError(errno.ENOTBLK, f"is no disk but a SCSI device of type {self.inquiry.device_type}", url)
        raw_capacity = ask("READ CAPACITY", scsi.read_capacity16(), 32)
        self.capacity = scsi.Capacity.parse(raw_capacity)
        identity = perhaps("INQUIRY of page 83", scsi.inquiry(0x83))
        self.limits = scsi.Limits.parse(perhaps("INQUIRY of page B0", scsi.inquiry(0xB0)),
                                        perhaps("INQUIRY of page B2", scsi.inquiry(0xB2)))
        raw_mode = perhaps("MODE SENSE", scsi.mode_sense6(0x08))
        mode = scsi.ModeHeader.parse(raw_mode) if raw_mode else scsi.ModeHeader(False, False, None)
        volatile = mode.write_cache is not False
        # Without either, an acknowledged write is all that can be had of this disk.
        self._only_fua = False
        if volatile and not readonly and not self._can_flush(handle, url):
            volatile = self._only_fua = mode.fua
        self.volatile_cache = volatile
        for kind, cdb, answer in ((lib.GI_CAPACITY, scsi.read_capacity16(), raw_capacity[:16]),
                                  (lib.GI_SAME, scsi.inquiry(0x83), identity[:lib.GI_CHECK_BYTES]),
                                  (lib.GI_CACHE, scsi.mode_sense6(0x08), raw_mode)):
            if answer:
                lib.gi_remember(handle, kind, cdb, len(cdb), answer, len(answer))
        self._flags = ((RDONLY if readonly or mode.write_protected else 0) | HAS_FLUSH | (HAS_FUA if mode.fua else 0)
                       | (HAS_DISCARD if self.limits.unmap_blocks else 0))
        block = self.capacity.block_bytes
        limit = self.limits.transfer_blocks * block or COMMAND_BYTES_MAX
        geometry = ffi.new("struct gi_geometry *", {
            "blocks": self.capacity.blocks, "block_bytes": block,
            "max_bytes": max(block, min(limit, COMMAND_BYTES_MAX) // block * block),
            "max_unmap_blocks": self.limits.unmap_blocks, "volatile_cache": volatile, "has_fua": mode.fua,
            "has_flush": not self._only_fua})
        err = lib.gi_start(handle, geometry)
        if err:
            raise OSError(-err, f"a disk of {self.capacity.blocks} blocks of {block} bytes", url)

    @staticmethod
    def _can_flush(handle: Any, url: str) -> bool:
        try:
            _command(handle, url, "SYNCHRONIZE CACHE", scsi.synchronize_cache10())
        except scsi.ScsiError as e:
            if e.key == scsi.ILLEGAL_REQUEST:
                return False
            raise
        return True

    @property
    def physical_bytes(self) -> int:
        """The size of a physical block."""
        return self.capacity.physical_bytes

    def status(self) -> IscsiStatus:
        """How the session is doing; works during an outage."""
        return _status(ffi.cast("struct gi_device *", self.handle))

    def set_cache(self, cache: str) -> None:
        """From the next write on; flush before, so that nothing is kept under the old rule. Raises ValueError."""
        if cache not in CACHES:
            raise ValueError(f"{cache!r} must be one of {', '.join(CACHES)}")
        lib.gi_set_cache(ffi.cast("struct gi_device *", self.handle), CACHES["through" if self._only_fua else cache])

    def set_timeout(self, timeout_s: int) -> None:
        """How long an outage may last; 0 for ever."""
        lib.gi_set_timeout(ffi.cast("struct gi_device *", self.handle), timeout_s)

    def command(self, what: str, cdb: bytes, data: bytes = b"", want: int = 0) -> bytes:
        """Any SCSI command, with data to it or up to `want` bytes from it. Never sent twice.

        Raises ScsiError when the target refuses; OSError(ECONNRESET) when nobody knows whether it was carried out.
        """
        return _command(ffi.cast("struct gi_device *", self.handle), self.name, what, cdb, data, want)

    # -- persistent reservations: for fencing. A registration belongs to this session's initiator name and ISID.

    def _reserve_out(self, action: scsi.ReserveOut, key: int, service_key: int = 0, kind: int = 0) -> None:
        self.command(f"PERSISTENT RESERVE OUT {action.name}", scsi.reserve_out(action, kind),
                     scsi.reserve_parameters(key, service_key))

    def register(self, key: int, old_key: int | None = None) -> None:
        """Register `key` (0: unregister) in place of `old_key`, or of whatever is there when None. Raises ScsiError."""
        if old_key is None:
            self._reserve_out(scsi.ReserveOut.REGISTER_AND_IGNORE, 0, key)
        else:
            self._reserve_out(scsi.ReserveOut.REGISTER, old_key, key)

    def reserve(self, key: int, kind: scsi.Reservation) -> None:
        """Take a reservation of that type. Raises ScsiError."""
        self._reserve_out(scsi.ReserveOut.RESERVE, key, 0, kind)

    def release(self, key: int, kind: scsi.Reservation) -> None:
        self._reserve_out(scsi.ReserveOut.RELEASE, key, 0, kind)

    def preempt(self, key: int, victim: int, kind: scsi.Reservation) -> None:
        """Remove the registration `victim`; its node can write no more. Raises ScsiError."""
        self._reserve_out(scsi.ReserveOut.PREEMPT, key, victim, kind)

    def clear(self, key: int) -> None:
        """Remove the reservation and every registration. Raises ScsiError."""
        self._reserve_out(scsi.ReserveOut.CLEAR, key)

    def read_keys(self) -> scsi.Keys:
        return scsi.Keys.parse(self.command("READ KEYS", scsi.reserve_in(0, KEYS_BYTES), want=KEYS_BYTES))

    def read_reservation(self) -> scsi.Holder | None:
        return scsi.Holder.parse(self.command("READ RESERVATION", scsi.reserve_in(1, 64), want=64))


# -- discovery --------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class DiscoveredTarget:
    """A target and an address of it, with the portal group's tag."""

    portal: str
    tag: int
    target: str


def _discover(context: Any, portal: Portal) -> list[DiscoveredTarget]:
    def fail(what: str) -> OSError:
        return OSError(errno.ENOTCONN, f"{what}: {_text(lib.iscsi_get_error(context)) or 'no answer'}", str(portal))

    if lib.iscsi_connect_sync(context, str(portal).encode()):
        raise fail("cannot connect")
    if lib.iscsi_login_sync(context):
        raise fail("login refused")
    first = lib.iscsi_discovery_sync(context)
    found = []
    address = first
    while address != ffi.NULL:
        one = address.portals
        while one != ffi.NULL:
            where, _, tag = _text(one.portal).rpartition(",")
            found.append(DiscoveredTarget(where or _text(one.portal), int(tag) if tag.isdecimal() else 1,
                                          _text(address.target_name)))
            one = one.next
        if address.portals == ffi.NULL:     # RFC 7143: then it is the one that was asked
            found.append(DiscoveredTarget(str(portal), 1, _text(address.target_name)))
        address = address.next
    if first != ffi.NULL:
        lib.iscsi_free_discovery_data(context, first)
    lib.iscsi_logout_sync(context)
    return found[::-1]                      # libiscsi puts each before the others


def discover(portal: Portal, options: IscsiOptions = DEFAULTS, timeout_s: int = 10) -> list[DiscoveredTarget]:
    """SendTargets: the targets that a portal tells of. Raises OSError."""
    secrets_ = iscsi_config.credentials("discovery", file=options.credentials)
    context = lib.iscsi_create_context((options.initiator or iscsi_config.initiator_name()).encode())
    if context == ffi.NULL:
        raise MemoryError("no memory for an iSCSI session")
    try:
        lib.iscsi_set_session_type(context, lib.ISCSI_SESSION_DISCOVERY)
        lib.iscsi_set_header_digest(context, lib.ISCSI_HEADER_DIGEST_NONE)
        lib.iscsi_set_noautoreconnect(context, 1)
        lib.iscsi_set_timeout(context, timeout_s)
        lib.iscsi_set_tcp_syncnt(context, 2)
        if secrets_ is not None:
            lib.iscsi_set_initiator_username_pwd(context, secrets_.user.encode(), secrets_.password.encode())
        return _discover(context, portal)
    finally:
        lib.iscsi_destroy_context(context)
