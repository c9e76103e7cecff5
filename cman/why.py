"""What is blocked, asked of this node's clients and of all members: the daemon's side of `cman_tool why`.

A client that can explain itself has said so ("explains"); it is asked by the event "why" and answers with "answer". A
question to the cluster is a control message, which each member answers with its facts. Who does not answer within a
limit is named, so nothing that hangs can make this hang. What the facts mean is cman.explain's business.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgpack
import trio

from cman import protocol
from cman.facts import node_facts, statistics
from cman.node import Asked, NodeMachine, Told
from cman.protocol import Arguments, CmanError
from cman.recovery import WORDS, Phase
from cman.server import Client, Handler
from cman.totem import State
from cman.views import QdiskView

log = logging.getLogger("cman.CMAN")

CLIENT_LIMIT_S = 1.0            # for a client to say what it waits for
MEMBER_LIMIT_S = 3.0            # for a member, which may have to wait for its clients that long
ANSWERS_MAX = 8                 # questions of members that are being answered at once
TOLD_BYTES_MAX = 1 << 20        # of all facts together in the reply to a tool
CLIENT_FACTS_BYTES_MAX = 96 << 10
_NOTHING: Mapping[str, object] = {}


class Disk(Protocol):
    """The quorum disk, as seen from here."""

    def view(self) -> QdiskView: ...


class Owner(Protocol):
    """The daemon, as seen from here."""

    node: NodeMachine

    @property
    def disk(self) -> Disk: ...

    def now(self) -> int: ...
    def pump(self) -> None: ...


def comm_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return "(ended)"


def without_waits(facts: dict[str, Any]) -> dict[str, Any]:
    """The same without the lists of who waits for a lock, which alone can be long."""
    clients = []
    for client in facts.get("clients", ()):
        answer = client.get("answer")
        if answer is not None:
            answer = {**answer, "mounts": [{**m, "waits": [], "holds": []} for m in answer.get("mounts", ())]}
        clients.append({**client, "answer": answer})
    return {**facts, "clients": clients}


class _Open:
    """A question under way: who has to answer, and what came."""

    def __init__(self, wanted: set[int]) -> None:
        self.wanted = wanted
        self.came: dict[int, Mapping[str, Any]] = {}
        self.done = trio.Event()

    def take(self, sender: int, facts: Mapping[str, Any]) -> None:
        if sender in self.wanted:
            self.came[sender] = facts
            if len(self.came) == len(self.wanted):
                self.done.set()

    async def wait(self, limit_s: float) -> None:
        if self.wanted:
            with trio.move_on_after(limit_s):
                await self.done.wait()


class Why:
    """Operations, effects, and a task for the answers to other members."""

    def __init__(self, owner: Owner, clients: Mapping[int, Client]) -> None:
        self._owner, self._clients = owner, clients
        self._numbers = itertools.count(1)
        self._of_clients: dict[int, _Open] = {}
        self._of_members: dict[int, _Open] = {}
        self._questions, self._asked = trio.open_memory_channel[Asked](ANSWERS_MAX)

    def table(self) -> dict[str, Handler]:
        return {"why": self.why, "explains": self.explains, "answer": self.answer, "recovery": self.recovery,
                "statistics": self.statistics}

    # Operations

    async def why(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        """cluster: all members, not this node only."""
        nodes = [await self._here(client.number)]
        silent: list[dict[str, Any]] = []
        if protocol.switch(arguments, "cluster"):
            others, silent = await self._elsewhere()
            nodes += others
        if sum(len(msgpack.packb(n)) for n in nodes) > TOLD_BYTES_MAX:
            nodes = [without_waits(n) for n in nodes]
        return {"nodes": nodes, "silent": silent}

    async def explains(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        client.explains = True
        return _NOTHING

    async def answer(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        """Too late an answer changes nothing."""
        facts = arguments.get("facts")
        question = self._of_clients.get(protocol.whole(arguments, "number", 0, 1 << 53))
        if question is not None and isinstance(facts, Mapping):
            if len(msgpack.packb(facts)) > CLIENT_FACTS_BYTES_MAX:
                facts = without_waits({"clients": [{"answer": facts}]})["clients"][0]["answer"]
            question.take(client.number, facts)
        return _NOTHING

    async def recovery(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        """How far a client is with recovering from a loss."""
        phase = WORDS.get(protocol.text(arguments, "phase"))
        if phase is None or not Phase.DLM <= phase <= Phase.RESUME:
            raise CmanError(protocol.BAD_ARGUMENT, "phase must be dlm, journal or resume")
        detail = arguments.get("detail", "")
        self._owner.node.report(client.number, protocol.text(arguments, "group", protocol.GROUP_NAME_MAX),
                                protocol.whole(arguments, "generation", 0, 1 << 62), phase,
                                protocol.switch(arguments, "done"), detail if isinstance(detail, str) else "",
                                self._owner.now())
        self._owner.pump()
        return _NOTHING

    async def statistics(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        return {**statistics(self._owner.node, self._owner.now()), "qdisk": self._disk(), "clients": len(self._clients),
                "subsystems": sum(len(c.subsystems) for c in self._clients.values()),
                "unread_bytes": sum(c.waiting_bytes for c in self._clients.values())}

    # Effects

    def asked(self, effect: Asked) -> None:
        if effect.sender == self._owner.node.me:
            return
        try:
            self._questions.send_nowait(effect)
        except trio.WouldBlock:
            log.warning("%d questions of members are being answered: one of node %d is not", ANSWERS_MAX, effect.sender)

    def told(self, effect: Told) -> None:
        if (question := self._of_members.get(effect.number)) is not None:
            question.take(effect.sender, effect.facts)

    async def run(self) -> None:
        """Answers members, until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(ANSWERS_MAX):
                nursery.start_soon(self._answer_members, self._asked.clone())

    async def _answer_members(self, questions: trio.MemoryReceiveChannel[Asked]) -> None:
        async for question in questions:
            facts = await self._here(0)
            node = self._owner.node
            try:
                node.say_facts(question.sender, question.number, facts, self._owner.now())
            except ValueError:
                node.say_facts(question.sender, question.number, without_waits(facts), self._owner.now())
            self._owner.pump()

    # Inside

    async def _here(self, asker: int) -> dict[str, Any]:
        """This node: its own facts, and those of its clients."""
        numbers = [c.number for c in self._clients.values() if c.explains and c.number != asker]
        number, question = next(self._numbers), _Open(set(numbers))
        self._of_clients[number] = question
        began = trio.current_time()
        try:
            for one in numbers:
                self._clients[one].push(protocol.frame({"event": "why", "number": number}))
            await question.wait(CLIENT_LIMIT_S)
        finally:
            del self._of_clients[number]
        waited_ms = max(1, round((trio.current_time() - began) * 1000))
        clients = [{"pid": c.pid, "comm": comm_of(c.pid), "subsystems": sorted(c.subsystems),
                    "answer": question.came.get(c.number),
                    "silent_ms": waited_ms if c.number in question.wanted and c.number not in question.came else None}
                   for c in self._clients.values() if c.subsystems or c.number in question.wanted]
        return {**node_facts(self._owner.node, self._owner.now()), "clients": clients, "qdisk": self._disk()}

    def _disk(self) -> dict[str, Any] | None:
        """The quorum disk, None without one."""
        view = self._owner.disk.view()
        return dataclasses.asdict(view) if view.configured else None

    async def _elsewhere(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """All other members, and those of them that did not answer."""
        node = self._owner.node
        others = {n for n in node.members if n != node.me}
        if not others or node.totem.state is not State.OPERATIONAL:
            return [], []
        number, question = next(self._numbers), _Open(others)
        self._of_members[number] = question
        try:
            node.control(self._owner.now(), t="why", number=number)
            self._owner.pump()
            await question.wait(MEMBER_LIMIT_S)
        finally:
            del self._of_members[number]
        silent = [{"node": node.name_of(n), "name": "cman", "pid": 0, "for_ms": round(MEMBER_LIMIT_S * 1000)}
                  for n in sorted(others - set(question.came))]
        return [dict(question.came[n]) for n in sorted(question.came)], silent
