"""Offsets and sizes of the C structures and the numbers of the C header, for the test that holds the table to them."""
from gfs2py.ondisk cimport _ondisk as d


cdef tuple place(const void* base, const void* field, size_t width):
    return (<size_t>field - <size_t>base, width)



cdef dict inum_fields():
    cdef d.gfs2_inum s
    return {
        "no_formal_ino": place(&s, &s.no_formal_ino, sizeof(s.no_formal_ino)),
        "no_addr": place(&s, &s.no_addr, sizeof(s.no_addr)),
    }


cdef dict meta_header_fields():
    cdef d.gfs2_meta_header s
    return {
        "mh_magic": place(&s, &s.mh_magic, sizeof(s.mh_magic)),
        "mh_type": place(&s, &s.mh_type, sizeof(s.mh_type)),
        "mh_format": place(&s, &s.mh_format, sizeof(s.mh_format)),
        "mh_jid": place(&s, &s.mh_jid, sizeof(s.mh_jid)),
    }


cdef dict sb_fields():
    cdef d.gfs2_sb s
    return {
        "sb_header.mh_magic": place(&s, &s.sb_header.mh_magic, sizeof(s.sb_header.mh_magic)),
        "sb_header.mh_type": place(&s, &s.sb_header.mh_type, sizeof(s.sb_header.mh_type)),
        "sb_header.mh_format": place(&s, &s.sb_header.mh_format, sizeof(s.sb_header.mh_format)),
        "sb_header.mh_jid": place(&s, &s.sb_header.mh_jid, sizeof(s.sb_header.mh_jid)),
        "sb_fs_format": place(&s, &s.sb_fs_format, sizeof(s.sb_fs_format)),
        "sb_multihost_format": place(&s, &s.sb_multihost_format, sizeof(s.sb_multihost_format)),
        "sb_bsize": place(&s, &s.sb_bsize, sizeof(s.sb_bsize)),
        "sb_bsize_shift": place(&s, &s.sb_bsize_shift, sizeof(s.sb_bsize_shift)),
        "sb_master_dir.no_formal_ino": place(&s, &s.sb_master_dir.no_formal_ino, sizeof(s.sb_master_dir.no_formal_ino)),
        "sb_master_dir.no_addr": place(&s, &s.sb_master_dir.no_addr, sizeof(s.sb_master_dir.no_addr)),
        "sb_root_dir.no_formal_ino": place(&s, &s.sb_root_dir.no_formal_ino, sizeof(s.sb_root_dir.no_formal_ino)),
        "sb_root_dir.no_addr": place(&s, &s.sb_root_dir.no_addr, sizeof(s.sb_root_dir.no_addr)),
        "sb_lockproto": place(&s, &s.sb_lockproto, sizeof(s.sb_lockproto)),
        "sb_locktable": place(&s, &s.sb_locktable, sizeof(s.sb_locktable)),
        "sb_uuid": place(&s, &s.sb_uuid, sizeof(s.sb_uuid)),
    }


cdef dict rindex_fields():
    cdef d.gfs2_rindex s
    return {
        "ri_addr": place(&s, &s.ri_addr, sizeof(s.ri_addr)),
        "ri_length": place(&s, &s.ri_length, sizeof(s.ri_length)),
        "ri_data0": place(&s, &s.ri_data0, sizeof(s.ri_data0)),
        "ri_data": place(&s, &s.ri_data, sizeof(s.ri_data)),
        "ri_bitbytes": place(&s, &s.ri_bitbytes, sizeof(s.ri_bitbytes)),
    }


cdef dict inode_lvb_fields():
    cdef d.gfs2_inode_lvb s
    return {
        "ri_magic": place(&s, &s.ri_magic, sizeof(s.ri_magic)),
        "ri_generation_deleted": place(&s, &s.ri_generation_deleted, sizeof(s.ri_generation_deleted)),
    }


