"""The name of a LUN: iscsi://[USER@]PORTAL[:PORT][,PORTAL[:PORT]...]/TARGET/LUN.

A portal is a host name, an IPv4 address or an IPv6 address in brackets. Characters of the target that a URL cannot have
are written %3A and so on. A password has no place in it: command lines are public.
Source of behaviour: RFC 7143 section 4.2.7 (names), libiscsi's URL syntax.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from urllib.parse import unquote

from gfs2py.sources import ISCSI_PREFIX

PORT = 3260
PORTALS_MAX = 4
NAME_BYTES_MAX = 223            # of an initiator or target (RFC 7143)
LUN_MAX = 16383                 # flat space addressing (SAM)

_NAME = re.compile(r"(iqn\.\d{4}-\d{2}\.[a-z0-9][a-z0-9.:_-]*|eui\.[0-9a-f]{16}|naa\.[0-9a-f]{16}([0-9a-f]{16})?)\Z",
                   re.IGNORECASE)
_PORTAL = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|[^\[\]:/@,\s]+)(:(?P<port>\d{1,5}))?\Z")


class UrlError(OSError):
    """A URL that names no LUN; EINVAL."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(errno.EINVAL, why, url)


@dataclass(frozen=True, slots=True)
class Portal:
    """Where a target listens."""

    host: str
    port: int = PORT

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class IscsiUrl:
    """A LUN and the ways to it."""

    portals: tuple[Portal, ...]
    target: str
    lun: int
    user: str | None = None

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return f"{ISCSI_PREFIX}{user}{','.join(map(str, self.portals))}/{self.target}/{self.lun}"


def is_name(text: str) -> bool:
    """Whether this can be the name of an initiator or target."""
    return len(text.encode()) <= NAME_BYTES_MAX and _NAME.match(text) is not None


def parse_portal(text: str, url: str | None = None) -> Portal:
    """HOST[:PORT]. Raises UrlError."""
    found = _PORTAL.match(text)
    port = int(found["port"] or PORT) if found else 0
    if not found or not 1 <= port <= 65535:
        raise UrlError(url or text, f"{text!r} is no portal HOST[:PORT]")
    return Portal(found["host"], port)


def parse_url(url: str) -> IscsiUrl:
    """Raises UrlError."""
    if not url.startswith(ISCSI_PREFIX):
        raise UrlError(url, f"does not begin with {ISCSI_PREFIX}")
    words = url.removeprefix(ISCSI_PREFIX).split("/")
    if len(words) != 3:
        raise UrlError(url, "is not iscsi://PORTAL[:PORT]/TARGET/LUN")
    user, at, hosts = words[0].rpartition("@")
    if "%" in user or ":" in user:
        raise UrlError(url.replace(user, "..."), "holds a password, which everybody could read: use the environment or "
                       "a file (LIBISCSI_CHAP_PASSWORD, iscsi_credentials)")
    if at and not user:
        raise UrlError(url, "has an @ without a user")
    portals = tuple(parse_portal(text, url) for text in hosts.split(","))
    if len(portals) > PORTALS_MAX:
        raise UrlError(url, f"names {len(portals)} portals, at most {PORTALS_MAX}")
    target = unquote(words[1])
    if not is_name(target):
        raise UrlError(url, f"{target!r} is no target name (iqn.YYYY-MM.DOMAIN:NAME, eui.HEX or naa.HEX)")
    if not (words[2].isascii() and words[2].isdigit() and len(words[2]) <= 5 and int(words[2]) <= LUN_MAX):
        raise UrlError(url, f"{words[2]!r} is no LUN from 0 to {LUN_MAX}")
    return IscsiUrl(portals, target, int(words[2]), user or None)
