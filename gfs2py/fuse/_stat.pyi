from collections.abc import Iterable
from typing import Any

def histogram(values: Iterable[int]) -> dict[str, Any]: ...