cdef dict rgrp_lvb_fields():
    cdef d.gfs2_rgrp_lvb s
    return {
        "rl_magic": place(&s, &s.rl_magic, sizeof(s.rl_magic)),
        "rl_flags": place(&s, &s.rl_flags, sizeof(s.rl_flags)),
        "rl_free": place(&s, &s.rl_free, sizeof(s.rl_free)),
        "rl_dinodes": place(&s, &s.rl_dinodes, sizeof(s.rl_dinodes)),
        "rl_igeneration": place(&s, &s.rl_igeneration, sizeof(s.rl_igeneration)),
        "rl_unlinked": place(&s, &s.rl_unlinked, sizeof(s.rl_unlinked)),
    }


cdef dict rgrp_fields():
    cdef d.gfs2_rgrp s
    return {
        "rg_header.mh_magic": place(&s, &s.rg_header.mh_magic, sizeof(s.rg_header.mh_magic)),
        "rg_header.mh_type": place(&s, &s.rg_header.mh_type, sizeof(s.rg_header.mh_type)),
        "rg_header.mh_format": place(&s, &s.rg_header.mh_format, sizeof(s.rg_header.mh_format)),
        "rg_header.mh_jid": place(&s, &s.rg_header.mh_jid, sizeof(s.rg_header.mh_jid)),
        "rg_flags": place(&s, &s.rg_flags, sizeof(s.rg_flags)),
        "rg_free": place(&s, &s.rg_free, sizeof(s.rg_free)),
        "rg_dinodes": place(&s, &s.rg_dinodes, sizeof(s.rg_dinodes)),
        "rg_skip": place(&s, &s.rg_skip, sizeof(s.rg_skip)),
        "rg_igeneration": place(&s, &s.rg_igeneration, sizeof(s.rg_igeneration)),
        "rg_data0": place(&s, &s.rg_data0, sizeof(s.rg_data0)),
        "rg_data": place(&s, &s.rg_data, sizeof(s.rg_data)),
        "rg_bitbytes": place(&s, &s.rg_bitbytes, sizeof(s.rg_bitbytes)),
        "rg_crc": place(&s, &s.rg_crc, sizeof(s.rg_crc)),
    }


cdef dict quota_fields():
    cdef d.gfs2_quota s
    return {
        "qu_limit": place(&s, &s.qu_limit, sizeof(s.qu_limit)),
        "qu_warn": place(&s, &s.qu_warn, sizeof(s.qu_warn)),
        "qu_value": place(&s, &s.qu_value, sizeof(s.qu_value)),
    }


cdef dict dinode_fields():
    cdef d.gfs2_dinode s
    return {
        "di_header.mh_magic": place(&s, &s.di_header.mh_magic, sizeof(s.di_header.mh_magic)),
        "di_header.mh_type": place(&s, &s.di_header.mh_type, sizeof(s.di_header.mh_type)),
        "di_header.mh_format": place(&s, &s.di_header.mh_format, sizeof(s.di_header.mh_format)),
        "di_header.mh_jid": place(&s, &s.di_header.mh_jid, sizeof(s.di_header.mh_jid)),
        "di_num.no_formal_ino": place(&s, &s.di_num.no_formal_ino, sizeof(s.di_num.no_formal_ino)),
        "di_num.no_addr": place(&s, &s.di_num.no_addr, sizeof(s.di_num.no_addr)),
        "di_mode": place(&s, &s.di_mode, sizeof(s.di_mode)),
        "di_uid": place(&s, &s.di_uid, sizeof(s.di_uid)),
        "di_gid": place(&s, &s.di_gid, sizeof(s.di_gid)),
        "di_nlink": place(&s, &s.di_nlink, sizeof(s.di_nlink)),
        "di_size": place(&s, &s.di_size, sizeof(s.di_size)),
        "di_blocks": place(&s, &s.di_blocks, sizeof(s.di_blocks)),
        "di_atime": place(&s, &s.di_atime, sizeof(s.di_atime)),
        "di_mtime": place(&s, &s.di_mtime, sizeof(s.di_mtime)),
        "di_ctime": place(&s, &s.di_ctime, sizeof(s.di_ctime)),
        "di_major": place(&s, &s.di_major, sizeof(s.di_major)),
        "di_minor": place(&s, &s.di_minor, sizeof(s.di_minor)),
        "di_goal_meta": place(&s, &s.di_goal_meta, sizeof(s.di_goal_meta)),
        "di_goal_data": place(&s, &s.di_goal_data, sizeof(s.di_goal_data)),
        "di_generation": place(&s, &s.di_generation, sizeof(s.di_generation)),
        "di_flags": place(&s, &s.di_flags, sizeof(s.di_flags)),
        "di_payload_format": place(&s, &s.di_payload_format, sizeof(s.di_payload_format)),
        "di_height": place(&s, &s.di_height, sizeof(s.di_height)),
        "di_depth": place(&s, &s.di_depth, sizeof(s.di_depth)),
        "di_entries": place(&s, &s.di_entries, sizeof(s.di_entries)),
        "di_eattr": place(&s, &s.di_eattr, sizeof(s.di_eattr)),
        "di_atime_nsec": place(&s, &s.di_atime_nsec, sizeof(s.di_atime_nsec)),
        "di_mtime_nsec": place(&s, &s.di_mtime_nsec, sizeof(s.di_mtime_nsec)),
        "di_ctime_nsec": place(&s, &s.di_ctime_nsec, sizeof(s.di_ctime_nsec)),
    }


