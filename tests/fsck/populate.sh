#!/bin/bash
# Fills a GFS2 mount with one of everything; runs inside the kernel oracle's guest, in the mount.
# N_BIG entries in the big directory and N_SMALL files elsewhere (defaults below) come from $IN/sizes if present.
set -euo pipefail
N_BIG=400; N_SMALL=40
if [ -f "${IN:-/none}/sizes" ]; then . "$IN/sizes"; fi
cd "$MNT"

mkdir plain deep big links special xattrs sparse jdata
for ((i = 0; i < N_SMALL; i++)); do
    echo "content of file $i" > plain/file$i
done
head -c 3000 /dev/zero | tr '\0' 'a' > plain/nearly-stuffed
head -c 100000 /dev/zero | tr '\0' 'b' > plain/some-blocks
d=deep; for i in 1 2 3 4 5 6 7 8; do d=$d/level$i; mkdir $d; echo $i > $d/file; done

python3 - "$N_BIG" <<'PY'
import os, sys, zlib
n = int(sys.argv[1])
os.chdir("big")
for i in range(n):
    open("entry-%05d-%s" % (i, "x" * (i % 60)), "w").close()
for i in range(0, n, 7):
    os.unlink("entry-%05d-%s" % (i, "x" * (i % 60)))
for i in range(1, n // 8):
    if i % 7:
        os.link("entry-%05d-%s" % (i, "x" * (i % 60)), "../links/hard-%d" % i)
seen, hits = {}, []
for i in range(140000):
    name = "c%d" % (i * 7919)
    h = zlib.crc32(name.encode())
    if h in seen:
        hits += [seen[h], name]
    seen[h] = name
for name in hits[:8]:
    open(name, "w").write(name)
PY
# Names that all have one hash: the table grows to its greatest depth, and then leaves are chained.
mkdir collide
python3 - <<'PY'
import os, zlib
LENGTH = 40
def same_hash(prefix, target):
    base = bytearray(prefix.encode() + b"a" * LENGTH)
    rows = {}                                   # highest bit -> (value, set of toggled letters)
    for i in range(LENGTH):
        other = bytearray(base)
        other[len(prefix) + i] ^= 2
        value, toggles = zlib.crc32(other) ^ zlib.crc32(base), 1 << i
        while value and value.bit_length() in rows:
            value, toggles = value ^ rows[value.bit_length()][0], toggles ^ rows[value.bit_length()][1]
        if value:
            rows[value.bit_length()] = (value, toggles)
    value, toggles = target ^ zlib.crc32(base), 0
    while value:
        value, toggles = value ^ rows[value.bit_length()][0], toggles ^ rows[value.bit_length()][1]
    for i in range(LENGTH):
        if toggles >> i & 1:
            base[len(prefix) + i] ^= 2
    assert zlib.crc32(base) == target
    return base.decode()
os.chdir("collide")
for i in range(150):
    open(same_hash("%03d-" % i, 0x12345678), "w").close()
for i in range(0, 150, 10):
    os.unlink(same_hash("%03d-" % i, 0x12345678))
PY
mkdir big/subdir; rmdir big/subdir; mkdir big/kept

ln -s short special/symlink
ln -s "$(head -c 270 /dev/zero | tr '\0' 'l')" special/long-symlink
ln -s / special/root-link
mknod special/char c 1 3; mknod special/block b 7 200; mkfifo special/fifo
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("special/socket")'
chmod 4755 plain/file0; chmod 1777 deep; chown 1000:1001 plain/file1 plain/file2 special/fifo
touch -d "1999-12-31 23:59:59.123456789" plain/file3

touch xattrs/small xattrs/large xattrs/many xattrs/removed xattrs/acl xattrs/types; mkdir xattrs/dir
setfattr -n user.name -v value xattrs/small
python3 - <<'PY'
import os
size = os.statvfs(".").f_bsize
os.setxattr("xattrs/large", "user.large", bytes(range(256)) * (32 if size < 1024 else 200))
for i in range(150):
    os.setxattr("xattrs/many", "user.attribute-%d" % i, b"v" * (i % 90))
for i in range(0, 150, 3):
    os.removexattr("xattrs/many", "user.attribute-%d" % i)
os.setxattr("xattrs/removed", "user.one", b"1" * 300)
os.removexattr("xattrs/removed", "user.one")
os.setxattr("xattrs/dir", "user.directory", b"d" * 50)
for space in ("user", "trusted", "security"):
    try:
        os.setxattr("xattrs/types", space + ".test", space.encode() * 10)
    except OSError:  # trusted needs format 1802
        assert space == "trusted"
PY
setfacl -m u:1000:rw,g:1001:r xattrs/acl 2>/dev/null || true
setfacl -d -m u:1000:rwx xattrs/dir 2>/dev/null || true

python3 - <<'PY'
import os
def at(name, *places):
    with open("sparse/" + name, "wb") as f:
        for place in places:
            f.seek(place)
            f.write(b"here %d" % place)
at("low", 0, 4096 * 3)
at("mid", 0, 2 << 20, 9 << 20)
at("high", 5 << 30)
at("higher", 0, 3 << 40)
with open("sparse/truncated", "wb") as f:
    f.write(b"t" * 300000)
os.truncate("sparse/truncated", 5000)
open("sparse/grown", "w").close()
os.truncate("sparse/grown", 1 << 33)
fd = os.open("sparse/allocated", os.O_CREAT | os.O_WRONLY)
os.posix_fallocate(fd, 0, 200000)
os.close(fd)
PY
fallocate -p -o 8192 -l 40000 plain/some-blocks || true
touch jdata/file; chattr +j jdata/file
python3 -c '
import struct
with open("jdata/file", "r+b") as f:
    for i in range(20):
        f.write((struct.pack(">I", 0x01161970) + b"escaped!") * 512)'
chattr +i plain/file5; chattr +a plain/file6; chattr +S plain/file7
sync
