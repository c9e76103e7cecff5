"""Histories: all nodes work on the same few files while faults strike, and one order must explain what everybody saw.

    make torture, or: python -m tests.histories --seed N --minutes M

`work` is a node's process: one operation at a time, its beginning and its end noted on the host; `faults` draws from a
seed what happens to whom; `campaign` does it and brings the nodes back; `models` says what registers, counters under
locks, names and appended lists are, and `linear` whether a history has an order that is one of theirs. In the manner of
Jepsen (https://jepsen.io) and its checker Knossos; the algorithm is Lowe's ("Testing for linearizability", 2017).
"""

import sys
from pathlib import Path

_TESTS = str(Path(__file__).resolve().parent.parent)
if _TESTS not in sys.path:          # run as tests.histories: the other test packages are beside this one
    sys.path.insert(0, _TESTS)