cdef dict dirent_fields():
    cdef d.gfs2_dirent s
    return {
        "de_inum.no_formal_ino": place(&s, &s.de_inum.no_formal_ino, sizeof(s.de_inum.no_formal_ino)),
        "de_inum.no_addr": place(&s, &s.de_inum.no_addr, sizeof(s.de_inum.no_addr)),
        "de_hash": place(&s, &s.de_hash, sizeof(s.de_hash)),
        "de_rec_len": place(&s, &s.de_rec_len, sizeof(s.de_rec_len)),
        "de_name_len": place(&s, &s.de_name_len, sizeof(s.de_name_len)),
        "de_type": place(&s, &s.de_type, sizeof(s.de_type)),
        "de_rahead": place(&s, &s.de_rahead, sizeof(s.de_rahead)),
    }


cdef dict leaf_fields():
    cdef d.gfs2_leaf s
    return {
        "lf_header.mh_magic": place(&s, &s.lf_header.mh_magic, sizeof(s.lf_header.mh_magic)),
        "lf_header.mh_type": place(&s, &s.lf_header.mh_type, sizeof(s.lf_header.mh_type)),
        "lf_header.mh_format": place(&s, &s.lf_header.mh_format, sizeof(s.lf_header.mh_format)),
        "lf_header.mh_jid": place(&s, &s.lf_header.mh_jid, sizeof(s.lf_header.mh_jid)),
        "lf_depth": place(&s, &s.lf_depth, sizeof(s.lf_depth)),
        "lf_entries": place(&s, &s.lf_entries, sizeof(s.lf_entries)),
        "lf_dirent_format": place(&s, &s.lf_dirent_format, sizeof(s.lf_dirent_format)),
        "lf_next": place(&s, &s.lf_next, sizeof(s.lf_next)),
        "lf_inode": place(&s, &s.lf_inode, sizeof(s.lf_inode)),
        "lf_dist": place(&s, &s.lf_dist, sizeof(s.lf_dist)),
        "lf_nsec": place(&s, &s.lf_nsec, sizeof(s.lf_nsec)),
        "lf_sec": place(&s, &s.lf_sec, sizeof(s.lf_sec)),
    }


cdef dict ea_header_fields():
    cdef d.gfs2_ea_header s
    return {
        "ea_rec_len": place(&s, &s.ea_rec_len, sizeof(s.ea_rec_len)),
        "ea_data_len": place(&s, &s.ea_data_len, sizeof(s.ea_data_len)),
        "ea_name_len": place(&s, &s.ea_name_len, sizeof(s.ea_name_len)),
        "ea_type": place(&s, &s.ea_type, sizeof(s.ea_type)),
        "ea_flags": place(&s, &s.ea_flags, sizeof(s.ea_flags)),
        "ea_num_ptrs": place(&s, &s.ea_num_ptrs, sizeof(s.ea_num_ptrs)),
    }


