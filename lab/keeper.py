"""The one process of a room that lives on the host: starts the room, outlives it, and tidies up after it.

    python -m lab.keeper DIRECTORY

Its standard input is the leash, a pipe from whoever builds the room: one byte "k" means keep (a room for a person);
the end of the pipe without it means that the builder is gone, and the room goes with it, files and all. A room whose
pid 1 dies by itself loses its loop devices and cgroups at once; its files stay for reading until `lab down`.

The other way round: the room's pid 1 is killed by the kernel when the keeper dies, see remains.py.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import traceback

from lab import remains, syscalls
from lab.errors import LabError
from lab.place import Place, process

KEEP = b"k"


def _child(place: Place, told: int, notify: int) -> int:
    """Pid 1 of the room. Waits until the keeper has written down who it is: an unknown one does nothing."""
    syscalls.die_with_parent(signal.SIGKILL)
    if os.read(told, 1) != KEEP:
        return 1
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    from lab import room  # loads trio

    return room.main(place, notify)


def _fork(place: Place, notify: int) -> tuple[int, int]:
    """The room's pid 1 and the pipe that lets it go."""
    told, tell = os.pipe()
    syscalls.unshare(syscalls.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(tell)
            status = _child(place, told, notify)
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(told)
    return pid, tell


def _watch(place: Place, pid: int, leash: int) -> bool:
    """Until the room ends and nobody holds the leash; whether the builder wanted the room kept.

    A room that ends before its builder, or one that was to be kept, leaves its files for reading.
    """
    room = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(room, select.POLLIN)
    poll.register(leash, select.POLLIN)
    running, kept = True, False
    while running or not kept:
        for fd, _ in poll.poll():
            poll.unregister(fd)
            if fd == leash:
                kept = os.read(leash, 1) == KEEP
                if not kept:
                    return False
            else:
                running = False
                os.waitpid(pid, 0)
                with contextlib.suppress(OSError):
                    remains.release_kernel_objects(place)
    return True


def main(argv: list[str]) -> int:
    directory, notify = argv[0], int(argv[1])
    base, name = os.path.split(directory)
    place = Place(name, base)
    syscalls.set_name("lab-keeper")
    leash = os.dup(0)
    os.set_inheritable(leash, False)
    me = process(os.getpid())
    place.record(me)
    pid, tell = _fork(place, notify)
    os.close(notify)
    place.record(me, process(pid))
    os.write(tell, KEEP)
    # From here on nothing may be forked: the room's end is that of the pid namespace for children.
    if _watch(place, pid, leash):
        return 0
    with place.locked():
        try:
            remains.clean(place)
        except (LabError, OSError) as e:
            print(f"lab: {e}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
