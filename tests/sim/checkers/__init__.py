"""One module per subject: each checker watches what the stacks show and raises Violation when a rule is broken."""


class Violation(AssertionError):
    """A rule of the design was broken; the text says which, where and by whom."""


# What a machine can die of: reported with the seed, as a broken rule.
CRASHES = (AssertionError, ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
