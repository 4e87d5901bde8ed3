import json

import jax
import numpy as np
import pytest
from apps import refusal, run_app
from pictures import encoded
from runs import finished_run, tiny_config, weights

from alexnet_jax import experiment
from alexnet_jax.data.generated import Generated
from alexnet_jax.errors import InputError
from alexnet_jax.predict import predict


def written(tmp_path, count: int) -> list[str]:
    """Generated pictures as files of their own size."""
    source = Generated(40, 72, 0, "validation")
    files = [tmp_path / f"{i}.png" for i in range(count)]
    for i, file in enumerate(files):
        file.write_bytes(encoded(source[i][1]))
    return [str(file) for file in files]


def distribution(answer: dict, classes: int = 10) -> np.ndarray:
    probabilities = np.zeros(classes)
    for row in answer["top"]:
        probabilities[row["label"]] = row["probability"]
    return probabilities


def test_answers_are_those_of_the_network(tmp_path):
    files = written(tmp_path, 35)  # more than are answered at once
    answers = list(predict([finished_run()], files, top=10))
    assert [answer["image"] for answer in answers] == files

    # The plain statement of it: centre crop, less the mean, softmax.
    params = {}
    for name, weight in weights(finished_run()).items():
        layer, kind = name.split(".")
        params.setdefault(layer, {})[kind] = weight
    mean = np.load(finished_run() / "statistics.npz")["mean_image"]
    source = Generated(40, 72, 0, "validation")
    squares = np.stack([source[i][1] for i in range(35)]).astype(np.float32)
    centre = (squares - mean)[:, 4:68, 4:68]
    network = experiment.make_network(tiny_config(), 10)
    expected = jax.nn.softmax(network.apply({"params": params}, centre))
    given = np.stack([distribution(answer) for answer in answers])
    np.testing.assert_allclose(given, expected, rtol=1e-4)

    names = (finished_run() / "classes.txt").read_text().splitlines()
    for answer in answers:
        falling = [row["probability"] for row in answer["top"]]
        assert falling == sorted(falling, reverse=True)
        assert all(row["name"] == names[row["label"]] for row in answer["top"])


def test_views_and_ensembles(tmp_path):
    files = written(tmp_path, 2)
    one = list(predict([finished_run()], files, top=10))
    ten = list(predict([finished_run()], files, top=10, views=10))
    twice = list(predict([finished_run()] * 2, files, top=10))
    for a, b, c in zip(one, ten, twice, strict=True):
        assert distribution(b).sum() == pytest.approx(1)
        assert np.abs(distribution(a) - distribution(b)).max() > 1e-6
        np.testing.assert_allclose(distribution(a), distribution(c), rtol=1e-6)


def test_json_lines_and_the_exit_status(tmp_path):
    (good,) = written(tmp_path, 1)
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "bad.jpg").write_bytes(b"no picture")
    checkpoint = f"--checkpoint={finished_run()}"
    some = [tmp_path / "folder", good, tmp_path / "absent.jpg"]
    answer = run_app("predict", checkpoint, "--json", "--top=3", *some)
    assert answer.status == 1
    bad, fine, absent = map(json.loads, answer.out.splitlines())
    path = f"{tmp_path}/folder/inner/bad.jpg"
    assert bad["image"] == path
    assert bad["error"] == f"{path}: cannot be decoded: not a known picture format"
    assert absent["error"] == f"{tmp_path}/absent.jpg: No such file or directory"
    assert fine.keys() == {"image", "top"}
    assert [row.keys() for row in fine["top"]] == [{"label", "name", "probability"}] * 3
    assert run_app("predict", checkpoint, good).status == 0


def test_every_awkward_file_is_answered(shared_data):
    answers = list(predict([finished_run()], [str(shared_data / "edge-cases")], top=10))
    errors = {a["image"].rsplit("/", 1)[1] for a in answers if "error" in a}
    assert errors == {"empty.JPEG", "not_an_image.JPEG", "truncated.JPEG"}
    assert len(answers) == 13
    for answer in answers:
        if "top" in answer:
            assert distribution(answer).sum() == pytest.approx(1, abs=1e-5)


def test_names_for_people(tmp_path):
    files = written(tmp_path, 1)
    classes = (finished_run() / "classes.txt").read_text().splitlines()
    table = tmp_path / "names.tsv"
    table.write_text("".join(f"0\t{name}\tthe {name}\n" for name in classes))
    (answer,) = predict([finished_run()], files, names=str(table))
    assert [row["name"] for row in answer["top"]] == [
        f"the {classes[row['label']]}" for row in answer["top"]
    ]
    assert len(answer["top"]) == 5
    table.write_text("0\tdisc\tthe disc\n")
    with pytest.raises(InputError, match=r"has no line for the class 'ring'"):
        next(predict([finished_run()], files, names=str(table)))
    with pytest.raises(InputError, match=r"--names=nowhere: cannot be read"):
        next(predict([finished_run()], files, names="nowhere"))


def test_bad_flags_are_refused(tmp_path):
    checkpoint = f"--checkpoint={finished_run()}"
    assert "no image given" in refusal("predict", checkpoint)
    assert "a folder without images" in refusal("predict", checkpoint, tmp_path)
    assert "--top=0" in refusal("predict", checkpoint, "--top=0", "x.jpg")
    nowhere = refusal("predict", "--checkpoint=/nowhere", "x.jpg")
    assert nowhere.startswith("error: /nowhere/config.json: no such file")
    assert "--checkpoint: must be given" in refusal("predict", "x.jpg")
