# Nothing for Python: the functions are for the engine's modules.
