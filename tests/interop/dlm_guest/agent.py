"""Runs in the guest: one line of JSON ["function", arguments...] in, one line {"out": ...} or {"err": ...} back.

What dlm_controld does by configfs and sysfs and libdlm by its devices is here done by hand, so that a test decides
each step. Source: Linux 6.1 fs/dlm/config.c, lockspace.c, user.c; include/uapi/linux/dlm_device.h.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import IO

CONFIG = Path("/sys/kernel/config/dlm/cluster")
DEVICE_VERSION = (6, 0, 0)
LOCK, UNLOCK, CREATE, REMOVE = 1, 2, 4, 5
FORCE_FREE = 2
LOCK_PARAMS = struct.Struct("<BBHIIIQQ5Q32s")
RESULT = struct.Struct("<3II3QiIB3xQBBBBI")
# Told apart by the addresses that come back with a result.
AST_ADDRESS, BAST_ADDRESS, LKSB_ADDRESS = 0x1000, 0x2000, 0x3000
LVB_BYTES = 32

created: dict[str, int] = {}
devices: dict[str, int] = {}
jobs: dict[int, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}


def put(path: Path, value: object) -> None:
    """One write, without a newline: the kernel takes it into names."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, value if isinstance(value, bytes) else str(value).encode())
    finally:
        os.close(fd)


def setup(cluster: str, me: int, address: str) -> None:
    """The cluster's name and this node."""
    CONFIG.mkdir()
    for name, value in (("cluster_name", cluster), ("recover_callbacks", 1), ("log_debug", 1), ("log_info", 1)):
        put(CONFIG / name, value)
    know(me, address, local=1)


def know(node: int, address: str, local: int = 0) -> None:
    """Make a node's address known; one that is known already is made anew, as after its restart."""
    where = CONFIG / "comms" / str(node)
    if where.exists():
        where.rmdir()
    where.mkdir()
    put(where / "nodeid", node)
    put(where / "local", local)
    quad = bytes(int(x) for x in address.split("."))
    put(where / "addr", struct.pack("<HH4s120x", 2, 0, quad))


def forget(node: int) -> None:
    (CONFIG / "comms" / str(node)).rmdir()


def request(command: int, body: bytes, extra: bytes = b"") -> bytes:
    return struct.pack("<3IBB2x", *DEVICE_VERSION, command, 1) + body.ljust(LOCK_PARAMS.size, b"\0") + extra


def control(command: int, body: bytes) -> int:
    fd = os.open("/dev/dlm-control", os.O_RDWR)
    try:
        return os.write(fd, request(command, body))
    except OSError as e:
        return -(e.errno or 0)
    finally:
        os.close(fd)


def wait_for(path: Path, limit_s: float = 10) -> None:
    end = time.monotonic() + limit_s
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{path} does not appear")
        time.sleep(0.01)


def join(name: str, members: list[int], global_id: int) -> None:
    """Create a lockspace and start it with these members; the join ends when recovery does: see joined()."""
    def create() -> None:
        created[name] = control(CREATE, struct.pack("<II", 0, 0) + name.encode() + b"\0")

    created.pop(name, None)
    threading.Thread(target=create, daemon=True).start()
    kernel = Path("/sys/kernel/dlm") / name
    wait_for(kernel)
    (CONFIG / "spaces" / name).mkdir()
    put(kernel / "id", global_id)
    set_members(name, members)
    put(kernel / "control", 1)
    put(kernel / "event_done", 0)


def set_members(name: str, members: list[int]) -> None:
    nodes = CONFIG / "spaces" / name / "nodes"
    have = {int(p.name) for p in nodes.iterdir()}
    for node in sorted(have - set(members)):
        (nodes / str(node)).rmdir()
    for node in sorted(set(members) - have):
        (nodes / str(node)).mkdir()
        put(nodes / str(node) / "nodeid", node)
        put(nodes / str(node) / "weight", 1)


def stop(name: str) -> None:
    put(Path("/sys/kernel/dlm") / name / "control", 0)


def start(name: str, members: list[int]) -> None:
    set_members(name, members)
    put(Path("/sys/kernel/dlm") / name / "control", 1)


def joined(name: str, limit_s: float = 20) -> int:
    """What creating the lockspace gave: its minor number, or -errno."""
    end = time.monotonic() + limit_s
    while name not in created:
        if time.monotonic() > end:
            raise TimeoutError(f"lockspace {name} is not joined")
        time.sleep(0.01)
    if created[name] >= 0:
        wait_for(Path("/dev/dlm_" + name))
        devices[name] = os.open("/dev/dlm_" + name, os.O_RDWR)
    return created[name]


