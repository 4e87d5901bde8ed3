"""The blocks of code in the pages of README and docs."""

import re
from pathlib import Path


def blocks(page: Path, language: str) -> list[str]:
    """The contents of the page's blocks in a language, such as 'sh'."""
    fenced = rf"^```{language}\n(.*?)^```"
    return re.findall(fenced, page.read_text(), re.MULTILINE | re.DOTALL)


def shell_lines(text: str) -> list[str]:
    """Its lines, those that end in a backslash joined with the next."""
    return text.replace("\\\n", " ").splitlines()
