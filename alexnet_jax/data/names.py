"""Lists of names, one a line, with whatever bytes a disk allows in names."""

import os
from collections.abc import Iterable
from pathlib import Path


def write_names(path: Path, names: Iterable[str]) -> None:
    """Writes a list, whole or not at all: other processes may be reading it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    text = "".join(name.replace("\n", " ") + "\n" for name in names)
    temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
    os.replace(temporary, path)


def read_names(path: Path) -> list[str]:
    """What `write_names` wrote.

    Raises:
        OSError: it cannot be read.
    """
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return text.removesuffix("\n").split("\n") if text else []
