"""gfs2d: one process per mount. The main thread decides and reports, compiled threads serve the requests.

    gfs2d [-f] [-v] [-o OPTIONS] DEVICE-or-IMAGE DIRECTORY

Without -f it goes to the background once the mount is live. SIGTERM and SIGINT unmount; when the mount is
busy it is taken out of the tree and served until its last user is gone; a second signal ends it at once.
Exit statuses are those of mount(8): 1 usage, 2 system, 4 internal, 32 the mount failed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import sys
import time

from gfs2py import words
from gfs2py.daemon_log import log
from gfs2py.daemon_streams import StandardStreams
from gfs2py.daemon_watch import BEAT_INTERVAL_S, Watchdog
from gfs2py.errors import ignored
from gfs2py.fuse import _mount, control, mount
from gfs2py.fuse._nullfs import NullFileSystem
from gfs2py.fuse._ops import FileSystemHandle
from gfs2py.fuse._session import Session
from gfs2py.options import MountOptions, OptionError, parse_options
from gfs2py.sources import followed, is_url

TYPE_CHECKING = False       # what is not loaded here shortens every mount
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from typing import Any

    from gfs2py.daemon_files import ControlFiles
    from gfs2py.daemon_observe import Observer
    from gfs2py.engine.mount import Shared

    Narrator = Callable[[str], None]

EX_USAGE, EX_SYSTEM, EX_INTERNAL, EX_INTERRUPTED, EX_FAILURE = 1, 2, 4, 8, 32
OBSERVE_AFTER_MS = 200.0    # from being live to the control socket; who asks sooner waits for it
FILES_AFTER_MS = 500.0      # and from there to the control files, which take longer still to load
LUN_LOCKS = "/run/gfs2py"   # lock files of LUNs: there is no device node to lock
LOCK_WAIT_S = 3.0           # how long a previous daemon of the same device may take to let go of it
_SB_OFFSET_BYTES, _SB_MAGIC = 65536, b"\x01\x16\x19\x70"


class MountError(Exception):
    """A mount that cannot be: one line for the user and the exit status."""

    def __init__(self, message: str, status: int = EX_FAILURE) -> None:
        super().__init__(message)
        self.status = status


class MountRequest:
    """What to mount where. `shown`: the source in the mount table, if another: a link that stands for a LUN."""

    __slots__ = ("options", "shown", "source", "target")

    def __init__(self, source: str, target: str, options: MountOptions, shown: str = "") -> None:
        self.source = source
        self.shown = shown or source
        self.target = target
        self.options = options


def _open_gfs2(source: str, options: MountOptions, narrate: Narrator) -> FileSystemHandle:
    from gfs2py.engine.mount import open_filesystem  # the engine is loaded by those who mount it

    def join(table: str, lost: Callable[[str], object]) -> Shared:
        from gfs2py.lock_dlm.shared import SharedMount  # trio and the lock manager: for shared mounts only

        return SharedMount(table, spectator=options.spectator, log=log.info, narrate=narrate, lost=lost)

    made: list[FileSystemHandle] = []

    def say(text: str) -> None:
        """What the engine does, for the log too: from the mount on in the form in which the kernel's GFS2 says it."""
        narrate(text)
        log.info(f"GFS2: fsid={made[0].label}: {text}" if made else text)

    made.append(found := open_filesystem(source, options, say, join))
    return found


def _open_null(source: str, options: MountOptions, narrate: Narrator) -> FileSystemHandle:
    """In memory; cached by the kernel only when asked for, so that benchmarks see every request."""
    return NullFileSystem(valid_ns=10**9 if options.writeback_cache else 0)


FILESYSTEMS: dict[str, Callable[[str, MountOptions, Narrator], FileSystemHandle]] = {
    "gfs2": _open_gfs2, "null": _open_null}


def sb_lockproto(fd: int) -> str:
    """The lock protocol of the superblock on an open device, empty when there is no GFS2."""
    block = os.pread(fd, 512, _SB_OFFSET_BYTES)
    if block[:4] != _SB_MAGIC:
        return ""
    return block[96:160].partition(b"\0")[0].decode(errors="replace")