cdef dict log_header_fields():
    cdef d.gfs2_log_header s
    return {
        "lh_header.mh_magic": place(&s, &s.lh_header.mh_magic, sizeof(s.lh_header.mh_magic)),
        "lh_header.mh_type": place(&s, &s.lh_header.mh_type, sizeof(s.lh_header.mh_type)),
        "lh_header.mh_format": place(&s, &s.lh_header.mh_format, sizeof(s.lh_header.mh_format)),
        "lh_header.mh_jid": place(&s, &s.lh_header.mh_jid, sizeof(s.lh_header.mh_jid)),
        "lh_sequence": place(&s, &s.lh_sequence, sizeof(s.lh_sequence)),
        "lh_flags": place(&s, &s.lh_flags, sizeof(s.lh_flags)),
        "lh_tail": place(&s, &s.lh_tail, sizeof(s.lh_tail)),
        "lh_blkno": place(&s, &s.lh_blkno, sizeof(s.lh_blkno)),
        "lh_hash": place(&s, &s.lh_hash, sizeof(s.lh_hash)),
        "lh_crc": place(&s, &s.lh_crc, sizeof(s.lh_crc)),
        "lh_nsec": place(&s, &s.lh_nsec, sizeof(s.lh_nsec)),
        "lh_sec": place(&s, &s.lh_sec, sizeof(s.lh_sec)),
        "lh_addr": place(&s, &s.lh_addr, sizeof(s.lh_addr)),
        "lh_jinode": place(&s, &s.lh_jinode, sizeof(s.lh_jinode)),
        "lh_statfs_addr": place(&s, &s.lh_statfs_addr, sizeof(s.lh_statfs_addr)),
        "lh_quota_addr": place(&s, &s.lh_quota_addr, sizeof(s.lh_quota_addr)),
        "lh_local_total": place(&s, &s.lh_local_total, sizeof(s.lh_local_total)),
        "lh_local_free": place(&s, &s.lh_local_free, sizeof(s.lh_local_free)),
        "lh_local_dinodes": place(&s, &s.lh_local_dinodes, sizeof(s.lh_local_dinodes)),
    }


cdef dict log_descriptor_fields():
    cdef d.gfs2_log_descriptor s
    return {
        "ld_header.mh_magic": place(&s, &s.ld_header.mh_magic, sizeof(s.ld_header.mh_magic)),
        "ld_header.mh_type": place(&s, &s.ld_header.mh_type, sizeof(s.ld_header.mh_type)),
        "ld_header.mh_format": place(&s, &s.ld_header.mh_format, sizeof(s.ld_header.mh_format)),
        "ld_header.mh_jid": place(&s, &s.ld_header.mh_jid, sizeof(s.ld_header.mh_jid)),
        "ld_type": place(&s, &s.ld_type, sizeof(s.ld_type)),
        "ld_length": place(&s, &s.ld_length, sizeof(s.ld_length)),
        "ld_data1": place(&s, &s.ld_data1, sizeof(s.ld_data1)),
        "ld_data2": place(&s, &s.ld_data2, sizeof(s.ld_data2)),
    }


cdef dict inum_range_fields():
    cdef d.gfs2_inum_range s
    return {
        "ir_start": place(&s, &s.ir_start, sizeof(s.ir_start)),
        "ir_length": place(&s, &s.ir_length, sizeof(s.ir_length)),
    }


cdef dict statfs_change_fields():
    cdef d.gfs2_statfs_change s
    return {
        "sc_total": place(&s, &s.sc_total, sizeof(s.sc_total)),
        "sc_free": place(&s, &s.sc_free, sizeof(s.sc_free)),
        "sc_dinodes": place(&s, &s.sc_dinodes, sizeof(s.sc_dinodes)),
    }


cdef dict quota_change_fields():
    cdef d.gfs2_quota_change s
    return {
        "qc_change": place(&s, &s.qc_change, sizeof(s.qc_change)),
        "qc_flags": place(&s, &s.qc_flags, sizeof(s.qc_flags)),
        "qc_id": place(&s, &s.qc_id, sizeof(s.qc_id)),
    }


