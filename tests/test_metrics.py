"""Sums against a sorting oracle, and metrics.jsonl after kills."""

import json

import jax
import numpy as np
import pytest

from alexnet_jax.metrics import MetricsFile, Sums, read_log, read_metrics, score


def log_probabilities(rng, examples: int, classes: int, levels: int = 0) -> np.ndarray:
    """Random ones; with `levels`, logits are so many integers and often tie."""
    logits = rng.normal(0, 2, (examples, classes))
    if levels:
        logits = rng.integers(0, levels, (examples, classes)).astype(float)
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def sorted_by_hand(log_probs, labels, weights) -> Sums:
    """Sorts every example's classes, likeliest first, equal ones by label."""
    images = loss = top1 = top5 = 0
    for row, label, weight in zip(log_probs, labels, weights, strict=True):
        if weight == 0:
            continue
        order = sorted(range(len(row)), key=lambda c: (-row[c], c))
        images += 1
        loss -= float(row[label])
        top1 += label not in order[:1]
        top5 += label not in order[:5]
    return Sums(images, loss, top1, top5)


@pytest.mark.parametrize("levels", [0, 3], ids=["distinct", "ties"])
@pytest.mark.parametrize("classes", [1000, 10, 6, 5, 3, 2])
def test_score_is_what_sorting_says(classes, levels):
    rng = np.random.default_rng(classes)
    log_probs = log_probabilities(rng, 64, classes, levels)
    labels = rng.integers(0, classes, 64).astype(np.int32)
    weights = (rng.random(64) < 0.7).astype(np.float32)
    sums = score(log_probs, labels, weights)
    expected = sorted_by_hand(log_probs, labels, weights)
    for count in ("images", "top1", "top5"):
        assert getattr(sums, count) == getattr(expected, count), count
    np.testing.assert_allclose(sums.loss, expected.loss, rtol=1e-5)
    assert expected.top5 == 0 or classes > 5


def test_a_network_that_says_nothing_is_wrong_about_most():
    uniform = np.full((1000, 1000), -np.log(1000), np.float32)
    sums = score(uniform, np.arange(1000), np.ones(1000, np.float32))
    assert (sums.top1, sums.top5) == (999, 995)


@pytest.mark.parametrize("classes", [10, 3])
def test_nan_is_wrong_and_does_not_hide(classes):
    log_probs = np.full((2, classes), np.nan, np.float32)
    log_probs[1] = -np.log(classes)
    sums = score(log_probs, np.array([0, 0]), np.ones(2, np.float32))
    assert (sums.images, sums.top1, sums.top5) == (2, 1, 1)
    assert np.isnan(sums.loss)


def test_padding_counts_for_nothing_whatever_it_holds():
    log_probs = np.full((3, 10), np.nan, np.float32)
    log_probs[1] = -np.log(10)
    sums = score(log_probs, np.array([4, 4, 4]), np.array([0, 1, 0], np.float32))
    assert (sums.images, sums.top1, sums.top5) == (1, 1, 0)
    np.testing.assert_allclose(sums.loss, np.log(10), rtol=1e-6)


def test_sums_add_up_to_rates():
    total = Sums.zero() + Sums(3.0, 6.0, 2.0, 1.0) + Sums(1.0, 4.0, 1.0, 0.0)
    assert total.rates() == {"loss": 2.5, "top1_error": 0.75, "top5_error": 0.25}


def test_gradient_of_the_loss_is_that_of_the_own_class():
    log_probs = log_probabilities(np.random.default_rng(0), 3, 6)
    labels, weights = np.array([5, 0, 2]), np.array([1, 1, 0], np.float32)
    gradient = jax.grad(lambda p: score(p, labels, weights).loss)(log_probs)
    expected = np.zeros((3, 6))
    expected[0, 5] = expected[1, 0] = -1
    np.testing.assert_array_equal(gradient, expected)


# --- metrics.jsonl -------------------------------------------------------------------


def lines(*steps: int) -> list[dict]:
    return [{"step": step, "loss": step / 8, "kind": "train"} for step in steps]


def write(path, resumed_step: int, *steps: int) -> None:
    file = MetricsFile(path, resumed_step)
    for line in lines(*steps):
        file.write(line)
    file.close()


def test_lines_are_json_in_the_order_they_were_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, 20, 40)
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines(20, 40)
    assert read_metrics(path) == lines(20, 40)


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    file.write(lines(20)[0])
    assert read_metrics(tmp_path / "metrics.jsonl") == lines(20)
    file.close()


def test_lines_past_the_resumed_step_are_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, 20, 40, 60, 80)
    write(path, 40, 60)
    assert read_metrics(path) == lines(20, 40, 60)
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


CUT = [b"", b"{", b'{"step": 60, "loss": 7.', b'{"step": 60']
DAMAGED = [b"\xff", b"5", b"null", b"{}", b'{"step": "60"}']


@pytest.mark.parametrize("rest", CUT + DAMAGED)
def test_a_line_that_is_cut_short_or_damaged_is_dropped(tmp_path, rest):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, 20, 40)
    path.write_bytes(path.read_bytes() + rest)
    assert read_metrics(path) == lines(20, 40)
    write(path, 40, 60)
    assert read_metrics(path) == lines(20, 40, 60)


def test_a_damaged_file_is_kept_when_it_is_continued(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, 20, 40, 60)
    damaged = path.read_bytes().replace(b'"step": 40', b'"stop": 40')
    for kept in ("metrics.jsonl.damaged", "metrics.jsonl.damaged.damaged"):
        path.write_bytes(damaged)
        assert read_log(path)[1] == "damaged in line 2"
        write(path, 60, 80)
        assert read_metrics(path) == lines(20, 60, 80)
        assert (tmp_path / kept).read_bytes() == damaged
        said = f"{path}: damaged in line 2; kept as {kept}\n"
        assert capsys.readouterr().err == said


def test_many_damaged_lines_are_counted(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"x\n" * 5 + b'{"step": 60')
    assert read_log(path)[1] == "damaged in line 1, 2, 3 and 2 more"


def test_there_may_be_no_file_yet(tmp_path):
    assert read_metrics(tmp_path / "none.jsonl") == []
