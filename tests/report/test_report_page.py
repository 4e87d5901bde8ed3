import base64
import csv
import functools
import io
import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from apps import refusal, run_app
from matplotlib.colors import to_rgb
from pictures import Numbered
from PIL import Image
from runs import (
    SCRATCH,
    contents,
    copy_of_finished_run,
    finished_run,
    logged,
    tiny_config,
    tiny_flags,
    unsealed,
    weights,
)

from alexnet_jax import experiment, workdir
from alexnet_jax.data.generated import Generated
from alexnet_jax.errors import InputError
from alexnet_jax.report import page
from alexnet_jax.report.answers import figure_4_left
from alexnet_jax.report.images import Example
from alexnet_jax.report.page import make_report
from alexnet_jax.report.themes import DARK, LIGHT

ALL = ("curves", "kernels", "answers", "classes", "mistakes", "neighbours")
VOID = {"meta", "img", "source", "br", "wbr"}


@functools.cache
def report_of_finished_run() -> Path:
    """Of the finished run, with one class that HTML would take for a tag."""
    folder = copy_of_finished_run(SCRATCH / "<i>&run")
    return make_report([folder], SCRATCH / "report")


class Parsed(HTMLParser):
    """A page: its text, the files that it embeds, and whether all tags are closed."""

    def __init__(self, file: Path):
        super().__init__()
        self.words, self.pictures, self.open = [], [], []
        self.html = file.read_text()
        self.feed(self.html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attributes)
        assert "script" not in tag
        assert not {"href", "onload"} & given.keys()
        assert "srcset" not in given
        if "src" in given:
            kind, data = given["src"].split(",", 1)
            assert (tag, kind) == ("img", "data:image/png;base64")
            pixels = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            self.pictures.append((given["class"], given["alt"], pixels))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_page_needs_no_other_file():
    html = report_of_finished_run().read_text()
    without = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", html)
    assert "http" not in without
    assert "url(" not in without
    assert "<script" not in without
    assert len(without) < 20_000
    assert Parsed(report_of_finished_run()).pictures


def test_the_page_has_the_numbers_of_the_log():
    text, last = Parsed(report_of_finished_run()).text, logged(finished_run())[-1]
    assert f"top-1 error {last['validation/top1_error']:.2%} validation" in text
    assert f"top-5 error {last['validation/top5_error']:.2%} validation" in text
    assert f"loss {last['validation/loss']:.4f} validation" in text
    assert "epochs 3.8 steps 24" in text
    assert "generated , 100 training images, 10 classes, 72×72 pixels" in text
    assert (
        "5 convolutional and 3 fully-connected layers, 2 towers, 5,482 parameters"
        in text
    )
    assert "on crops of 64×64" in text
    assert "alexnet_jax.evaluate --views=10 --checkpoint=" in text
    assert "all 40 validation images" in text
    assert "by the 16 activations of fc7" in text
    assert "not complete" not in text


def test_every_figure_is_there_in_both_themes_and_as_a_file():
    file = report_of_finished_run()
    parsed = Parsed(file)
    for name, theme in (("dark", DARK), ("light", LIGHT)):
        own = [image for which, _, image in parsed.pictures if which == name]
        assert len(own) == 2 + 2 + 8 + 2 + 8 + 5
        paper = (255 * np.array(to_rgb(theme.paper))).round().tolist()
        assert all(list(image.getpixel((0, 0))[:3]) == paper for image in own)
    described = [alt for _, alt, _ in parsed.pictures]
    assert all(described)
    assert described[::2] == described[1::2]
    # Dark ones are hidden but on a dark screen: print is light.
    style = parsed.html.partition("<style>")[2].partition("</style>")[0]
    before, dark = style.split("@media screen and (prefers-color-scheme: dark) {")
    assert ".dark { display: none; }" in before
    assert ".light" not in before
    assert ".dark { display: block; }\n  .light { display: none; }" in dark
    assert {path.stem for path in file.parent.glob("*.png")} == set(ALL)
    positions = [parsed.html.index(f'id="{name}"') for name in ALL]
    assert positions == sorted(positions)
    for path in file.parent.glob("*.png"):
        assert Image.open(path).getpixel((0, 0))[:3] == (255, 255, 255)


