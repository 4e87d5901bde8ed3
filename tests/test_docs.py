"""The commands in README and docs: their flags, configs and keys exist."""

import re
import shlex
from pathlib import Path

import pytest
from apps import ROOT, parse_app
from pages import blocks, shell_lines
from runs import tiny_config

from alexnet_jax.workdir import write_config

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def commands(page: Path) -> list[list[str]]:
    """The words of each shell command of a page that runs one of the apps."""
    if page.suffix == ".py":  # an indented block of the docstring
        docstring = page.read_text().split('"""')[1]
        found = re.findall(r"(?:^    .*\n)+", docstring, re.MULTILINE)
    else:
        found = blocks(page, "sh")
    words = [shlex.split(line, comments=True) for line in shell_lines("".join(found))]
    return [w[w.index("-m") + 1 :] for w in words if "-m" in w and "pip" not in w]


ALL = [
    pytest.param(command, id=f"{page.name}-{number}")
    for page in [*PAGES, *CONFIGS]
    for number, command in enumerate(commands(page), 1)
    if command[0].startswith("alexnet_jax.")
]


@pytest.mark.parametrize("command", ALL)
def test_a_command_of_the_docs_parses(command, tmp_path):
    write_config(tiny_config(), tmp_path / "config.json")  # of every run
    name, *arguments = (re.sub(r"\bruns/\w+", str(tmp_path), word) for word in command)
    answer = parse_app(name.removeprefix("alexnet_jax."), *arguments)
    assert answer.status == 0, f"{shlex.join(command)}: {answer.err}"


def test_there_are_commands_and_wrong_ones_are_found():
    assert len(ALL) >= 30
    wrong = ("--config=configs/paper.py", "--workdir=W", "--config.bach_size=1")
    assert "did you mean 'batch_size'" in parse_app("main", *wrong).err
