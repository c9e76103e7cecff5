"""Starts a part of the lab in an interpreter without its search for packages, which takes most of its start.

    python3 -IS start.py init|enter [ARGUMENT...]
"""

import os
import sys

PARTS = {"init": "lab.init", "enter": "lab.enter"}


def run(part: str, arguments: list[str]) -> int:
    """The exit status of the part."""
    module = __import__(PARTS[part], fromlist=["main"])
    status: int = module.main(arguments)
    return status


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    result = run(sys.argv[1], sys.argv[2:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(result)
