"""Power-offs: real nodes in the lab write, some die at a moment drawn from a seed, and everything must be there.

    python -m tests.poweroffs --seed N --count K

What is acknowledged stands in ledgers on the host, which no node's death touches (`things`); workers on all nodes
write, sync and note it (`work`); a judge compares disk and ledgers, on any node and at any time (`judge`); `plan`
draws who dies when and how; `campaign` does it.
"""

import sys
from pathlib import Path

_TESTS = str(Path(__file__).resolve().parent.parent)
if _TESTS not in sys.path:          # run as tests.poweroffs: the other test packages are beside this one
    sys.path.append(_TESTS)
