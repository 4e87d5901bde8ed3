"""Answers for people, against text written out by hand."""

import io
import os
import sys

from alexnet_jax import bars

ANSWER = {
    "image": "holiday/cat\x1b.jpg",
    "top": [
        {"label": 3, "name": "tabby", "probability": 0.612},
        {"label": 1, "name": "tiger cat", "probability": 0.25},
        {"label": 0, "name": "Egyptian cat", "probability": 0.001},
    ],
}
ALIKE = {"image": "q.jpg", "neighbours": [{"image": "a\tb.jpg", "distance": 12.345678}]}


class Terminal(io.StringIO):
    """A stdout of some encoding."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    size = os.terminal_size((72, 24))
    monkeypatch.setattr("shutil.get_terminal_size", lambda: size)


def test_few_images_have_a_block_each(monkeypatch):
    open_terminal(monkeypatch)
    assert bars.layout(["holiday/cat.jpg"])(ANSWER) == (
        "holiday/cat?.jpg\n"
        "   61.2%  ████████████▎         tabby\n"
        "   25.0%  █████                 tiger cat\n"
        "    0.1%                        Egyptian cat\n"
    )
    assert bars.layout(["q.jpg"])(ALIKE) == "q.jpg\n       12.35  a?b.jpg\n"


def test_many_images_have_a_line_each_with_the_classes_that_fit(monkeypatch):
    open_terminal(monkeypatch)
    readable = bars.layout(["holiday/cat.jpg"] * 13)
    line = readable(ANSWER)
    assert len(line) <= 72
    assert line.startswith("…liday/cat?.jpg  ████████████▎          61.2% tabby")
    assert "Egyptian" not in line
    assert readable(ALIKE) == "q.jpg            12.35 a?b.jpg"


def test_bars_of_shares():
    assert bars.bar(0) == ""
    assert bars.bar(1) == "█" * 20
    assert bars.bar(0.5 / 20) == "▌"


def test_a_terminal_without_blocks_has_ascii(monkeypatch):
    plain = Terminal()
    plain.encoding = "ascii"
    monkeypatch.setattr(sys, "stdout", plain)
    assert bars.bar(0.5) == "#" * 10


def test_a_pipe_has_columns(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    readable = bars.layout(["x"])
    assert readable(ANSWER).splitlines()[0] == "holiday/cat?.jpg\t0.612000\t3\ttabby"
    assert readable(ALIKE) == "q.jpg\t12.3457\ta?b.jpg"
