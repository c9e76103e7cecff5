"""Who this node is to a target: its initiator name and its CHAP secrets.

The name is that of open-iscsi (/etc/iscsi/initiatorname.iscsi) where there is one, else one of our own, made once and
kept below /var/lib/gfs2py/iscsi by host name: nodes of a lab share the directory and are not one node.

Secrets come from the environment (LIBISCSI_CHAP_USERNAME, LIBISCSI_CHAP_PASSWORD and the same with TARGET_ for the
target's own, which other programs on libiscsi know too) or from a file that only its owner can read:

    # target or *            user     password      [target's user  target's password]
    iqn.2011-07.com.example:server.target1   web1   secret12secret
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gfs2py.block.iscsi_url import is_name

INITIATOR_FILE = Path("/etc/iscsi/initiatorname.iscsi")
CREDENTIALS_FILE = Path("/etc/iscsi/credentials")
STATE_DIRECTORY = Path("/var/lib/gfs2py/iscsi")
# The name RHEL gives its initiators.
NAME_PREFIX = "iqn.1994-05.com.redhat:"


class ConfigError(OSError):
    """A file about initiators or secrets that cannot be used; EINVAL or EACCES."""

    def __init__(self, path: Path, line: int, why: str, code: int = errno.EINVAL) -> None:
        super().__init__(code, f"line {line}: {why}" if line else why, str(path))


@dataclass(frozen=True, slots=True)
class Credentials:
    """CHAP secrets of one target; never shown by repr."""

    user: str
    password: str = field(repr=False)
    target_user: str | None = None
    target_password: str | None = field(default=None, repr=False)


def _read_name(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    for number, line in enumerate(text.splitlines(), 1):
        key, equals, value = line.partition("=")
        if equals and key.strip() == "InitiatorName":
            if not is_name(value.strip()):
                raise ConfigError(path, number, f"{value.strip()!r} is no initiator name")
            return value.strip()
    return None


def initiator_name(environment: Mapping[str, str] = os.environ, *, file: Path = INITIATOR_FILE,
                   directory: Path = STATE_DIRECTORY) -> str:
    """This node's name, the same at every call. Raises ConfigError."""
    given = environment.get("GFS2PY_INITIATOR_NAME")
    if given is not None:
        if not is_name(given):
            raise ConfigError(Path("GFS2PY_INITIATOR_NAME"), 0, f"{given!r} is no initiator name")
        return given
    found = _read_name(file)
    if found is not None:
        return found
    host = re.sub(r"[^a-z0-9.-]", "-", socket.gethostname().lower()) or "localhost"
    path = directory / f"{host}.initiatorname"
    found = _read_name(path)
    if found is not None:
        return found
    made = f"{NAME_PREFIX}{host}-{secrets.token_hex(6)}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        new = directory / f".{host}.{os.getpid()}"
        new.write_text(f"InitiatorName={made}\n", encoding="utf-8")
        try:
            os.link(new, path)          # whoever is first has named the node
        except FileExistsError:
            return _read_name(path) or made
        finally:
            new.unlink()
    except OSError:
        return made                     # nothing can be kept here: a name for this process
    return made


def _from_environment(environment: Mapping[str, str]) -> Credentials | None:
    user, password = environment.get("LIBISCSI_CHAP_USERNAME"), environment.get("LIBISCSI_CHAP_PASSWORD")
    if not user or not password:
        return None
    return Credentials(user, password, environment.get("LIBISCSI_CHAP_TARGET_USERNAME") or None,
                       environment.get("LIBISCSI_CHAP_TARGET_PASSWORD") or None)


def read_credentials(path: Path, target: str, user: str | None = None) -> Credentials | None:
    """The line of the target, else that of `*`. Raises ConfigError, OSError."""
    with path.open(encoding="utf-8") as f:
        mode = os.fstat(f.fileno()).st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(path, 0, f"others can read it (mode {stat.S_IMODE(mode):o}): chmod 600", errno.EACCES)
        lines = f.read().splitlines()
    found: dict[str, Credentials] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) not in (3, 5):
            raise ConfigError(path, number, "wants TARGET USER PASSWORD [TARGET-USER TARGET-PASSWORD]")
        if user is None or words[1] == user:
            found.setdefault(words[0], Credentials(*words[1:]))
    return found.get(target) or found.get("*")


def credentials(target: str, user: str | None = None, *, file: str | None = None,
                environment: Mapping[str, str] = os.environ) -> Credentials | None:
    """The secrets for a target, or None for a login without CHAP.

    file: one that was asked for; it has to be there. Raises ConfigError, OSError.
    """
    if file is not None:
        found = read_credentials(Path(file), target, user)
        if found is None:
            raise ConfigError(Path(file), 0, f"has no line for {target}" + (f" and user {user}" if user else ""))
        return found
    found = _from_environment(environment)
    if found is not None:
        return found
    try:
        found = read_credentials(CREDENTIALS_FILE, target, user)
    except FileNotFoundError:
        found = None
    if found is None and user is not None:
        raise ConfigError(CREDENTIALS_FILE, 0, f"has no password of {user} for {target}")
    return found
