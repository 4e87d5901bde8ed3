"""Files that stay open while they are read from in many places."""

import os


class Descriptors:
    """Opens each file when it is first read; a worker that is sent this opens its own.

    Reading by position (`os.pread`), threads share them.
    """

    def __init__(self):
        """None is open yet."""
        self._open: dict[str, int] = {}

    def of(self, file: str | os.PathLike) -> int:
        """The descriptor of a file.

        Raises:
            OSError: it cannot be opened.
        """
        name = os.fspath(file)
        if name not in self._open:
            descriptor = os.open(name, os.O_RDONLY)
            if self._open.setdefault(name, descriptor) != descriptor:
                os.close(descriptor)  # another thread was faster
        return self._open[name]

    def __reduce__(self):
        return Descriptors, ()

    def __del__(self):
        for descriptor in self._open.values():
            os.close(descriptor)
