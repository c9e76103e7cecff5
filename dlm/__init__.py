"""The distributed lock manager: the engine (dlm.core), its transport and the library for programs."""