def release(name: str) -> int:
    """Leave: what is still locked goes with it."""
    minor = created.pop(name)
    if name in devices:
        os.close(devices.pop(name))
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(control(REMOVE, struct.pack("<II", FORCE_FREE, minor))))
    thread.start()
    # The kernel waits until its lockspace's group has let it go: that is what event_done tells it.
    event = Path("/sys/kernel/dlm") / name / "event_done"
    end = time.monotonic() + 20
    while thread.is_alive() and time.monotonic() < end:
        if event.exists():
            with contextlib.suppress(OSError):      # it may go in between
                put(event, 0)
        thread.join(0.05)
    where = CONFIG / "spaces" / name
    if where.exists():
        for node in list((where / "nodes").iterdir()):
            node.rmdir()
        where.rmdir()
    return done[0] if done else -110


def lock(name: str, mode: int, resource: str, flags: int = 0, lkid: int = 0, lvb: str = "", bast: int = 1,
         tag: int = 1) -> int:
    """Ask for a lock or a conversion; returns its id. The outcome comes by ast()."""
    raw = resource.encode()
    params = LOCK_PARAMS.pack(mode, len(raw), 0, flags, lkid, 0, 0, 0, tag, AST_ADDRESS, tag,
                              BAST_ADDRESS if bast else 0, LKSB_ADDRESS, lvb.encode())
    # The kernel returns the id of a new lock, and nought for a conversion.
    return os.write(devices[name], request(LOCK, params, raw)) or lkid


def unlock(name: str, lkid: int, flags: int = 0, lvb: str = "") -> int:
    params = LOCK_PARAMS.pack(0, 0, 0, flags, lkid, 0, 0, 0, 9, AST_ADDRESS, 9, 0, LKSB_ADDRESS, lvb.encode())
    return os.write(devices[name], request(UNLOCK, params))


def ast(name: str, limit_s: float = 10) -> dict[str, object] | None:
    """The next completion (CAST) or blocking call (BAST); None when none comes."""
    if not select.select([devices[name]], [], [], limit_s)[0]:
        return None
    data = os.read(devices[name], 72 + LVB_BYTES)
    address, tag, _ = struct.unpack_from("<3Q", data, 16)
    status, lkid, flags = struct.unpack_from("<iIB", data, 40)
    lvb_at = struct.unpack_from("<I", data, 68)[0]
    return {"kind": "BAST" if address == BAST_ADDRESS else "CAST", "tag": tag, "status": status, "lkid": lkid,
            "sbflags": flags, "bast_mode": data[64],
            "lvb": data[lvb_at:].rstrip(b"\0").decode("latin-1") if lvb_at else None}


def read(path: str) -> str:
    return Path(path).read_text()


def locks(name: str) -> str:
    return read(f"/sys/kernel/debug/dlm/{name}_locks")


def write(path: str, mode: int, data: str) -> None:
    """A whole file; `data` in hexadecimal."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(bytes.fromhex(data))
    Path(path).chmod(mode)


def begin(script: str) -> int:
    """Run a shell script in the background; returns what ended() wants."""
    output = tempfile.TemporaryFile()           # noqa: SIM115 - closed with the job
    process = subprocess.Popen(["/bin/busybox", "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=output,
                               stderr=subprocess.STDOUT)
    jobs[process.pid] = process, output
    return process.pid


def ended(job: int, limit_s: float = 0) -> list[object] | None:
    """Exit status and output; None while it runs."""
    process, output = jobs[job]
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    output.seek(0)
    del jobs[job]
    with output:
        return [status, output.read().decode(errors="replace")]


def crash() -> None:
    """The machine stops dead, as if its power had gone."""
    Path("/proc/sysrq-trigger").write_text("o")


def serve(port: str) -> None:
    functions = {f.__name__: f for f in (setup, know, forget, join, joined, set_members, stop, start, release, lock,
                                         unlock, ast, read, locks, crash, write, begin, ended)}
    with open(port, "r+b", buffering=0) as line:
        def answer(what: dict[str, object]) -> None:
            line.write(json.dumps(what, default=repr).encode() + b"\n")

        answer({"out": "ready"})
        rest = b""
        while True:
            chunk = os.read(line.fileno(), 65536)
            if not chunk:
                time.sleep(0.02)        # nobody has the host's end open
                continue
            rest += chunk
            while b"\n" in rest:
                one, rest = rest.split(b"\n", 1)
                try:
                    name, *arguments = json.loads(one)
                    answer({"out": functions[name](*arguments)})
                except (OSError, ValueError, KeyError, TypeError, struct.error):
                    answer({"err": traceback.format_exc()})


if __name__ == "__main__":
    serve(sys.argv[1])