def test_figures_are_those_of_the_network():
    text = Parsed(report_of_finished_run()).text
    kernels = weights(finished_run())["conv1.kernel"]
    towers = []
    for own in np.split(kernels, 2, axis=-1):
        grey = np.repeat(own.mean(2, keepdims=True), 3, axis=2)
        shares = 1 - (grey**2).sum((0, 1, 2)) / (own**2).sum((0, 1, 2))
        towers.append(shares.mean())
    one, two = (f"tower {i}: {share:.0%} coloured" for i, share in enumerate(towers, 1))
    assert f"{one}; {two}." in text
    assert "after step 24" in text


def test_the_validation_images_are_answered_by_the_network():
    (run,) = page.read_runs([finished_run()])
    trained = page.load(run)
    source = Generated(40, 72, 0, "validation")
    blocks, hidden, p = zip(*trained.over(source), strict=True)
    rows = np.concatenate([block.rows for block in blocks])
    np.testing.assert_array_equal(rows, np.arange(40))
    labels = np.concatenate([block.labels for block in blocks])
    np.testing.assert_array_equal(labels, [source[i][2] for i in range(40)])

    # The plain statement of it: centre crop, less the mean, up to the unit of fc7.
    params = {}
    for name, weight in weights(finished_run()).items():
        layer, kind = name.split(".")
        params.setdefault(layer, {})[kind] = weight
    mean = np.load(finished_run() / "statistics.npz")["mean_image"]
    squares = np.stack([source[i][1] for i in range(40)])
    network = experiment.make_network(tiny_config(), 10)
    centre = (squares - mean)[:, 4:68, 4:68]
    expected = network.apply({"params": params}, centre, until="fc7")
    assert expected.shape == (40, 16)
    assert (expected >= 0).all()
    np.testing.assert_allclose(np.concatenate(hidden), expected, rtol=1e-4, atol=1e-5)
    logits = expected / 2 @ params["fc8"]["kernel"] + params["fc8"]["bias"]
    powers = np.exp(np.float64(logits))
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.concatenate(p), expected, rtol=1e-4)
    some = squares[3:8]
    np.testing.assert_allclose(trained.centre_view(some), expected[3:8], rtol=1e-4)

    damaged = trained.over(Numbered(20, unreadable=5))
    rows = np.concatenate([block.rows for block, *_ in damaged])
    assert rows.tolist() == [i for i in range(20) if i != 5]
    # The errors of the page are those that evaluate finds.
    error = np.mean(expected.argmax(axis=1) != labels)
    text = Parsed(report_of_finished_run()).text
    assert f"{round(40 * error)} ({error:.1%})" in text


def test_names_from_outside_are_text(tmp_path):
    folder = unsealed(copy_of_finished_run(tmp_path / "a<b>&\"c'"))
    names = (folder / "classes.txt").read_text().splitlines()
    first = 'caf\udce9 <b>&"'  # no UTF-8, and a tag
    (folder / "classes.txt").write_text(
        "\n".join([first, *names[1:]]), errors="surrogateescape"
    )
    assert workdir.read_classes(folder / "classes.txt")[0] == first
    file = make_report([folder])
    html = file.read_text()
    assert '<b>&"' not in html
    assert "a&lt;b&gt;&amp;" in html
    parsed = Parsed(file)  # the images have other classes: no Figure 4
    assert "a<b>&\"c'" in parsed.text
    assert "Figure 4 is not complete: dataset.validation" in parsed.text


def test_class_names_are_escaped():
    grey = np.zeros((8, 8, 3), np.uint8)
    classes = ['<b>&"', "other"]
    html = figure_4_left([Example(0, grey, 0)], np.array([[0.5, 0.5]]), classes).html()
    assert 'alt="An image of class &lt;b&gt;&amp;&quot;; predicted: &lt;b&gt;' in html


