"""Makes the guest: fetches Debian packages with apt and builds a kernel and two initramfs of them.

All of it lands in a cache outside the project and is made once; a stamp over everything that it
depends on makes a change build anew.
"""

from __future__ import annotations

import hashlib
import inspect
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from .errors import OracleError

HERE = Path(__file__).parent

# The kernels known by a short name.
KERNELS = {"6.1": "linux-image-amd64", "6.12": "linux-image-6.12-amd64"}

# Kernel modules wanted in the guest; what they depend on comes along, and a name that the kernel
# has built in is passed over. crc32c and crc32c_generic are asked for through the crypto API, so no
# dependency names them.
MODULES = ["virtio_pci", "virtio_mmio", "virtio_blk", "virtio_console",
           "crc32c_generic", "crc32c-intel", "dlm", "gfs2"]
CLUSTER_MODULES = ["virtio_net", "sctp"]
# There, but loaded by the scripts that want them (`insmod /modules/NAME.ko`).
EXTRA_MODULES = ["loop"]

# Debian packages unpacked into the guest's root.
PACKAGES = """busybox-static dash bash libc6 libgcc-s1 zlib1g libbz2-1.0 liblzma5
    libuuid1 libblkid1 libtinfo6 libncursesw6 coreutils libselinux1
    libpcre2-8-0 libgmp10 attr libattr1 acl libacl1 e2fsprogs libext2fs2
    libcom-err2 libss2 util-linux libmount1 libsmartcols1 libcap-ng0 libudev1
    libreadline8 gfs2-utils python3.11-minimal libpython3.11-minimal
    libpython3.11-stdlib libexpat1 libssl3 libffi8 libdb5.3""".split()
CLUSTER_PACKAGES = """corosync libcfg7 libcmap4 libcorosync-common4 libcpg4
    libquorum5 libsam4 libvotequorum8 libqb100 libknet1 libnozzle1 libnl-3-200 libnl-route-3-200
    libnss3 libnspr4 libsqlite3-0 libsctp1 libxml2 libicu72 libstdc++6 liblz4-1
    libzstd1 liblzo2-2 libsnmp40 libstatgrab10 libdbus-1-3 libsystemd0
    libgcrypt20 libgpg-error0 libcap2 dlm-controld libdlm3 libdlmcontrol3
    libcrypt1""".split()
# Left out of the initramfs: they only make it longer to unpack.
DROP = re.compile(r"^usr/(share/(?!snmp)|include|lib/systemd|lib/x86_64-linux-gnu/(gconv|perl)|"
                  r"lib/python3\.11/(test|idlelib|lib2to3|pydoc_data|ensurepip|distutils|unittest|tkinter))")