def claim_lun(request: MountRequest) -> int:
    """Keep other gfs2d of this node off a LUN by a lock file; returns its descriptor. Raises MountError."""
    import hashlib

    from gfs2py.block.opening import open_device
    from gfs2py.engine.mount import iscsi_options, superblock_locking

    source, options = request.source, request.options
    proto = options.lockproto
    if proto is None:
        try:
            with open_device(source, readonly=True, iscsi=iscsi_options(source, options)) as device:
                proto = superblock_locking(device)[0]
        except OSError as e:
            raise MountError(f"cannot open {source}: {e.strerror}") from None
    name = hashlib.sha256(source.partition("://")[2].partition("/")[2].encode()).hexdigest()[:16]
    try:
        os.makedirs(LUN_LOCKS, exist_ok=True)
        fd = os.open(f"{LUN_LOCKS}/iscsi-{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise MountError(f"cannot keep a lock file in {LUN_LOCKS}: {e.strerror}", EX_SYSTEM) from None
    lock_source(fd, source, fcntl.LOCK_SH if proto == "lock_dlm" or options.read_only else fcntl.LOCK_EX)
    return fd


def lock_source(fd: int, source: str, kind: int) -> None:
    """Wait a little for a previous daemon to let go. Raises MountError; the descriptor is closed then."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(fd)
                raise MountError(f"{source} is already mounted by another gfs2d") from None
            time.sleep(0.02)


def claim(request: MountRequest) -> int:
    """Make sure that nobody else has the device; returns a descriptor that keeps it so.

    Block devices in use refuse O_EXCL (the fuseblk mount then holds them exclusively itself). On top an flock
    on the device or image keeps other gfs2d off; with lock_dlm it is shared: several nodes may be one kernel.
    """
    source, options = request.source, request.options
    flags = (os.O_RDONLY if options.read_only else os.O_RDWR) | os.O_CLOEXEC
    if stat.S_ISBLK(os.stat(source).st_mode):
        flags |= os.O_EXCL
    try:
        fd = os.open(source, flags)
    except OSError as e:
        if e.errno == errno.EBUSY:
            raise MountError(f"{source} is already mounted or in use") from None
        if e.errno == errno.EROFS:
            raise MountError(f"{source} is write-protected: mount it with -o ro") from None
        raise MountError(f"cannot open {source}: {e.strerror}") from None
    proto = options.lockproto or sb_lockproto(fd)
    kind = fcntl.LOCK_SH if proto == "lock_dlm" or options.read_only else fcntl.LOCK_EX
    lock_source(fd, source, kind)
    if flags & os.O_EXCL:
        # The kernel's fuseblk mount wants the exclusive claim for itself; the flock goes on.
        shared = os.open(source, flags & ~os.O_EXCL)
        os.close(fd)
        fcntl.flock(shared, kind | fcntl.LOCK_NB)
        return shared
    return fd


class Daemon:
    """A live mount, from claiming the device to the last answer."""

    def __init__(self, request: MountRequest, watchdog: Watchdog, narrate: Narrator) -> None:
        self.request = request
        self.watchdog = watchdog
        self.narrate = narrate
        self.handle: FileSystemHandle | None = None
        self.session: Session | None = None
        self.connection: mount.Connection | None = None
        self._observer: Observer | None = None
        self._files: ControlFiles | None = None
        self._claim = -1
        self._signals = 0
        self._unmounting: threading.Thread | None = None

    # -- up

    def start(self) -> None:
        """Bring the mount up. Raises MountError; nothing stays behind then."""
        try:
            self._start()
        except BaseException:
            self._close()
            raise

    def _start(self) -> None:
        request, options = self.request, self.request.options
        if options.type not in FILESYSTEMS:
            raise MountError(f"unknown file system type {options.type}", EX_USAGE)
        real = is_url(request.source) or os.path.exists(request.source)
        if real:
            self.narrate(f"claiming {request.source}")
            self._claim = claim_lun(request) if is_url(request.source) else claim(request)
        elif options.type != "null":
            raise MountError(f"{request.source}: no such device or image")
        self.narrate(f"opening the {options.type} file system on {request.source}")
        try:
            self.handle = FILESYSTEMS[options.type](request.source, options, self.narrate)
        except OSError as e:
            raise MountError(e.strerror or str(e)) from e
        self._connect(real)
        assert self.connection is not None
        self.narrate(f"attaching it to {request.target}")
        try:
            self.connection.attach(request.target)
        except OSError as e:
            raise MountError(f"cannot mount on {request.target}: {e.strerror}") from e
        self.connection.forget_mount()
        self.watchdog.mounted(self.connection.device, request.target)
        if options.type == "gfs2":
            self._explain()
        log.info(f"mounted source={request.source} target={request.target} type={options.type}")

    def _explain(self) -> None:
        """From here on the cluster's side of a shared mount can say who waits for which lock."""
        from gfs2py.engine.mount import Mounted

        assert self.session is not None
        assert self.connection is not None
        session, handle, device, target = self.session, self.handle, self.connection.device, self.request.target
        if not isinstance(handle, Mounted) or not handle.cluster():
            return

        def look(waits: list[dict[str, Any]], holds: list[dict[str, Any]]) -> dict[str, Any]:
            from gfs2py.controlfs.waits import look as found  # when somebody asks for the first time
            from gfs2py.daemon_files import MountView

            return found(MountView(session, handle, device, target), waits, holds)

        handle.explain_with(look)

    def _connect(self, real: bool) -> None:
        """Make the superblock and answer its INIT."""
        request, options = self.request, self.request.options
        assert self.handle is not None
        self.narrate("connecting to the kernel through /dev/fuse")
        try:
            try:
                self.connection = mount.connect(request.source, options.vfs_flags, plain=not real,
                                                shown=request.shown)
            except mount.NoLoopDevice as e:
                # sync(2) does not reach us then, and umount(2) does not wait; umount.gfs2 does.
                log.warning(f"plain fuse mount source={request.source}: {e.strerror}")
                self.narrate(f"{e.strerror}: a plain fuse mount, use umount.gfs2 to wait for its end")
                self.connection = mount.connect(request.source, options.vfs_flags, plain=True, shown=request.shown)
        except OSError as e:
            if e.errno == errno.EBUSY:
                raise MountError(f"{request.source} is already mounted or in use") from e
            raise MountError(f"cannot make a FUSE mount of {request.source}: {e.strerror}", EX_SYSTEM) from e
        self.session = Session(
            self.handle, self.connection.fd, hold_destroy=True, threads=options.threads, acl=options.acl,
            idle_poll=options.idle_poll,
            local_locks=self.handle.kernel_may_lock if options.localflocks is None else options.localflocks,
            writeback=(self.handle.kernel_may_write_back if options.writeback_cache is None
                       else options.writeback_cache))
        try:
            self.session.start()
        except OSError as e:
            raise MountError(f"cannot serve {request.source}: {e.strerror}", EX_SYSTEM) from e
        protocol = self.session.protocol()
        self.narrate(f"FUSE protocol 7.{protocol['minor']}, requests up to {protocol['max_write'] >> 10} KiB")

    # -- running

    def run(self, streams: StandardStreams | None = None) -> None:
        """Serve until the file system is unmounted; what comes through `streams` is logged."""
        assert self.session is not None
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        _mount.forward_signals((_mount.SIGTERM, _mount.SIGINT, _mount.SIGHUP), wake_write)
        poller = select.poll()
        poller.register(wake_read, select.POLLIN)
        poller.register(self.session.event_fd, select.POLLIN)
        if streams is not None:
            poller.register(streams.fd, select.POLLIN)
        while not self.session.ended:
            self.watchdog.beat()
            events = poller.poll(self._patience_ms())
            if not events and self._observer is None:
                self._observe()
            elif not events and self._wants_files():
                self._show_files()
            for fd, _ in events:
                if fd == wake_read:
                    self._on_signals(os.read(wake_read, 64))
                elif streams is not None and fd == streams.fd:
                    streams.drain()
                else:
                    self._on_session()
        _mount.stop_forwarding()
        os.close(wake_read)
        os.close(wake_write)
        self._close()
        if self._unmounting is not None:
            self._unmounting.join()
        log.info(f"ended source={self.request.source} target={self.request.target}")

    def _wants_files(self) -> bool:
        return self._files is None and self.request.options.type == "gfs2"

    def _patience_ms(self) -> float:
        """How long the main loop waits for something to happen."""
        if self._observer is None:
            return OBSERVE_AFTER_MS
        return FILES_AFTER_MS if self._wants_files() else BEAT_INTERVAL_S * 1000

    def _show_files(self) -> None:
        """The control file system, a moment after the socket."""
        from gfs2py.daemon_files import ControlFiles, MountView
        from gfs2py.engine.mount import Mounted

        observer = self._observer
        assert self.session is not None
        assert self.connection is not None
        assert observer is not None
        assert isinstance(self.handle, Mounted)

        def told(path: str) -> None:
            observer.files_at(path)
            self.watchdog.files(path)

        self._files = ControlFiles(MountView(self.session, self.handle, self.connection.device, self.request.target),
                                   told)
        self._files.start()

    def _hide(self) -> None:
        """Nobody shall find what speaks for this mount: a new one may have the same device number and table at once."""
        if self._files is not None:
            self._files.stop()
        if self._observer is not None:
            self._observer.stop(wait=False)

    def _observe(self) -> None:
        """What this needs takes longer to load than a mount: it waits until the mount has been quiet for a moment."""
        from gfs2py.daemon_observe import Observer

        assert self.session is not None
        assert self.handle is not None
        assert self.connection is not None
        self._observer = Observer(self.session, self.handle, {
            "source": self.request.source, "mount_point": self.request.target, "device": self.connection.device,
            "type": self.request.options.type}, self._cluster_statistics)
        self._observer.start()

    def _cluster_statistics(self) -> dict[str, Any]:
        """Of glocks and of this node's place, by type and in words; for a shared mount."""
        from gfs2py.engine import _inspect
        from gfs2py.engine.mount import Mounted

        if not isinstance(self.handle, Mounted) or not (cluster := self.handle.cluster()):
            return {}
        return {"cluster": cluster, "glocks": _inspect.type_statistics(self.handle)}

    def _on_session(self) -> None:
        """DESTROY is answered after the device is closed: when umount returns, it is free."""
        assert self.session is not None
        with ignored(BlockingIOError):
            os.read(self.session.event_fd, 8)
        if self.session.destroying:
            self._close_handle()
            self._hide()
            self.session.destroy_done()

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == _mount.SIGHUP:
                continue
            self._signals += 1
            log.info(f"signal number={number}")
            if self._signals == 1:
                import threading

                # In a thread: umount(2) waits for the DESTROY that this one has to see through.
                self._unmounting = threading.Thread(target=self._unmount, name="gfs2d-umount", daemon=True)
                self._unmounting.start()
            elif self.connection is not None:
                control.abort_connection(self.connection.number)

    def _unmount(self) -> None:
        assert self.connection is not None
        target = os.fsencode(self.request.target)
        entry = control.find_mount(self.request.target)
        if entry is None or entry.device != self.connection.device:
            return
        try:
            _mount.umount(target)
        except OSError as e:
            log.warning(f"busy target={self.request.target}: serving until its last user is gone ({e.strerror})")
            self.connection.detach()

    # -- down

    def _close_handle(self) -> None:
        if self.handle is not None:
            try:
                self.handle.close()
            except OSError as e:
                log.error(f"closing failed source={self.request.source}: {e}")
        if self._claim >= 0:
            os.close(self._claim)
            self._claim = -1

    def _close(self) -> None:
        self._hide()
        if self._observer is not None:
            self._observer.stop()
        if self.connection is not None:
            self.connection.forget_mount()
        if self.session is not None:
            self.session.close()
        elif self.connection is not None:
            os.close(self.connection.fd)
        self._close_handle()
        self.connection = None


def set_up_logging(options: MountOptions, foreground: bool, name: str) -> None:
    """To standard error in the foreground; else to the file asked for, syslog, or /var/log/gfs2d.log."""
    if options.logfile is not None:
        log.to_file(options.logfile, name)
    elif foreground:
        log.to_stderr(name)
    elif os.path.exists("/dev/log"):
        log.to_syslog(name)
    else:
        log.to_file("/var/log/gfs2d.log", name)


def serve(request: MountRequest, foreground: bool, narrate: Narrator, ready: Callable[[], None],
          streams: StandardStreams | None = None) -> int:
    """Be the daemon of a mount, in this process. Returns 0; raises MountError before `ready` was called."""
    set_up_logging(request.options, foreground, request.target)
    _mount.set_process_name(b"gfs2d")
    _mount.give_back_large_blocks()
    watchdog = Watchdog(request.options.watchdog_s)
    # Not before: the watchdog is a copy of this process, and only one of them is the daemon of this mount.
    _mount.set_process_title([b"gfs2d", os.fsencode(request.shown), os.fsencode(request.target)])
    try:
        daemon = Daemon(request, watchdog, narrate)
        daemon.start()
        ready()
        daemon.run(streams)
    finally:
        if streams is not None:
            streams.drain()
        watchdog.dismiss()
    return 0


def _background(request: MountRequest, report: int, verbose: bool) -> int:
    """The child: say on the pipe how far it is, `L` lines to narrate, then `R` or `E` status and message."""
    told = False            # the pipe is closed: its number may be the disk's by now

    def say(text: str) -> None:
        if not told:
            with ignored(OSError):
                os.write(report, os.fsencode(text.replace("\n", " ")) + b"\n")

    def narrate(text: str) -> None:
        if verbose:
            say(f"L{text}")

    def ready() -> None:
        nonlocal told
        say("R")
        told = True
        os.close(report)

    os.setsid()
    os.chdir("/")
    streams = StandardStreams()
    try:
        return serve(request, False, narrate, ready, streams)
    except MountError as e:
        say(f"E{e.status} {e}")
        return e.status
    except Exception as e:
        log.exception("internal error", e)
        say(f"E{EX_INTERNAL} internal error: {type(e).__name__}: {e}")
        return EX_INTERNAL


def launch(request: MountRequest, verbose: bool = False, narrate: Narrator = print) -> None:
    """Start a daemon in the background; returns when the mount is live. Raises MountError."""
    receive, report = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = EX_INTERNAL
        try:
            os.close(receive)
            status = _background(request, report, verbose)
        finally:
            os._exit(status)
    os.close(report)
    with open(receive, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            kind, text = line[:1], line[1:].rstrip("\n")
            if kind == "L":
                narrate(text)
            elif kind == "R":
                return
            elif kind == "E":
                os.waitpid(pid, 0)
                status_text, _, message = text.partition(" ")
                raise MountError(message, int(status_text))
    os.waitpid(pid, 0)
    raise MountError(f"gfs2d for {request.source} died before the mount was live", EX_INTERNAL)


def make_request(source: str, target: str, options: MountOptions) -> MountRequest:
    """Check source and mount point as far as it goes without opening them. Raises MountError."""
    given, source, shown = source, followed(source), ""
    if is_url(source):
        from gfs2py.block.iscsi_url import UrlError, parse_url

        try:
            source = str(parse_url(source))
            # As it was named, so that umount(8) finds it by that name: it cannot follow such a link.
            shown = "" if is_url(given) else os.path.abspath(given)
        except UrlError as e:
            raise MountError(f"{e.filename}: {e.strerror}", EX_USAGE) from None
    elif os.path.exists(source):
        source = os.path.realpath(source)
        mode = os.stat(source).st_mode
        if not stat.S_ISBLK(mode) and not stat.S_ISREG(mode):
            raise MountError(f"{source} is neither a block device nor an image file")
    elif options.type != "null":
        raise MountError(f"{source}: no such device or image")
    try:
        mode = os.stat(target).st_mode
    except OSError as e:
        raise MountError(f"mount point {target}: {e.strerror}") from None
    if not stat.S_ISDIR(mode):
        raise MountError(f"mount point {target} is not a directory")
    return MountRequest(source, os.path.realpath(target), options, shown)


def _arguments(argv: Sequence[str] | None) -> tuple[bool, bool, list[str], str, str]:
    """Foreground, verbose, options, source and target; argparse only for what is not plain. Raises SystemExit."""
    plain = words.split(list(sys.argv[1:] if argv is None else argv), "fv", "o")
    if plain is not None and len(plain[1]) == 2:
        found, (source, target) = plain
        return "f" in found, "v" in found, found.get("o", []), source, target
    import argparse

    parser = argparse.ArgumentParser(prog="gfs2d", description="serve one GFS2 mount")
    parser.add_argument("-f", "--foreground", action="store_true", help="stay here, log to stderr")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell what is done")
    parser.add_argument("-o", "--options", action="append", default=[], help="mount options")
    parser.add_argument("source", metavar="DEVICE-or-IMAGE")
    parser.add_argument("target", metavar="DIRECTORY")
    args = parser.parse_args(argv)
    return args.foreground, args.verbose, args.options, args.source, args.target


def main(argv: Sequence[str] | None = None) -> int:
    """The command gfs2d."""
    try:
        foreground, verbose, options, source, target = _arguments(argv)
    except SystemExit as e:
        return EX_USAGE if e.code else 0
    try:
        request = make_request(source, target, parse_options(*options))
        if not foreground:
            launch(request, verbose)
            return 0

        def narrate(text: str) -> None:
            if verbose:
                print(text, flush=True)

        return serve(request, True, narrate, lambda: None)
    except OptionError as e:
        print(f"gfs2d: {e}", file=sys.stderr)
        return EX_USAGE
    except MountError as e:
        print(f"gfs2d: {e}", file=sys.stderr)
        return e.status


if __name__ == "__main__":
    sys.exit(main())
