"""The mount system calls that Python's os module lacks, and the process title."""
import os

from libc.stdint cimport uint64_t, uintptr_t
from libc.string cimport memcpy, memset

cdef extern from "<malloc.h>" nogil:
    int M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    int mallopt(int param, int value)

cdef enum:
    LARGE_BYTES = 512 << 10

cdef extern from *:
    """
    #include <errno.h>
    #include <sched.h>
    #include <signal.h>
    #include <sys/mount.h>
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #ifndef SYS_move_mount
    #define SYS_move_mount 429
    #define SYS_fsopen 430
    #define SYS_fsconfig 431
    #define SYS_fsmount 432
    #endif
    static int gm_fsopen(const char *type) { return (int)syscall(SYS_fsopen, type, 1); }
    static int gm_fsconfig(int fd, unsigned cmd, const char *k, const char *v)
    { return (int)syscall(SYS_fsconfig, fd, cmd, k, v, 0); }
    static int gm_fsmount(int fd, unsigned attr) { return (int)syscall(SYS_fsmount, fd, 1, attr); }
    static int gm_move_mount(int from, const char *to)
    { return (int)syscall(SYS_move_mount, from, "", -100, to, 4 /* empty from path */); }
    static int gm_set_name(const char *n) { return prctl(PR_SET_NAME, (unsigned long)n, 0, 0, 0); }
    static int gm_set_pdeathsig(int s) { return prctl(PR_SET_PDEATHSIG, (unsigned long)s, 0, 0, 0); }
    static int gm_forward_to = -1;
    static void gm_forward(int number)
    { int e = errno; unsigned char n = (unsigned char)number; if (write(gm_forward_to, &n, 1) < 0) {} errno = e; }
    static int gm_handle(int number, int fd)
    {
        struct sigaction a;
        sigemptyset(&a.sa_mask);
        a.sa_flags = SA_RESTART;
        a.sa_handler = fd < 0 ? SIG_IGN : gm_forward;
        if (fd >= 0)
            gm_forward_to = fd;
        return sigaction(number, &a, NULL);
    }
    static void gm_stop_forwarding(void) { gm_forward_to = -1; }
    """
    int errno
    int c_SIGHUP "SIGHUP"
    int c_SIGINT "SIGINT"
    int c_SIGKILL "SIGKILL"
    int c_SIGPIPE "SIGPIPE"
    int c_SIGTERM "SIGTERM"
    int c_mount "mount"(const char* source, const char* target, const char* fstype, unsigned long flags,
                        const void* data) nogil
    int c_umount2 "umount2"(const char* target, int flags) nogil
    int c_unshare "unshare"(int flags) nogil
    int gm_fsopen(const char* type) nogil
    int gm_fsconfig(int fd, unsigned int cmd, const char* k, const char* v) nogil
    int gm_fsmount(int fd, unsigned int attr) nogil
    int gm_move_mount(int source, const char* to) nogil
    int gm_set_name(const char* n) nogil
    int gm_set_pdeathsig(int s) nogil
    int gm_handle(int number, int fd) nogil
    void gm_stop_forwarding() nogil

# Python's signal module takes longer to load than a mount to make.
SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGTERM = c_SIGHUP, c_SIGINT, c_SIGKILL, c_SIGPIPE, c_SIGTERM


cdef object fail(int err, str what):
    return OSError(err, f"{what}: {os.strerror(err)}")


def mount(bytes source not None, bytes target not None, bytes fstype not None, unsigned long flags,
          bytes data not None):
    """mount(2). Raises OSError."""
    cdef const char* s = source
    cdef const char* t = target
    cdef const char* f = fstype
    cdef const char* d = data
    cdef int err = 0
    with nogil:
        if c_mount(s, t, f, flags, d) < 0:
            err = errno
    if err:
        raise fail(err, "mount")


def umount(bytes target not None, int flags=0):
    """umount2(2). Raises OSError."""
    cdef const char* t = target
    cdef int err = 0
    with nogil:
        if c_umount2(t, flags) < 0:
            err = errno
    if err:
        raise fail(err, "umount")


def unshare(int flags):
    """unshare(2) for the calling thread."""
    if c_unshare(flags) < 0:
        raise fail(errno, "unshare")


def fsopen(bytes fstype not None):
    """fsopen(2), close-on-exec: a configuration descriptor."""
    cdef int fd = gm_fsopen(fstype)
    if fd < 0:
        raise fail(errno, "fsopen")
    return fd


def fsconfig_flag(int fd, bytes key not None):
    """Set a flag option of a file system being configured."""
    if gm_fsconfig(fd, 0, key, NULL) < 0:
        raise fail(errno, f"option {key.decode()}")


def fsconfig_string(int fd, bytes key not None, bytes value not None):
    """Set an option with a value."""
    if gm_fsconfig(fd, 1, key, value) < 0:
        raise fail(errno, f"option {key.decode()}")


def fsconfig_create(int fd):
    """Make the superblock; paths among the options are looked up here, in the caller's mount namespace."""
    cdef int err = 0
    with nogil:
        if gm_fsconfig(fd, 6, NULL, NULL) < 0:
            err = errno
    if err:
        raise fail(err, "creating the superblock")


def fsmount(int fd, unsigned int attributes):
    """fsmount(2): a detached mount as a descriptor; attributes are MOUNT_ATTR_*."""
    cdef int m = gm_fsmount(fd, attributes)
    if m < 0:
        raise fail(errno, "fsmount")
    return m


def move_mount(int mount_fd, bytes target not None):
    """Attach a detached mount to the tree."""
    if gm_move_mount(mount_fd, target) < 0:
        raise fail(errno, "attaching the mount")


def set_process_name(bytes name not None):
    """The name of this thread as ps shows it (at most 15 bytes)."""
    gm_set_name(name)


def give_back_large_blocks():
    """What is freed in large pieces goes back to the system at once.

    By default glibc's malloc stops doing so for sizes that were freed once (mallopt(3), M_MMAP_THRESHOLD): tables that
    grew and shrank, and slabs of the cache, leave holes in the heaps of all threads.
    """
    mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
    mallopt(M_TRIM_THRESHOLD, 4 * LARGE_BYTES)


def set_parent_death_signal(int signal):
    """Get this signal when the parent process dies; 0 for none."""
    gm_set_pdeathsig(signal)


def ignore_signal(int number):
    """From now on this signal does nothing."""
    if gm_handle(number, -1) < 0:
        raise fail(errno, f"signal {number}")


def forward_signals(numbers, int fd):
    """From now on each of these signals writes one byte, its number, to `fd`, which does not block."""
    for number in numbers:
        if gm_handle(number, fd) < 0:
            raise fail(errno, f"signal {number}")


def stop_forwarding():
    """Before the descriptor is closed: signals do nothing from here on."""
    gm_stop_forwarding()


def set_process_title(list argv not None):
    """Overwrite the command line that /proc shows with these words (bytes), as far as there is room for them."""
    cdef uintptr_t start, end
    cdef bytes text = b"\0".join(argv) + b"\0"
    with open("/proc/self/stat", "rb") as f:
        fields = f.read().rpartition(b")")[2].split()
    start = int(fields[45])
    end = int(fields[46])
    if start == 0 or end <= start:
        return
    text = text[:end - start - 1]
    memset(<void*>start, 0, end - start)
    memcpy(<void*>start, <const char*>text, len(text))
