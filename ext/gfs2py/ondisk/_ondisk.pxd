"""The on-disk structures as C: taken from the kernel's own uapi header, everything big-endian.

Read a field with be64toh(s.field), write it with htobe64(). The same structures as data, for printing and
checking, stand in gfs2py/ondisk/spec.py; a test holds the two against each other.
Source: include/uapi/linux/gfs2_ondisk.h
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<endian.h>" nogil:
    uint16_t be16toh(uint16_t v)
    uint32_t be32toh(uint32_t v)
    uint64_t be64toh(uint64_t v)
    uint16_t htobe16(uint16_t v)
    uint32_t htobe32(uint32_t v)
    uint64_t htobe64(uint64_t v)

cdef extern from "<linux/gfs2_ondisk.h>" nogil:
    enum:
        GFS2_MAGIC, GFS2_BASIC_BLOCK, GFS2_BASIC_BLOCK_SHIFT, GFS2_SB_ADDR, GFS2_LOCKNAME_LEN
        GFS2_MOUNT_LOCK, GFS2_LIVE_LOCK, GFS2_FREEZE_LOCK, GFS2_RENAME_LOCK, GFS2_CONTROL_LOCK, GFS2_MOUNTED_LOCK
        GFS2_FORMAT_NONE, GFS2_FORMAT_SB, GFS2_FORMAT_RG, GFS2_FORMAT_RB, GFS2_FORMAT_DI, GFS2_FORMAT_IN
        GFS2_FORMAT_LF, GFS2_FORMAT_JD, GFS2_FORMAT_LH, GFS2_FORMAT_LD, GFS2_FORMAT_LB, GFS2_FORMAT_EA
        GFS2_FORMAT_ED, GFS2_FORMAT_QC, GFS2_FORMAT_RI, GFS2_FORMAT_DE, GFS2_FORMAT_QU, GFS2_FORMAT_FS
        GFS2_FORMAT_MULTI
        GFS2_METATYPE_NONE, GFS2_METATYPE_SB, GFS2_METATYPE_RG, GFS2_METATYPE_RB, GFS2_METATYPE_DI
        GFS2_METATYPE_IN, GFS2_METATYPE_LF, GFS2_METATYPE_JD, GFS2_METATYPE_LH, GFS2_METATYPE_LD
        GFS2_METATYPE_LB, GFS2_METATYPE_EA, GFS2_METATYPE_ED, GFS2_METATYPE_QC
        GFS2_NBBY, GFS2_BIT_SIZE, GFS2_BIT_MASK
        GFS2_BLKST_FREE, GFS2_BLKST_USED, GFS2_BLKST_UNLINKED, GFS2_BLKST_DINODE
        GFS2_RGF_JOURNAL, GFS2_RGF_METAONLY, GFS2_RGF_DATAONLY, GFS2_RGF_NOALLOC, GFS2_RGF_TRIMMED
        GFS2_MAX_META_HEIGHT, GFS2_DIR_MAX_DEPTH
        GFS2_DIF_JDATA, GFS2_DIF_EXHASH, GFS2_DIF_EA_INDIRECT, GFS2_DIF_DIRECTIO, GFS2_DIF_IMMUTABLE
        GFS2_DIF_APPENDONLY, GFS2_DIF_NOATIME, GFS2_DIF_SYNC, GFS2_DIF_SYSTEM, GFS2_DIF_TOPDIR
        GFS2_DIF_TRUNC_IN_PROG, GFS2_DIF_INHERIT_DIRECTIO
        GFS2_FNAMESIZE
        GFS2_EA_MAX_NAME_LEN, GFS2_EA_MAX_DATA_LEN
        GFS2_EATYPE_UNUSED, GFS2_EATYPE_USR, GFS2_EATYPE_SYS, GFS2_EATYPE_SECURITY, GFS2_EATYPE_TRUSTED
        GFS2_EATYPE_LAST, GFS2_EAFLAG_LAST
        GFS2_LOG_HEAD_UNMOUNT, GFS2_LOG_HEAD_FLUSH_NORMAL, GFS2_LOG_HEAD_FLUSH_SYNC
        GFS2_LOG_HEAD_FLUSH_SHUTDOWN, GFS2_LOG_HEAD_FLUSH_FREEZE, GFS2_LOG_HEAD_RECOVERY
        GFS2_LFC_SHUTDOWN, GFS2_LFC_DO_SYNC, GFS2_LFC_SYNC_FS, GFS2_LFC_INPLACE_RESERVE, GFS2_LFC_MAKE_FS_RO
        GFS2_LFC_AIL_EMPTY_GL, GFS2_LFC_AIL_FLUSH, GFS2_LFC_LOGD_JFLUSH_REQD, GFS2_LFC_LOGD_AIL_FLUSH_REQD
        GFS2_LFC_TRANS_END, GFS2_LFC_KILL_SB, GFS2_LFC_WRITE_INODE, GFS2_LFC_INODE_GO_SYNC, GFS2_LFC_RGRP_GO_SYNC
        GFS2_LFC_FREEZE_GO_SYNC
        GFS2_LOG_DESC_METADATA, GFS2_LOG_DESC_REVOKE, GFS2_LOG_DESC_JDATA
        GFS2_QCF_USER

    uint32_t GFS2_DIF_INHERIT_JDATA
    uint32_t GFS2_LOG_HEAD_USERSPACE

    struct gfs2_inum:
        uint64_t no_formal_ino
        uint64_t no_addr
    struct gfs2_meta_header:
        uint32_t mh_magic
        uint32_t mh_type
        uint32_t mh_format
        uint32_t mh_jid
    struct gfs2_sb:
        gfs2_meta_header sb_header
        uint32_t sb_fs_format
        uint32_t sb_multihost_format
        uint32_t sb_bsize
        uint32_t sb_bsize_shift
        gfs2_inum sb_master_dir
        gfs2_inum sb_root_dir
        char sb_lockproto[64]
        char sb_locktable[64]
        uint8_t sb_uuid[16]
    struct gfs2_rindex:
        uint64_t ri_addr
        uint32_t ri_length
        uint64_t ri_data0
        uint32_t ri_data
        uint32_t ri_bitbytes
    struct gfs2_inode_lvb:
        uint32_t ri_magic
        uint64_t ri_generation_deleted
    struct gfs2_rgrp_lvb:
        uint32_t rl_magic
        uint32_t rl_flags
        uint32_t rl_free
        uint32_t rl_dinodes
        uint64_t rl_igeneration
        uint32_t rl_unlinked
    struct gfs2_rgrp:
        gfs2_meta_header rg_header
        uint32_t rg_flags
        uint32_t rg_free
        uint32_t rg_dinodes
        uint32_t rg_skip
        uint64_t rg_igeneration
        uint64_t rg_data0
        uint32_t rg_data
        uint32_t rg_bitbytes
        uint32_t rg_crc
    struct gfs2_quota:
        uint64_t qu_limit
        uint64_t qu_warn
        uint64_t qu_value
    struct gfs2_dinode:
        gfs2_meta_header di_header
        gfs2_inum di_num
        uint32_t di_mode
        uint32_t di_uid
        uint32_t di_gid
        uint32_t di_nlink
        uint64_t di_size
        uint64_t di_blocks
        uint64_t di_atime
        uint64_t di_mtime
        uint64_t di_ctime
        uint32_t di_major
        uint32_t di_minor
        uint64_t di_goal_meta
        uint64_t di_goal_data
        uint64_t di_generation
        uint32_t di_flags
        uint32_t di_payload_format
        uint16_t di_height
        uint16_t di_depth
        uint32_t di_entries
        uint64_t di_eattr
        uint32_t di_atime_nsec
        uint32_t di_mtime_nsec
        uint32_t di_ctime_nsec
    struct gfs2_dirent:
        gfs2_inum de_inum
        uint32_t de_hash
        uint16_t de_rec_len
        uint16_t de_name_len
        uint16_t de_type
        uint16_t de_rahead
    struct gfs2_leaf:
        gfs2_meta_header lf_header
        uint16_t lf_depth
        uint16_t lf_entries
        uint32_t lf_dirent_format
        uint64_t lf_next
        uint64_t lf_inode
        uint32_t lf_dist
        uint32_t lf_nsec
        uint64_t lf_sec
    struct gfs2_ea_header:
        uint32_t ea_rec_len
        uint32_t ea_data_len
        uint8_t ea_name_len
        uint8_t ea_type
        uint8_t ea_flags
        uint8_t ea_num_ptrs
    struct gfs2_log_header:
        gfs2_meta_header lh_header
        uint64_t lh_sequence
        uint32_t lh_flags
        uint32_t lh_tail
        uint32_t lh_blkno
        uint32_t lh_hash
        uint32_t lh_crc
        uint32_t lh_nsec
        uint64_t lh_sec
        uint64_t lh_addr
        uint64_t lh_jinode
        uint64_t lh_statfs_addr
        uint64_t lh_quota_addr
        uint64_t lh_local_total
        uint64_t lh_local_free
        uint64_t lh_local_dinodes
    struct gfs2_log_descriptor:
        gfs2_meta_header ld_header
        uint32_t ld_type
        uint32_t ld_length
        uint32_t ld_data1
        uint32_t ld_data2
    struct gfs2_inum_range:
        uint64_t ir_start
        uint64_t ir_length
    struct gfs2_statfs_change:
        uint64_t sc_total
        uint64_t sc_free
        uint64_t sc_dinodes
    struct gfs2_quota_change:
        uint64_t qc_change
        uint32_t qc_flags
        uint32_t qc_id

    struct gfs2_quota_lvb:
        uint32_t qb_magic
        uint64_t qb_limit
        uint64_t qb_warn
        uint64_t qb_value

# LH_V1_SIZE of the header: the bytes of a log header that lh_hash covers, up to and with lh_hash itself
cdef enum:
    GFS2_LH_V1_SIZE = 48
    GFS2_SB_BYTE_ADDR = 65536
    # sizes on disk, for arithmetic in constant expressions
    SIZEOF_META_HEADER = 24
    SIZEOF_DINODE = 232
    SIZEOF_LEAF = 104
    SIZEOF_DIRENT = 40
    SIZEOF_RGRP = 128
    SIZEOF_LOG_DESCRIPTOR = 72
    SIZEOF_EA_HEADER = 16
    SIZEOF_RINDEX = 96
    SIZEOF_QUOTA = 88
