# Nothing of this module is visible from Python: it is cimported by the other passes.
