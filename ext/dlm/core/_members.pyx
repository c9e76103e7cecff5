"""Membership of a lockspace."""
from libc.stdlib cimport calloc, free
from libc.string cimport memmove, memset
from dlm.core._base cimport E_INVAL, E_NOMEM, E_PROTO
from dlm.core._engine cimport EV_RECOVER_SLOT, NODES_MAX, WEIGHT_MAX, dlm_event
from dlm.core._send cimport drop_packets
from dlm.core._table cimport add_event, ls_break
from dlm.core._wire cimport CONFIG_SIZE, SLOT_SIZE, wire_get_slot
from libc.stdint cimport uint16_t, uint64_t

cdef enum:
    SLOTS_MAX = 256
    GONE_MAX = 128


cdef dlm_member* find_member(dlm_ls* ls, int32_t nodeid) noexcept nogil:
    cdef uint32_t i
    for i in range(ls.n_members):
        if ls.members[i].nodeid == nodeid:
            return &ls.members[i]
    return NULL


cdef bint is_removed(const dlm_ls* ls, int32_t nodeid, uint64_t seq) noexcept nogil:
    cdef uint32_t i
    for i in range(ls.n_gone):
        if ls.gone[i].nodeid == nodeid:
            return ls.gone[i].gone_seq > seq
    return False


cdef int check_nodes(const dlm_ls* ls, const dlm_node* nodes, uint32_t n) noexcept nogil:
    cdef uint32_t i, j
    cdef bint we = False
    if n < 1 or n > NODES_MAX:
        return -E_INVAL
    for i in range(n):
        if nodes[i].nodeid <= 0 or nodes[i].weight < 0 or nodes[i].weight > WEIGHT_MAX:
            return -E_INVAL
        for j in range(i):
            if nodes[j].nodeid == nodes[i].nodeid:
                return -E_INVAL
        we = we or nodes[i].nodeid == ls.our_nodeid
    return 0 if we else -E_INVAL


cdef const dlm_node* find_node(const dlm_node* nodes, uint32_t n, int32_t nodeid) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if nodes[i].nodeid == nodeid:
            return &nodes[i]
    return NULL


cdef void remove_member(dlm_ls* ls, uint32_t at, bint failed) noexcept nogil:
    cdef dlm_event* ev
    cdef dlm_member* memb = &ls.members[at]
    cdef uint32_t i = 0
    if failed:
        ev = add_event(ls, EV_RECOVER_SLOT, 0)
        if ev != NULL:
            ev.nodeid = memb.nodeid
            # A recovery that was broken off may not have learnt it anew.
            ev.slot = memb.slot if memb.slot > 0 else memb.slot_prev
    drop_packets(ls, memb.nodeid)
    while i < ls.n_gone and ls.gone[i].nodeid != memb.nodeid:
        i += 1
    if i == GONE_MAX:
        ls_break(ls, E_NOMEM)
        return
    if i == ls.n_gone:
        ls.n_gone += 1
    ls.gone[i] = memb[0]
    ls.gone[i].gone_seq = ls.recover_seq
    memmove(memb, memb + 1, (ls.n_members - at - 1) * sizeof(dlm_member))
    ls.n_members -= 1


cdef void add_member(dlm_ls* ls, const dlm_node* node) noexcept nogil:
    """In order of the node ids: the directory of all nodes must be the same."""
    cdef uint32_t at = 0
    cdef dlm_member* memb
    while at < ls.n_members and ls.members[at].nodeid < node.nodeid:
        at += 1
    memb = &ls.members[at]
    memmove(memb + 1, memb, (ls.n_members - at) * sizeof(dlm_member))
    memset(memb, 0, sizeof(dlm_member))
    memb.nodeid = node.nodeid
    memb.weight = node.weight
    memb.comm_seq = node.comm_seq
    ls.n_members += 1


