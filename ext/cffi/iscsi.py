"""Builds gfs2py.block._libiscsi: the initiator's C code and what Python needs of libiscsi, by cffi in API mode.

Environment: GFS2PY_ASAN and GFS2PY_DEV as for setup.py.
"""

import os
import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SOURCES = ("session.c", "commands.c", "replay.c")
HEADERS = ("initiator.h", "internal.h")

# What a discovery needs of libiscsi itself; its synchronous calls, in the caller's thread.
LIBISCSI = """
enum { ISCSI_SESSION_DISCOVERY, ISCSI_HEADER_DIGEST_NONE, ... };
struct iscsi_context;
struct iscsi_target_portal { struct iscsi_target_portal *next; const char *portal; ...; };
struct iscsi_discovery_address {
    struct iscsi_discovery_address *next; const char *target_name; struct iscsi_target_portal *portals; ...;
};
struct iscsi_context *iscsi_create_context(const char *initiator_name);
int iscsi_destroy_context(struct iscsi_context *iscsi);
int iscsi_set_session_type(struct iscsi_context *iscsi, int session_type);
int iscsi_set_header_digest(struct iscsi_context *iscsi, int header_digest);
int iscsi_set_timeout(struct iscsi_context *iscsi, int timeout);
void iscsi_set_tcp_syncnt(struct iscsi_context *iscsi, int value);
void iscsi_set_noautoreconnect(struct iscsi_context *iscsi, int state);
int iscsi_set_initiator_username_pwd(struct iscsi_context *iscsi, const char *user, const char *passwd);
int iscsi_set_target_username_pwd(struct iscsi_context *iscsi, const char *user, const char *passwd);
int iscsi_connect_sync(struct iscsi_context *iscsi, const char *portal);
int iscsi_login_sync(struct iscsi_context *iscsi);
int iscsi_logout_sync(struct iscsi_context *iscsi);
struct iscsi_discovery_address *iscsi_discovery_sync(struct iscsi_context *iscsi);
void iscsi_free_discovery_data(struct iscsi_context *iscsi, struct iscsi_discovery_address *da);
const char *iscsi_get_error(struct iscsi_context *iscsi);
"""


def declarations() -> str:
    """The shared header as cffi reads it: without the lines for the preprocessor, but with its constants."""
    text = (HERE / "initiator.h").read_text()
    return re.sub(r"^#(?!define GI_).*$", "", text, flags=re.MULTILINE) + LIBISCSI


flags = ["-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-pthread"]
links = ["-pthread"]
if os.environ.get("GFS2PY_ASAN") == "1":
    flags += ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
    links += ["-fsanitize=address,undefined"]
else:
    flags += ["-O2", "-g1"]
if os.environ.get("GFS2PY_DEV") == "1":
    flags += ["-Werror"]

ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "gfs2py.block._libiscsi", '#include "initiator.h"\n#include <iscsi/iscsi.h>\n',
    sources=[str((HERE / name).relative_to(ROOT)) for name in SOURCES],
    depends=[str((HERE / name).relative_to(ROOT)) for name in HEADERS],
    include_dirs=[str(HERE.relative_to(ROOT))], libraries=["iscsi"],
    extra_compile_args=flags, extra_link_args=links)