cdef dict quota_lvb_fields():
    cdef d.gfs2_quota_lvb s
    return {
        "qb_magic": place(&s, &s.qb_magic, sizeof(s.qb_magic)),
        "qb_limit": place(&s, &s.qb_limit, sizeof(s.qb_limit)),
        "qb_warn": place(&s, &s.qb_warn, sizeof(s.qb_warn)),
        "qb_value": place(&s, &s.qb_value, sizeof(s.qb_value)),
    }


def c_layout():
    """{structure: (size, {field: (offset, width)})} as the C compiler sees it."""
    return {
        "gfs2_inum": (sizeof(d.gfs2_inum), inum_fields()),
        "gfs2_meta_header": (sizeof(d.gfs2_meta_header), meta_header_fields()),
        "gfs2_sb": (sizeof(d.gfs2_sb), sb_fields()),
        "gfs2_rindex": (sizeof(d.gfs2_rindex), rindex_fields()),
        "gfs2_inode_lvb": (sizeof(d.gfs2_inode_lvb), inode_lvb_fields()),
        "gfs2_rgrp_lvb": (sizeof(d.gfs2_rgrp_lvb), rgrp_lvb_fields()),
        "gfs2_rgrp": (sizeof(d.gfs2_rgrp), rgrp_fields()),
        "gfs2_quota": (sizeof(d.gfs2_quota), quota_fields()),
        "gfs2_dinode": (sizeof(d.gfs2_dinode), dinode_fields()),
        "gfs2_dirent": (sizeof(d.gfs2_dirent), dirent_fields()),
        "gfs2_leaf": (sizeof(d.gfs2_leaf), leaf_fields()),
        "gfs2_ea_header": (sizeof(d.gfs2_ea_header), ea_header_fields()),
        "gfs2_log_header": (sizeof(d.gfs2_log_header), log_header_fields()),
        "gfs2_log_descriptor": (sizeof(d.gfs2_log_descriptor), log_descriptor_fields()),
        "gfs2_inum_range": (sizeof(d.gfs2_inum_range), inum_range_fields()),
        "gfs2_statfs_change": (sizeof(d.gfs2_statfs_change), statfs_change_fields()),
        "gfs2_quota_change": (sizeof(d.gfs2_quota_change), quota_change_fields()),
        "gfs2_quota_lvb": (sizeof(d.gfs2_quota_lvb), quota_lvb_fields()),
    }