cdef void make_node_array(dlm_ls* ls) noexcept nogil:
    """Each member as often as it weighs; once each if none weighs anything."""
    cdef uint32_t i, at = 0, total = 0
    cdef int j, times
    cdef bint equal
    for i in range(ls.n_members):
        total += <uint32_t>ls.members[i].weight
    equal = total == 0
    if equal:
        total = ls.n_members
    free(ls.node_array)
    ls.node_array = <int32_t*>calloc(total, sizeof(int32_t))
    ls.total_weight = total
    if ls.node_array == NULL:
        ls.total_weight = 0
        ls_break(ls, E_NOMEM)
        return
    for i in range(ls.n_members):
        times = 1 if equal else ls.members[i].weight
        for j in range(times):
            ls.node_array[at] = ls.members[i].nodeid
            at += 1


cdef bint among(const int32_t* nodeids, uint32_t n, int32_t nodeid) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if nodeids[i] == nodeid:
            return True
    return False


cdef int change_members(dlm_ls* ls, const dlm_node* nodes, uint32_t n, const int32_t* left,
                        uint32_t n_left) noexcept nogil:
    cdef uint32_t i = 0
    cdef const dlm_node* node
    cdef int losses = <int>ls.n_gone
    while i < ls.n_members:
        node = find_node(nodes, n, ls.members[i].nodeid)
        if node == NULL or node.comm_seq != ls.members[i].comm_seq:
            losses += 1
            # Away and back again is a failure too.
            remove_member(ls, i, node != NULL or not among(left, n_left, ls.members[i].nodeid))
        else:
            ls.members[i].weight = node.weight
            i += 1
    for i in range(n):
        if find_member(ls, nodes[i].nodeid) == NULL:
            add_member(ls, &nodes[i])
    ls.low_nodeid = ls.members[0].nodeid
    make_node_array(ls)
    return losses


cdef int assign_slots(dlm_ls* ls) noexcept nogil:
    cdef dlm_member* memb
    cdef uint32_t i, at
    cdef uint32_t generation = 0
    cdef int32_t highest = 0
    cdef int32_t need = 0
    memb = find_member(ls, ls.our_nodeid)
    memb.slot = ls.our_slot
    memb.generation = ls.generation
    for i in range(ls.n_members):
        memb = &ls.members[i]
        if memb.generation > generation:
            generation = memb.generation
        # A node's slot stays the same as long as it is a member.
        if memb.slot < 0 or (memb.slot_prev and memb.slot and memb.slot_prev != memb.slot):
            return -1
        if memb.slot > highest:
            highest = memb.slot
        if memb.slot == 0:
            need += 1
        memb.slot_prev = memb.slot
    if highest + need > SLOTS_MAX:
        return -1
    memset(ls.slots, 0, sizeof(ls.slots))
    for i in range(ls.n_members):
        memb = &ls.members[i]
        if memb.slot:
            if ls.slots[memb.slot - 1].nodeid:
                return -1
            ls.slots[memb.slot - 1].nodeid = memb.nodeid
            ls.slots[memb.slot - 1].slot = memb.slot
    for i in range(ls.n_members):
        memb = &ls.members[i]
        if memb.slot == 0:
            at = 0
            while ls.slots[at].nodeid:
                at += 1
            memb.slot = <int32_t>at + 1
            memb.slot_prev = memb.slot
            ls.slots[at].nodeid = memb.nodeid
            ls.slots[at].slot = memb.slot
            if memb.nodeid == ls.our_nodeid:
                ls.our_slot = memb.slot
    ls.generation = generation + 1
    ls.num_slots = ls.n_members
    ls.slots_size = <uint32_t>(highest + need)
    return 0


cdef int copy_slots(dlm_ls* ls, const wrcom* rc) noexcept nogil:
    cdef uint32_t i, nodeid
    cdef uint16_t slot
    cdef dlm_member* memb
    ls.generation = rc.config.generation
    if rc.config.num_slots == 0:
        return 0
    for i in range(ls.n_members):
        ls.members[i].slot = 0
    for i in range(rc.config.num_slots):
        wire_get_slot(rc.buf + CONFIG_SIZE + i * SLOT_SIZE, &nodeid, &slot)
        memb = find_member(ls, <int32_t>nodeid)
        if memb != NULL:
            memb.slot = slot
            memb.slot_prev = slot
    memb = find_member(ls, ls.our_nodeid)
    if ls.our_slot and ls.our_slot != memb.slot:
        return -E_PROTO
    ls.our_slot = memb.slot
    for i in range(ls.n_members):
        if ls.members[i].slot == 0:
            return -E_PROTO
    return 0