def test_several_runs_make_one_comparison(tmp_path):
    other = unsealed(copy_of_finished_run(tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config["optimizer"]["rate"], config["seed"] = 0.5, 7
    config["epochs"] = 3.0
    (other / "config.json").write_text(json.dumps(config))
    lines = logged(other)
    for line in lines:
        line["train/top1_error"] = 1 - line["epoch"] / 4
    (other / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    before = contents(finished_run())
    out = tmp_path / "both"
    file = make_report([other, finished_run()], out, threshold=0.5, index="train")
    assert file == out / "index.html"
    assert contents(finished_run()) == before
    assert not (other / "report").exists()
    assert {path.stem for path in out.glob("*.png")} == {*ALL, "figure1"}
    text = Parsed(file).text
    assert text.startswith("2 runs compared 2 runs compared Data:")
    assert "other the first 7 3.8" in text
    assert "optimizer.rate 0.01" in text
    assert "epochs until 50% training error" in text
    assert "other after 2.00 epochs; finished never (lowest" in text
    assert "other, tower 1: " in text
    assert "finished, tower 2: " in text
    assert "all 100 training images" in text
    assert (
        text.index("Figure 1") < text.index("Figure 3") < text.index("Figure 4, left")
    )


# --- what is missing ------------------------------------------------------------------


def test_a_run_that_has_hardly_begun(tmp_path, capsys):
    folder = copy_of_finished_run(tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    (folder / "classes.txt").unlink()
    lines = (folder / "metrics.jsonl").read_bytes().split(b"\n")
    (folder / "metrics.jsonl").write_bytes(
        b"\n".join(lines[:2]) + b'\n{"step": 15, "ep'
    )
    (folder / "report").mkdir()
    (folder / "report" / "answers.png").write_bytes(b"of an earlier report")
    text = Parsed(make_report([folder])).text
    missing = "run: no kernels, answers and neighbours: it has no checkpoint yet"
    assert capsys.readouterr().err == f"report: {missing}\n"
    assert missing in text
    assert "run: not complete: 7 of 24 (29%) steps are done." in text
    assert f"alexnet_jax.main --workdir={folder} --config=" in text
    assert [path.name for path in (folder / "report").glob("*.png")] == ["curves.png"]


def test_a_run_without_a_log(tmp_path, capsys):
    folder = copy_of_finished_run(tmp_path / "run")
    (folder / "metrics.jsonl").write_text("")
    before = contents(folder)
    text = Parsed(make_report([folder])).text
    after = contents(folder)
    files = {f"report/{name}.png" for name in ALL[1:]} | {"report/index.html"}
    assert after.keys() - before.keys() == files
    assert {name: after[name] for name in before} == before
    missing = "run: no curves: metrics.jsonl has no line yet"
    assert capsys.readouterr().err == f"report: {missing}\n"
    assert missing in text
    assert "Figure 3" in text
    assert "Figure 4, right" in text


def test_a_damaged_line_of_the_log_is_told_of(tmp_path, capsys):
    folder = copy_of_finished_run(tmp_path / "run")
    log = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join([log[0], "{\n", *log[1:]]))
    text = Parsed(make_report([folder])).text
    missing = "run: metrics.jsonl: damaged in line 2, left out"
    assert capsys.readouterr().err == f"report: {missing}\n"
    assert missing in text
    assert "Figure 4, right" in text


def test_images_that_are_gone(tmp_path, capsys):
    folder = unsealed(copy_of_finished_run(tmp_path / "run"))
    config = json.loads((folder / "config.json").read_text())
    config["dataset"] |= {"source": "folder", "validation": "/nowhere/val"}
    (folder / "config.json").write_text(json.dumps(config))
    text = Parsed(make_report([folder])).text
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("report: run: Figure 4 is not complete: dataset.validation=")
    assert line.removeprefix("report: ") in text
    assert "Figure 3" in text
    assert {p.stem for p in (folder / "report").glob("*.png")} == {"curves", "kernels"}


def test_training_images_that_are_gone_leave_the_answers(tmp_path, capsys):
    folder = copy_of_finished_run(tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["dataset"]["train"] = "all"
    (folder / "config.json").write_text(json.dumps(config))
    text = Parsed(make_report([folder], index="train")).text
    assert "Figure 4 is not complete: dataset.train='all'" in capsys.readouterr().err
    assert "Figure 4, left" in text
    assert "Errors by class" in text
    assert "Figure 4, right" not in text


def test_a_checkpoint_that_is_deleted_while_it_is_read(tmp_path, monkeypatch):
    folder = copy_of_finished_run(tmp_path / "run")
    (run,) = page.read_runs([folder])
    real, calls = workdir.load_model, []

    def deleted(*arguments, **options):
        calls.append(page.newest(folder))
        if len(calls) == 1:
            shutil.rmtree(folder / "checkpoints" / "24")
            raise InputError("24: a damaged checkpoint")
        return real(*arguments, **options)

    monkeypatch.setattr(workdir, "load_model", deleted)
    trained = page.load(run)
    assert calls == [24, 20]
    assert trained.step == 20
    expected = weights(folder)["conv1.kernel"]
    np.testing.assert_array_equal(trained.first_layer(), expected)


def test_a_damaged_checkpoint_is_named(tmp_path, capsys):
    folder = copy_of_finished_run(tmp_path / "run")
    for file in (folder / "checkpoints" / "24" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    text = Parsed(make_report([folder])).text
    assert f"{folder}/checkpoints/24: a damaged checkpoint" in text
    assert "a damaged checkpoint" in capsys.readouterr().err
    assert {p.stem for p in (folder / "report").glob("*.png")} == {"curves"}


# --- the app --------------------------------------------------------------------------


def test_the_app_prints_the_path(tmp_path):
    answer = run_app(
        "report",
        f"--workdir={finished_run()}",
        f"--destination={tmp_path / 'new' / 'x'}",
    )
    assert answer == (0, f"report: {tmp_path}/new/x/index.html\n", "")


def test_a_training_ends_well_where_no_report_can_be_written(tmp_path):
    folder = copy_of_finished_run(tmp_path / "run")
    (folder / "report").write_text("a file")
    answer = run_app("main", *tiny_flags(folder))  # there is nothing left to train
    assert answer.status == 0
    done, report, best, *commands = answer.out.splitlines()[-5:]
    assert done == f"done: {folder}"
    assert report.startswith("report: not written: ")
    assert "File exists" in report
    assert best.startswith("best validation: top-1 error ")
    assert all(f"--checkpoint={folder}" in command for command in commands)


def test_names_with_commas_are_folders(tmp_path):
    # launch/sweep.py makes such names.
    runs = [tmp_path / "relu,seed=0", tmp_path / "relu,seed=1"]
    for run in runs:
        run.mkdir()
        for name in ("config.json", "metrics.jsonl"):
            shutil.copy(finished_run() / name, run)
    given = ",".join(map(str, runs))
    answer = run_app("report", f"--workdir={given}", "--destination=" + str(tmp_path))
    assert answer.status == 0
    text = Parsed(tmp_path / "index.html").text
    assert text.startswith("2 runs compared")
    assert "relu, seed=1 nothing 0 3.8" in text
    alone = Parsed(make_report(runs[:1])).text
    command = alone.partition("alexnet_jax.evaluate --views=10 --checkpoint=")[2]
    (given,) = shlex.split(command)[:1]
    assert next(csv.reader([given])) == [str(runs[0])]  # as absl reads a list


def test_bad_input_is_one_line(tmp_path):
    assert "--workdir: must be given" in refusal("report")
    assert refusal("report", "--workdir=") == "error: --workdir=: name a work directory"
    assert "--workdir=a,,b: name a work" in refusal("report", "--workdir=a,,b")
    line = refusal("report", f"--workdir={finished_run()},{tmp_path}")
    assert line.startswith(f"error: {tmp_path}/config.json: no such file; give a work")
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(finished_run() / "config.json", begun)
    line = refusal("report", f"--workdir={begun}")
    assert line == (
        f"error: --workdir={begun}: has neither a line in metrics.jsonl nor a "
        "checkpoint; give a run that has trained for a while"
    )
    shutil.copy(finished_run() / "metrics.jsonl", begun)
    (begun / "report").write_text("a file")
    assert f"{begun}/report: File exists" in refusal_after_a_note(begun)
    assert "--threshold=2" in refusal("report", f"--workdir={begun}", "--threshold=2")
    assert "--index=test" in refusal("report", f"--workdir={begun}", "--index=test")
    assert "'x': not a flag" in refusal("report", f"--workdir={begun}", "x")


def refusal_after_a_note(folder: Path) -> str:
    answer = run_app("report", f"--workdir={folder}")
    assert answer.status == 2
    note, line = answer.err.splitlines()
    assert note == (
        "report: begun: no kernels, answers and neighbours: it has no checkpoint yet"
    )
    return line
