"""The house rules as code: files.py lists the files, rules.py judges them, imports.py their layers."""
