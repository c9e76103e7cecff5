"""A WTI power switch as its fence agent meets it: a telnet menu. The session is pure; room.py gives it a socket.

Only what administrators and `fence_wti` type: /S (status), /SG (groups: none), /ON, /OFF, /BOOT, /H, /X. A plug is
named by number, by name, or all of them by `*`; `,y` answers the question that a real one asks first.
Source: agents/wti/fence_wti.py of fence-agents for what is parsed; RFC 854 for telnet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LINE_BYTES_MAX = 256
SESSIONS_MAX = 8
LOGINS_MAX = 3
PROMPT = "IPS> "
_IAC, _DONT, _DO, _WONT, _WILL, _SB, _SE = 255, 254, 253, 252, 251, 250, 240


@dataclass(frozen=True, slots=True)
class Plug:
    """An outlet."""

    number: int
    name: str
    on: bool


@dataclass(frozen=True, slots=True)
class Switch:
    """An effect: switch this plug, then call `done`. `action` is on, off or boot."""

    name: str
    action: str


class Telnet:
    """Takes telnet's own commands out of a stream and refuses every option."""

    def __init__(self) -> None:
        self._command = bytearray()
        self.answer = bytearray()

    def feed(self, data: bytes) -> bytes:
        """What the user typed; `answer` then holds what telnet wants to hear."""
        out = bytearray()
        for byte in data:
            if not self._command:
                if byte == _IAC:
                    self._command.append(byte)
                else:
                    out.append(byte)
                continue
            self._command.append(byte)
            if self._finished():
                verb, option = self._command[1], self._command[-1]
                if verb in (_DO, _WILL):
                    self.answer += bytes((_IAC, _WONT if verb == _DO else _DONT, option))
                elif verb == _IAC:
                    out.append(_IAC)
                self._command.clear()
        return bytes(out)

    def _finished(self) -> bool:
        verb = self._command[1] if len(self._command) > 1 else 0
        if verb == _SB:
            return self._command.endswith(bytes((_IAC, _SE))) or len(self._command) > LINE_BYTES_MAX
        return len(self._command) == (3 if verb in (_DO, _DONT, _WILL, _WONT) else 2)


class Session:
    """One login. Feed it bytes; it appends to `out` and `effects`, and sets `closed`.

    While an effect runs, nothing further is taken: call done() when it is carried out.
    """

    def __init__(self, plugs: Callable[[], Sequence[Plug]], password: str) -> None:
        self._plugs = plugs
        self._password = password
        self._telnet = Telnet()
        self._line = bytearray()
        self._waiting: list[bytes] = []
        self._failures = 0
        self._logged_in = not password
        self.busy = 0
        self.closed = False
        self.out = bytearray()
        self.effects: list[Switch] = []
        self._say(PROMPT if self._logged_in else "Password: ", start=True)

    def _say(self, text: str, *, start: bool = False) -> None:
        self.out += (("\r\n" if start else "") + text.replace("\n", "\r\n")).encode()

    def feed(self, data: bytes) -> None:
        for byte in self._telnet.feed(data):
            if byte in b"\r\n":
                if self._line:
                    self._waiting.append(bytes(self._line))
                    self._line.clear()
            elif byte and len(self._line) < LINE_BYTES_MAX:
                self._line.append(byte)
        self.out += self._telnet.answer
        self._telnet.answer.clear()
        self._go_on()

    def done(self, error: str = "") -> None:
        """An effect was carried out, or not."""
        self.busy -= 1
        if error:
            self._say(f"*** {error}\n")
        if not self.busy:
            self._say(PROMPT)
            self._go_on()

    def _go_on(self) -> None:
        while self._waiting and not self.busy and not self.closed:
            line = self._waiting.pop(0).decode(errors="replace").strip()
            if self._logged_in:
                self._command(line)
            else:
                self._login(line)

    def _login(self, line: str) -> None:
        if line == self._password:
            self._logged_in = True
            self._say(f"\nInternet Power Switch (the lab's)\n\n{PROMPT}")
            return
        self._failures += 1
        self.closed = self._failures >= LOGINS_MAX
        self._say("\nInvalid password\n" + ("" if self.closed else "Password: "))

    def _command(self, line: str) -> None:
        found = re.fullmatch(r"/(\w+)\s*([^,]*?)\s*((,\s*y)?)", line, re.IGNORECASE)
        verb, target = (found[1].upper(), found[2]) if found else ("", "")
        if verb == "S":
            self._say(self._listing())
        elif verb == "SG":
            self._say("\nGROUP NAME | PLUG | NAME | STATUS\n-----------+------+------+-------\n\n")
        elif verb == "X":
            self._say("\nGoodbye\n")
            self.closed = True
            return
        elif verb == "H":
            self._say("\n/S status, /SG groups, /ON n, /OFF n, /BOOT n, /X exit\n")
        elif verb in ("ON", "OFF", "BOOT"):
            chosen = [p for p in self._plugs() if target in ("*", str(p.number)) or target.lower() == p.name.lower()]
            if chosen:
                self.busy = len(chosen)
                self.effects += [Switch(p.name, verb.lower()) for p in chosen]
                return
            self._say("*** Invalid plug\n")
        else:
            self._say("*** Invalid command: /H for help\n")
        self._say(PROMPT)

    def _listing(self) -> str:
        rows = [f" {p.number:<3} | {p.name:<16} | (undefined) | {'ON' if p.on else 'OFF':<6} | 0.5 Secs |   ON    |"
                for p in self._plugs()]
        return "\n".join(["", "Internet Power Switch (the lab's)", "",
                          "PLUG | NAME             |  PASSWORD   | STATUS | DELAY    | DEFAULT |",
                          "-----+------------------+-------------+--------+----------+---------+",
                          *rows, "", ""])