MAGICS = ((b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\x1f\x8b", "gzip"),
          (b"\x02\x21\x4c\x18", "lz4"))


def guest_file(name: str) -> bytes:
    return (HERE / name).read_bytes()


def cache_dir() -> Path:
    base = os.environ.get("KERNEL_GFS2_DIR")
    if base:
        return Path(base).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "gfs2py-oracle"


def kernel_package() -> str:
    name = os.environ.get("KERNEL_GFS2_KERNEL") or "6.1"
    return KERNELS.get(name, name)


def kernel_dir() -> Path:
    return cache_dir() / kernel_package()


def qemu() -> str:
    return os.environ.get("KERNEL_GFS2_QEMU") or "qemu-system-x86_64"


def real_package(name: str) -> str:
    """A linux-image metapackage stands for the one that it depends on."""
    text = subprocess.run(["apt-cache", "depends", "--no-recommends", "--no-suggests", name],
                          capture_output=True, text=True, check=False).stdout
    found = re.search(r"Depends: (linux-image-\d\S+)", text)
    return found.group(1) if found else name


def unpack(debs: list[Path], root: Path) -> None:
    """Unpack packages as on a system with merged /usr, without installing."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for deb in debs:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as tar:
            subprocess.run(["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", root],
                           stdin=tar.stdout, check=True)
        if tar.returncode:
            raise OracleError(f"cannot unpack {deb}")


def apt_download(packages: list[str], into: Path) -> str:
    """Run apt-get download; returns what it had to complain about, or an empty string."""
    done = subprocess.run(["apt-get", "-q", "download", *packages], cwd=into,
                          capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def download(packages: list[str], into: Path) -> list[Path]:
    """Fetch packages with apt, those not there yet; returns their files, in order."""
    into.mkdir(parents=True, exist_ok=True)

    def have(package: str) -> Path | None:
        files = [f for f in into.iterdir() if f.name.startswith(package + "_") and f.suffix == ".deb"]
        return max(files, default=None)

    missing = [p for p in packages if not have(p)]
    if missing and apt_download(missing, into):
        # The package lists are absent or older than the archive.
        subprocess.run(["apt-get", "-q", "update"], capture_output=True, check=False)
        complaint = apt_download(missing, into)
        if complaint:
            raise OracleError("apt-get download failed:\n" + complaint)
    files = [have(p) for p in packages]
    return [f for f in files if f is not None]


def decompress(data: bytes) -> bytes:
    for magic, tool in MAGICS:
        if data.startswith(magic):
            if tool == "xz":
                return lzma.LZMADecompressor().decompress(data)
            done = subprocess.run([tool, "-dcq"], input=data, capture_output=True, check=False)
            if not done.stdout:
                raise OracleError(f"{tool} is needed to unpack this kernel: {done.stderr.decode()}")
            return done.stdout
    return data


def extract_vmlinux(bzimage: bytes) -> bytes:
    """The ELF kernel of a bzImage.

    QEMU boots it by its PVH note, which saves the guest the decompression: under TCG that takes
    longer than all the rest. Offsets: the kernel's Documentation/arch/x86/boot.rst.
    """
    if bzimage[0x202:0x206] != b"HdrS":
        raise OracleError("the kernel is no bzImage")
    setup_sects = bzimage[0x1f1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sects + 1) * 512 + offset
    payload = bzimage[start:start + length]
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        payload = payload[:-4]          # the size that the build appends
    return decompress(payload)


class Modules:
    """The modules of an unpacked kernel package (it ships no modules.dep)."""

    def __init__(self, tree: Path) -> None:
        self.files: dict[str, Path] = {}
        self.builtin: set[str] = set()
        self.order: list[str] = []
        self.data: dict[str, bytes] = {}
        for path in tree.rglob("*"):
            if ".ko" in path.name:
                self.files[self.norm(path.name)] = path
            elif path.name == "modules.builtin":
                self.builtin |= {self.norm(os.path.basename(x)) for x in path.read_text().splitlines()}

    @staticmethod
    def norm(name: str) -> str:
        return name.split(".ko")[0].replace("-", "_")

    def add(self, name: str, load: bool = True) -> None:
        """Put a module, after what it depends on, into the load order."""
        name = self.norm(name)
        if name in self.data or name in self.builtin:
            return
        if name not in self.files:
            print(f"kernel-gfs2: this kernel has no module {name}", file=sys.stderr)
            return
        data = self.data[name] = decompress(self.files[name].read_bytes())
        depends = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in filter(None, depends.group(1).decode().split(",") if depends else []):
            self.add(other, load)
        if load:
            self.order.append(name)


class Cpio:
    """Writes a 'newc' cpio archive, the format of an initramfs."""

    def __init__(self, out: IO[bytes]) -> None:
        self.out, self.ino, self.seen = out, 0, set[str]()

    def add(self, name: str, mode: int, data: bytes = b"") -> None:
        if name in self.seen:
            return
        self.seen.add(name)
        self.ino += 1
        raw = name.encode() + b"\0"
        fields = (self.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        head = b"070701" + b"".join(b"%08X" % f for f in fields)
        for part in (head + raw, data):
            self.out.write(part + b"\0" * (-len(part) % 4))

    def tree(self, root: Path) -> None:
        for folder, dirs, files in os.walk(root):
            dirs.sort()
            rel = os.path.relpath(folder, root)
            rel = "" if rel == "." else rel + "/"
            for name in sorted(dirs + files):
                path, here = rel + name, Path(folder, name)
                if DROP.match(path):
                    continue
                mode = here.lstat().st_mode
                if stat.S_ISLNK(mode):
                    self.add(path, stat.S_IFLNK | 0o777, os.readlink(here).encode())
                elif stat.S_ISDIR(mode):
                    self.add(path, mode)
                elif stat.S_ISREG(mode):
                    self.add(path, mode, here.read_bytes())

    def end(self) -> None:
        self.add("TRAILER!!!", 0)


def build_initramfs(path: Path, root: Path, modules: Modules) -> None:
    """Write the guest's root: packages, modules in load order, init, busybox for the rest."""
    applets = subprocess.run([root / "bin/busybox", "--list"], capture_output=True,
                             text=True, check=True).stdout.split()
    new = path.with_suffix(".new")
    with new.open("wb") as out:
        cpio = Cpio(out)
        for name in ("dev", "proc", "sys", "run", "tmp", "mnt", "etc", "root", "modules", "var"):
            cpio.add(name, stat.S_IFDIR | 0o755)
        cpio.add("dev/console", stat.S_IFREG | 0o600)
        cpio.add("init", stat.S_IFREG | 0o755, guest_file("guest_init.sh"))
        for name, text in (("passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n"),
                           ("group", "root:x:0:\nuser:x:1000:\n"), ("hosts", "127.0.0.1 localhost\n")):
            cpio.add("etc/" + name, stat.S_IFREG | 0o644, text.encode())
        cpio.add("var/run", stat.S_IFLNK | 0o777, b"../run")
        cpio.add("etc/mtab", stat.S_IFLNK | 0o777, b"/proc/mounts")
        order = "".join(m + ".ko\n" for m in modules.order)
        cpio.add("modules/order", stat.S_IFREG | 0o644, order.encode())
        for name, data in sorted(modules.data.items()):
            cpio.add(f"modules/{name}.ko", stat.S_IFREG | 0o644, data)
        cpio.tree(root)
        for name in applets:
            if not any(f"usr/{d}/{name}" in cpio.seen for d in ("bin", "sbin")):
                cpio.add(f"usr/bin/{name}", stat.S_IFLNK | 0o777, b"busybox")
        cpio.add("usr/bin/python3", stat.S_IFLNK | 0o777, b"python3.11")
        cpio.end()
    new.rename(path)


def stamp() -> str:
    """What the prepared files depend on: a change makes prepare build anew."""
    text = repr((guest_file("guest_init.sh"), MODULES, CLUSTER_MODULES, EXTRA_MODULES, PACKAGES,
                 CLUSTER_PACKAGES, DROP.pattern, kernel_package(),
                 inspect.getsource(Cpio), inspect.getsource(build_initramfs)))
    return hashlib.sha256(text.encode()).hexdigest()


def is_prepared() -> bool:
    try:
        return (kernel_dir() / "stamp").read_text() == stamp()
    except OSError:
        return False


def prepare(force: bool = False) -> None:
    """Fetch what is missing and build kernel and initramfs, unless that is done.

    Raises OracleError when a tool is missing or the packages cannot be had.
    """
    for tool in (qemu(), "apt-get", "dpkg-deb", "tar"):
        if not shutil.which(tool):
            hint = "; try: apt-get install --no-install-recommends qemu-system-x86" if tool == qemu() else ""
            raise OracleError(f"{tool} is missing{hint}")
    if is_prepared() and not force:
        return
    into = kernel_dir()
    into.mkdir(parents=True, exist_ok=True)
    # The list of packages is needed before the name of the kernel can be looked up.
    files = download(PACKAGES + CLUSTER_PACKAGES, cache_dir() / "debs")
    kernel = real_package(kernel_package())
    kernel_deb = download([kernel], cache_dir() / "debs")
    with tempfile.TemporaryDirectory(dir=into) as name:
        work = Path(name)
        unpack(kernel_deb, work / "kernel")
        boot = next((work / "kernel/boot").glob("vmlinuz-*"))
        (into / "vmlinux").write_bytes(extract_vmlinux(boot.read_bytes()))
        for root, packages, modules in (
                ("base", PACKAGES, MODULES),
                ("cluster", PACKAGES + CLUSTER_PACKAGES, MODULES + CLUSTER_MODULES)):
            unpack([f for p in packages for f in files if f.name.startswith(p + "_")], work / root)
            chosen = Modules(work / "kernel")
            for module in modules:
                chosen.add(module)
            for module in EXTRA_MODULES:
                chosen.add(module, load=False)
            if "gfs2" not in chosen.data:
                raise OracleError(f"{kernel} has no gfs2 module")
            build_initramfs(into / f"{root}.cpio", work / root, chosen)
    (into / "release").write_text(boot.name.split("-", 1)[1] + "\n")
    (into / "stamp").write_text(stamp())