def c_constants():
    """The numbers of the C header by name."""
    return {
        "GFS2_MAGIC": d.GFS2_MAGIC,
        "GFS2_BASIC_BLOCK": d.GFS2_BASIC_BLOCK,
        "GFS2_BASIC_BLOCK_SHIFT": d.GFS2_BASIC_BLOCK_SHIFT,
        "GFS2_SB_ADDR": d.GFS2_SB_ADDR,
        "GFS2_LOCKNAME_LEN": d.GFS2_LOCKNAME_LEN,
        "GFS2_MOUNT_LOCK": d.GFS2_MOUNT_LOCK,
        "GFS2_LIVE_LOCK": d.GFS2_LIVE_LOCK,
        "GFS2_FREEZE_LOCK": d.GFS2_FREEZE_LOCK,
        "GFS2_RENAME_LOCK": d.GFS2_RENAME_LOCK,
        "GFS2_CONTROL_LOCK": d.GFS2_CONTROL_LOCK,
        "GFS2_MOUNTED_LOCK": d.GFS2_MOUNTED_LOCK,
        "GFS2_FORMAT_NONE": d.GFS2_FORMAT_NONE,
        "GFS2_FORMAT_SB": d.GFS2_FORMAT_SB,
        "GFS2_FORMAT_RG": d.GFS2_FORMAT_RG,
        "GFS2_FORMAT_RB": d.GFS2_FORMAT_RB,
        "GFS2_FORMAT_DI": d.GFS2_FORMAT_DI,
        "GFS2_FORMAT_IN": d.GFS2_FORMAT_IN,
        "GFS2_FORMAT_LF": d.GFS2_FORMAT_LF,
        "GFS2_FORMAT_JD": d.GFS2_FORMAT_JD,
        "GFS2_FORMAT_LH": d.GFS2_FORMAT_LH,
        "GFS2_FORMAT_LD": d.GFS2_FORMAT_LD,
        "GFS2_FORMAT_LB": d.GFS2_FORMAT_LB,
        "GFS2_FORMAT_EA": d.GFS2_FORMAT_EA,
        "GFS2_FORMAT_ED": d.GFS2_FORMAT_ED,
        "GFS2_FORMAT_QC": d.GFS2_FORMAT_QC,
        "GFS2_FORMAT_RI": d.GFS2_FORMAT_RI,
        "GFS2_FORMAT_DE": d.GFS2_FORMAT_DE,
        "GFS2_FORMAT_QU": d.GFS2_FORMAT_QU,
        "GFS2_FORMAT_FS": d.GFS2_FORMAT_FS,
        "GFS2_FORMAT_MULTI": d.GFS2_FORMAT_MULTI,
        "GFS2_METATYPE_NONE": d.GFS2_METATYPE_NONE,
        "GFS2_METATYPE_SB": d.GFS2_METATYPE_SB,
        "GFS2_METATYPE_RG": d.GFS2_METATYPE_RG,
        "GFS2_METATYPE_RB": d.GFS2_METATYPE_RB,
        "GFS2_METATYPE_DI": d.GFS2_METATYPE_DI,
        "GFS2_METATYPE_IN": d.GFS2_METATYPE_IN,
        "GFS2_METATYPE_LF": d.GFS2_METATYPE_LF,
        "GFS2_METATYPE_JD": d.GFS2_METATYPE_JD,
        "GFS2_METATYPE_LH": d.GFS2_METATYPE_LH,
        "GFS2_METATYPE_LD": d.GFS2_METATYPE_LD,
        "GFS2_METATYPE_LB": d.GFS2_METATYPE_LB,
        "GFS2_METATYPE_EA": d.GFS2_METATYPE_EA,
        "GFS2_METATYPE_ED": d.GFS2_METATYPE_ED,
        "GFS2_METATYPE_QC": d.GFS2_METATYPE_QC,
        "GFS2_NBBY": d.GFS2_NBBY,
        "GFS2_BIT_SIZE": d.GFS2_BIT_SIZE,
        "GFS2_BIT_MASK": d.GFS2_BIT_MASK,
        "GFS2_BLKST_FREE": d.GFS2_BLKST_FREE,
        "GFS2_BLKST_USED": d.GFS2_BLKST_USED,
        "GFS2_BLKST_UNLINKED": d.GFS2_BLKST_UNLINKED,
        "GFS2_BLKST_DINODE": d.GFS2_BLKST_DINODE,
        "GFS2_RGF_JOURNAL": d.GFS2_RGF_JOURNAL,
        "GFS2_RGF_METAONLY": d.GFS2_RGF_METAONLY,
        "GFS2_RGF_DATAONLY": d.GFS2_RGF_DATAONLY,
        "GFS2_RGF_NOALLOC": d.GFS2_RGF_NOALLOC,
        "GFS2_RGF_TRIMMED": d.GFS2_RGF_TRIMMED,
        "GFS2_MAX_META_HEIGHT": d.GFS2_MAX_META_HEIGHT,
        "GFS2_DIR_MAX_DEPTH": d.GFS2_DIR_MAX_DEPTH,
        "GFS2_DIF_JDATA": d.GFS2_DIF_JDATA,
        "GFS2_DIF_EXHASH": d.GFS2_DIF_EXHASH,
        "GFS2_DIF_EA_INDIRECT": d.GFS2_DIF_EA_INDIRECT,
        "GFS2_DIF_DIRECTIO": d.GFS2_DIF_DIRECTIO,
        "GFS2_DIF_IMMUTABLE": d.GFS2_DIF_IMMUTABLE,
        "GFS2_DIF_APPENDONLY": d.GFS2_DIF_APPENDONLY,
        "GFS2_DIF_NOATIME": d.GFS2_DIF_NOATIME,
        "GFS2_DIF_SYNC": d.GFS2_DIF_SYNC,
        "GFS2_DIF_SYSTEM": d.GFS2_DIF_SYSTEM,
        "GFS2_DIF_TOPDIR": d.GFS2_DIF_TOPDIR,
        "GFS2_DIF_TRUNC_IN_PROG": d.GFS2_DIF_TRUNC_IN_PROG,
        "GFS2_DIF_INHERIT_DIRECTIO": d.GFS2_DIF_INHERIT_DIRECTIO,
        "GFS2_FNAMESIZE": d.GFS2_FNAMESIZE,
        "GFS2_EA_MAX_NAME_LEN": d.GFS2_EA_MAX_NAME_LEN,
        "GFS2_EA_MAX_DATA_LEN": d.GFS2_EA_MAX_DATA_LEN,
        "GFS2_EATYPE_UNUSED": d.GFS2_EATYPE_UNUSED,
        "GFS2_EATYPE_USR": d.GFS2_EATYPE_USR,
        "GFS2_EATYPE_SYS": d.GFS2_EATYPE_SYS,
        "GFS2_EATYPE_SECURITY": d.GFS2_EATYPE_SECURITY,
        "GFS2_EATYPE_TRUSTED": d.GFS2_EATYPE_TRUSTED,
        "GFS2_EATYPE_LAST": d.GFS2_EATYPE_LAST,
        "GFS2_EAFLAG_LAST": d.GFS2_EAFLAG_LAST,
        "GFS2_LOG_HEAD_UNMOUNT": d.GFS2_LOG_HEAD_UNMOUNT,
        "GFS2_LOG_HEAD_FLUSH_NORMAL": d.GFS2_LOG_HEAD_FLUSH_NORMAL,
        "GFS2_LOG_HEAD_FLUSH_SYNC": d.GFS2_LOG_HEAD_FLUSH_SYNC,
        "GFS2_LOG_HEAD_FLUSH_SHUTDOWN": d.GFS2_LOG_HEAD_FLUSH_SHUTDOWN,
        "GFS2_LOG_HEAD_FLUSH_FREEZE": d.GFS2_LOG_HEAD_FLUSH_FREEZE,
        "GFS2_LOG_HEAD_RECOVERY": d.GFS2_LOG_HEAD_RECOVERY,
        "GFS2_LFC_SHUTDOWN": d.GFS2_LFC_SHUTDOWN,
        "GFS2_LFC_DO_SYNC": d.GFS2_LFC_DO_SYNC,
        "GFS2_LFC_SYNC_FS": d.GFS2_LFC_SYNC_FS,
        "GFS2_LFC_INPLACE_RESERVE": d.GFS2_LFC_INPLACE_RESERVE,
        "GFS2_LFC_MAKE_FS_RO": d.GFS2_LFC_MAKE_FS_RO,
        "GFS2_LFC_AIL_EMPTY_GL": d.GFS2_LFC_AIL_EMPTY_GL,
        "GFS2_LFC_AIL_FLUSH": d.GFS2_LFC_AIL_FLUSH,
        "GFS2_LFC_LOGD_JFLUSH_REQD": d.GFS2_LFC_LOGD_JFLUSH_REQD,
        "GFS2_LFC_LOGD_AIL_FLUSH_REQD": d.GFS2_LFC_LOGD_AIL_FLUSH_REQD,
        "GFS2_LFC_TRANS_END": d.GFS2_LFC_TRANS_END,
        "GFS2_LFC_WRITE_INODE": d.GFS2_LFC_WRITE_INODE,
        "GFS2_LFC_INODE_GO_SYNC": d.GFS2_LFC_INODE_GO_SYNC,
        "GFS2_LFC_RGRP_GO_SYNC": d.GFS2_LFC_RGRP_GO_SYNC,
        "GFS2_LOG_DESC_METADATA": d.GFS2_LOG_DESC_METADATA,
        "GFS2_LOG_DESC_REVOKE": d.GFS2_LOG_DESC_REVOKE,
        "GFS2_LOG_DESC_JDATA": d.GFS2_LOG_DESC_JDATA,
        "GFS2_QCF_USER": d.GFS2_QCF_USER,
        "GFS2_DIF_INHERIT_JDATA": d.GFS2_DIF_INHERIT_JDATA,
        "GFS2_LOG_HEAD_USERSPACE": d.GFS2_LOG_HEAD_USERSPACE,
        "LH_V1_SIZE": d.GFS2_LH_V1_SIZE,
    }
