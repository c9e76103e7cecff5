"""A FUSE daemon that waits for itself: nothing but an abort of its connection ends it. Run in a node, by path.

    hung_mount.py MOUNT-POINT

Once the request of its own thread has been read and will never be answered, "hung" is printed.
Source of the layout: include/uapi/linux/fuse.h, struct fuse_in_header and fuse_init_out.
"""

import ctypes
import os
import struct
import sys
import threading

INIT, LOOKUP_OR_GETATTR = 26, (1, 3)

libc = ctypes.CDLL(None, use_errno=True)
where = sys.argv[1]
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"hung", where.encode(), b"fuse", 0, options) != 0:
    sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
request = os.read(fd, 1 << 20)
length, opcode, unique = struct.unpack_from("=IIQ", request)
assert opcode == INIT, opcode
body = struct.pack("=IIIIHHII", 7, 31, 65536, 0, 0, 0, 4096, 1) + bytes(32)
os.write(fd, struct.pack("=IiQ", 16 + len(body), 0, unique) + body)
threading.Thread(target=os.stat, args=(f"{where}/x",)).start()
request = os.read(fd, 1 << 20)
assert struct.unpack_from("=IIQ", request)[1] in LOOKUP_OR_GETATTR
print("hung", flush=True)
threading.Event().wait()
