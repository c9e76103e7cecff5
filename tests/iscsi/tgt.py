"""Debian's tgtd on a free port of the loopback, with a private control socket; ended by its process id."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

IQN = "iqn.2011-07.com.example:server.target1"
START_S, POLL_S = 60.0, 0.02


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


# tgt's own defaults are segments of 8 KiB, and data only when the target asks for it.
LARGE = {"MaxRecvDataSegmentLength": "262144", "MaxXmitDataSegmentLength": "262144", "FirstBurstLength": "262144",
         "MaxBurstLength": "262144", "InitialR2T": "No"}


class Tgt:
    """A target with LUN 1 on a file; `large`: long PDUs, sent unasked. `kill` is kill -9, `start` brings it back."""

    def __init__(self, directory: Path, image: Path, *, user: str | None = None, password: str = "",
                 block_bytes: int = 512, large: bool = False) -> None:
        self.directory, self.image = directory, image
        self.user, self.password, self.block_bytes = user, password, block_bytes
        self.parameters = LARGE if large else {}
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = os.environ | {"TGT_IPC_SOCKET": str(directory / "ipc")}

    @property
    def portal(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, lun: int = 1) -> str:
        return f"iscsi://{self.portal}/{IQN}/{lun}"

    def start(self) -> Tgt:
        log = (self.directory / "tgtd.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                ["/usr/sbin/tgtd", "-f", "-C", "7", "-t", "4", "--iscsi", f"portal={self.portal}"],
                env=self._environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_S
        while self._admin("--mode", "sys", "--op", "show", check=False) != 0:
            assert self._process.poll() is None, f"tgtd ended: {(self.directory / 'tgtd.log').read_text()}"
            assert time.monotonic() < deadline, "tgtd does not answer"
            time.sleep(POLL_S)
        self._admin("--mode", "target", "--op", "new", "--tid", "1", "-T", IQN)
        self._admin("--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", "1", "-b", str(self.image),
                    "--blocksize", str(self.block_bytes))
        self._admin("--mode", "logicalunit", "--op", "update", "--tid", "1", "--lun", "1", "--params",
                    "thin_provisioning=1")
        for name, value in self.parameters.items():
            self._admin("--mode", "target", "--op", "update", "--tid", "1", "--name", name, "--value", value)
        if self.user:
            self._admin("--mode", "account", "--op", "new", "--user", self.user, "--password", self.password)
            self._admin("--mode", "account", "--op", "bind", "--tid", "1", "--user", self.user)
        self._admin("--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL")
        return self

    def _admin(self, *words: str, check: bool = True) -> int:
        done = subprocess.run(["/usr/sbin/tgtadm", "-C", "7", "--lld", "iscsi", *words], env=self._environment,
                              capture_output=True, text=True, check=False, timeout=START_S)
        assert not check or done.returncode == 0, f"tgtadm {' '.join(words)}: {done.stderr}"
        return done.returncode

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(START_S)
            self._process = None

    def __enter__(self) -> Tgt:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


def main() -> None:
    """DIRECTORY IMAGE SECONDS: print the URL; restart so often from the first line of input on; end with the input."""
    directory, image, every_s = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    with Tgt(directory, image) as tgt:
        print(tgt.url(), flush=True)
        wait_s: float | None = None
        while True:
            if not select.select([0], [], [], wait_s)[0]:
                tgt.kill()
                tgt.start()
            elif not os.read(0, 100):
                return
            else:
                wait_s = every_s


if __name__ == "__main__":
    main()
