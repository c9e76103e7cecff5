"""Two to four lockspaces as a state machine: hypothesis chooses every step, and shrinks what fails."""

from __future__ import annotations

from collections import deque

from dlm_net import Lock, Net
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from dlm.core.packets import Flag, LockMode

NAMES = [b"a", b"name of another resource", b"7"]
ANY = st.integers(0, 1 << 16)
MODE = st.sampled_from([LockMode.NL, LockMode.CR, LockMode.CW, LockMode.PR, LockMode.PW, LockMode.EX])


class Cluster(RuleBasedStateMachine):
    """The rules of tests/property/dlm_net.py hold at every step; at the end everything comes to rest and goes away."""

    @initialize(nodes=st.integers(2, 4))
    def begin(self, nodes: int) -> None:
        self.net = Net()
        self.all = set(range(1, nodes + 1))
        self.plan: deque[tuple[str, int]] = deque()
        for n in sorted(self.all):
            self.net.add(n)
        self.net.change(self.all)
        self.members = self.all
        self.net.settle()

    def some(self, at: int, pending: bool) -> Lock | None:
        locks = [x for x in self.net.locks.values() if bool(x.pending) == pending]
        return locks[at % len(locks)] if locks else None

    @rule(node=ANY, name=st.sampled_from(NAMES), mode=MODE,
          flags=st.sampled_from([0, Flag.NOQUEUE, Flag.NOQUEUE | Flag.NOQUEUEBAST, Flag.HEADQUE, Flag.ALTPR]))
    def request(self, node: int, name: bytes, mode: int, flags: int) -> None:
        self.net.lock(sorted(self.net.nodes)[node % len(self.net.nodes)], name, mode, flags)

    @rule(at=ANY, mode=MODE, flags=st.sampled_from([0, Flag.NOQUEUE, Flag.QUECVT, Flag.CONVDEADLK]))
    def convert(self, at: int, mode: int, flags: int) -> None:
        lock = self.some(at, False)
        if lock and lock.holds != mode:
            self.net.convert(lock, mode, flags)

    @rule(at=ANY)
    def unlock(self, at: int) -> None:
        if lock := self.some(at, False):
            self.net.unlock(lock)

    @rule(at=ANY, force=st.booleans())
    def give_up(self, at: int, force: bool) -> None:
        lock = self.some(at, True)
        if lock and lock.pending != "unlock":
            (self.net.force_unlock if force else self.net.cancel)(lock)

    @rule(at=ANY, times=st.integers(1, 5))
    def deliver(self, at: int, times: int) -> None:
        for n in range(times):
            if links := self.net.busy_links():
                self.net.deliver(links[(at + n) % len(links)])

    @rule()
    def tick(self) -> None:
        self.net.tick()

    @precondition(lambda self: self.plan)
    @rule()
    def control(self) -> None:
        what, node = self.plan.popleft()
        if node in self.net.nodes:
            if what == "stop":
                self.net.stop(node)
            else:
                self.net.start(node, self.members)

    @rule(at=ANY, lose=st.booleans(), back=st.booleans())
    def crash(self, at: int, lose: bool, back: bool) -> None:
        alive = sorted(self.net.nodes)
        node = alive[at % len(alive)]
        if len(alive) > 1:
            self.net.crash(node)
            if lose or back:
                self.net.drop_from(node)
        if back and len(alive) > 1:
            self.net.add(node)
        self.members = set(self.net.nodes)
        nodes = sorted(self.members, key=lambda n: (n * 7919 + at) % 13)
        self.plan = deque([("stop", n) for n in nodes] + [("start", n) for n in reversed(nodes)])

    def teardown(self) -> None:
        if not hasattr(self, "net"):
            return
        while self.plan:
            self.control()
        self.net.settle()
        self.net.check_quiet()
        self.net.drain()


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
