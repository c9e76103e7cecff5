"""A halted processor takes long to wake; while requests come one after the other, idle ones are asked to poll instead.

Client and daemon wake each other twice per request, and each time the other's processor has just gone idle. On a
virtual machine that means an exit to the hypervisor and back: 60 to 80 us where the request itself takes 10. Whoever
holds /dev/cpu_dma_latency open with a latency of 0 written to it (Documentation/power/pm_qos_interface.rst) keeps idle
processors from halting. It costs power, so it is held only while most of the last ticks saw requests, and is given
back as soon as they stop. Opening and closing wake all idle processors: hence the distance between the two limits, and
only the sentinel does it, never a thread that serves.
"""
from libc.errno cimport EINTR
from libc.stdint cimport int32_t, uint64_t

from gfs2py.fuse._state cimport session
from gfs2py.fuse._sys cimport O_CLOEXEC, O_WRONLY, close, errno, fz_bump, now_ns, open, write

cdef enum:
    BUSY_REQUESTS = 2           # a tick with as many is a busy one
    TAKE_WINDOW = 0xff          # the last 8 ticks
    TAKE_TICKS = 6              # as many busy ones among them: take
    KEEP_WINDOW = 0xffffff      # the last 24 ticks
    KEEP_TICKS = 5              # fewer busy ones among them: give back

cdef extern from *:
    """
    #define fz_ones(v) __builtin_popcount(v)
    """
    int fz_ones(unsigned int v) noexcept nogil


cdef void take(session* se) noexcept nogil:
    """Once refused, it is not tried again: no such device (a container), or no right to it."""
    cdef int32_t latency_us = 0
    cdef int fd = open("/dev/cpu_dma_latency", O_WRONLY | O_CLOEXEC)
    if fd < 0:
        se.idle_poll = errno == EINTR
        return
    if write(fd, &latency_us, sizeof(latency_us)) != sizeof(latency_us):
        close(fd)
        se.idle_poll = False
        return
    se.idle_since_ns = now_ns()
    fz_bump(&se.n_idle_polls, 1)
    se.idle_fd = fd


cdef void idle_poll_release(session* se) noexcept nogil:
    se.idle_history = 0
    if se.idle_fd < 0:
        return
    close(se.idle_fd)
    se.idle_fd = -1
    fz_bump(&se.idle_ns, now_ns() - se.idle_since_ns)


cdef void idle_poll_tick(session* se, uint64_t served) noexcept nogil:
    if not se.idle_poll:
        return
    se.idle_history = (se.idle_history << 1) | (1 if served >= BUSY_REQUESTS else 0)
    if se.idle_fd < 0:
        if fz_ones(se.idle_history & TAKE_WINDOW) >= TAKE_TICKS:
            take(se)
    elif fz_ones(se.idle_history & KEEP_WINDOW) < KEEP_TICKS:
        idle_poll_release(se)
