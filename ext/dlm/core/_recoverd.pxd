"""The course of recovery: phases, barriers, questions to other nodes and their repetition.

    STOPPED -> PING -> NODES -> NAMES -> DIR -> MASTERS -> LOCKS -> LOCKS_WAIT -> DONE_WAIT -> RUNNING
       ^         |       |        |       |       |          |          |             |           |
       +---------+-------+--------+-------+-------+----------+----------+-------------+-----------+   stop()

Each step waits until all members have come as far: the node with the lowest id asks all others for their status, the
others ask that one. Whoever calls stop and start sees to it that every member has stopped before any starts.
Source: fs/dlm/recoverd.c, rcom.c and member.c, kernel 6.1.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t
from dlm.core._engine cimport dlm_ls, dlm_node
from dlm.core._wire cimport wrcom

cdef void recovery_stop(dlm_ls* ls) noexcept nogil
# 0; -EINVAL: bad nodes, or not stopped.
cdef int recovery_start(dlm_ls* ls, const dlm_node* nodes, uint32_t n, const int32_t* left,
                        uint32_t n_left) noexcept nogil
cdef void receive_rcom(dlm_ls* ls, const wrcom* rc) noexcept nogil
cdef void recovery_tick(dlm_ls* ls) noexcept nogil
# When recovery_tick has something to do; 0: never.
cdef int64_t recovery_timer(const dlm_ls* ls) noexcept nogil
