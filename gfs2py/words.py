"""The words of a command line, where argparse would take longer to load than the command to run."""


def split(argv: list[str], flags: str, valued: str) -> tuple[dict[str, list[str]], list[str]] | None:
    """Single-letter options and the rest: ({letter: [value, ...]}, [word, ...]).

    A flag's value is "". None for anything that is not plain (long options, letters not known, a value
    missing): then a real parser has to read it, or to say what is wrong.
    """
    found: dict[str, list[str]] = {}
    words: list[str] = []
    rest = iter(argv)
    for word in rest:
        if word == "-" or not word.startswith("-"):
            words.append(word)
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter in flags:
                found.setdefault(letter, []).append("")
            elif letter in valued:
                value = letters or next(rest, None)
                if value is None or value.startswith("-"):
                    return None
                found.setdefault(letter, []).append(value)
                letters = ""
            else:
                return None
    return found, words
