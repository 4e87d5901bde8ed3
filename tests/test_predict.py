import json
import os
import shutil
import signal
import time
from collections import namedtuple

import jax
import numpy as np
import pytest
from apps import refusal, run_app, start_app
from pictures import encoded
from runs import finished_run, tiny_config, weights

from alexnet_jax import experiment
from alexnet_jax.data.folders import files_named
from alexnet_jax.data.generated import Generated
from alexnet_jax.errors import InputError
from alexnet_jax.features import write_features
from alexnet_jax.predict import load_run, neighbours, predict


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
    answers = list(predict(load_run(finished_run(), views=1), files, top=10))
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
    one = list(predict(load_run(finished_run(), views=1), files, top=10))
    ten = list(predict(load_run(finished_run()), files, top=10))  # as for the command
    twice = list(predict(load_run([finished_run()] * 2, views=1), files, top=10))
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
    path = f"{tmp_path}/absent.jpg"
    assert absent["error"] == f"{path}: cannot be read: No such file or directory"
    assert fine.keys() == {"image", "top"}
    assert [row.keys() for row in fine["top"]] == [{"label", "name", "probability"}] * 3


def test_a_pipe_gets_columns(tmp_path):
    files = written(tmp_path, 2)
    checkpoint = f"--checkpoint={finished_run()}"
    heic = tmp_path / "IMG_1.HEIC"
    heic.write_bytes(b"\0\0\0\x18ftypheic")
    answer = run_app("predict", checkpoint, "--top=2", tmp_path)
    assert answer.status == 1
    assert answer.err == (
        f"error: {heic}: cannot be decoded: HEIC is not supported; convert it to JPEG\n"
    )
    rows = [line.split("\t") for line in answer.out.splitlines()]
    expected = [
        [file, f"{row['probability']:.6f}", str(row["label"]), row["name"]]
        for file, own in zip(
            files, predict(load_run(finished_run()), files), strict=True
        )
        for row in own["top"][:2]
    ]
    assert rows == expected


@pytest.mark.parametrize("count", [1, 9, 600])
def test_batches_have_few_sizes(count):
    predictor = load_run(finished_run())
    devices = predictor.mesh.size
    rows = predictor._rows(count)
    assert rows % devices == 0
    assert (rows // devices).bit_count() == 1
    assert rows <= 64 * devices
    assert rows >= min(count, 64 * devices)


def test_arrays_are_answered_as_files_are(tmp_path):
    files = written(tmp_path, 11)  # of which the last batch has some
    squares = np.stack([Generated(40, 72, 0, "validation")[i][1] for i in range(11)])
    predictor = load_run(finished_run())
    answers = predict(load_run(finished_run()), files, top=10)
    given = np.stack([distribution(answer) for answer in answers])
    np.testing.assert_allclose(predictor.probabilities(squares), given, atol=1e-6)
    assert predictor.probabilities(squares[:0]).shape == (0, 10)
    features = predictor.features(squares, ["fc7"])["fc7"]
    assert features.shape == (11, 16)
    np.testing.assert_allclose(
        predictor.features(squares[3:4], ["fc7"])["fc7"], features[3:4], rtol=1e-5
    )


def test_ctrl_c_is_no_traceback(tmp_path):
    (file,) = written(tmp_path, 1)
    flags = f"--checkpoint={finished_run()}", "--json", "--views=1"
    process = start_app(tmp_path, "predict", *flags, *[file] * 10_000)
    while not (tmp_path / "out").exists() or not (tmp_path / "out").stat().st_size:
        assert process.exitcode is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    assert (tmp_path / "err").read_text() == "interrupted\n"


# --- features and neighbours ----------------------------------------------------------


def test_features_are_written_without_unreadable_images(tmp_path):
    written(tmp_path, 3)
    bad, output = tmp_path / "1a.jpg", tmp_path / "F.npz"
    bad.write_bytes(b"no picture")
    checkpoint = f"--checkpoint={finished_run()}"
    flags = "--features=conv5,pool5,fc7", f"--output={output}"
    answer = run_app("predict", checkpoint, *flags, f"{tmp_path}/*")
    assert answer.status == 1
    assert (
        answer.err == f"error: {bad}: cannot be decoded: not a known picture format\n"
    )
    # 2·2·8 maps of conv5, 1·1·8 of pool5 and 16 units, four bytes each, of 4 images.
    assert answer.out.startswith(f"{output}: 0.0 MB: 4 images, conv5 ")
    squares = np.stack([Generated(40, 72, 0, "validation")[i][1] for i in range(3)])
    names = ["conv5", "pool5", "fc7"]
    expected = load_run(finished_run(), views=1).features(squares, names)
    with np.load(output) as found:
        assert set(found) == {*names, "image", "folder"}
        assert found["image"].tolist() == [f"{tmp_path}/{i}.png" for i in range(3)]
        assert found["folder"].tolist() == [tmp_path.name] * 3
        for name in names:
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(
                found[name], expected[name], rtol=1e-5, atol=1e-6
            )
    before = output.read_bytes()
    line = refusal("predict", checkpoint, *flags, tmp_path)
    assert line == f"error: --output={output}: exists; delete it or name another file"
    assert output.read_bytes() == before
    assert not list(tmp_path.glob("*.unfinished"))


def test_features_that_cannot_be_written(tmp_path, monkeypatch):
    predictor = load_run(finished_run(), views=1)
    files = files_named(written(tmp_path, 1))
    with pytest.raises(InputError, match=r"F.npz: .*/absent is no folder to write to"):
        write_features(predictor, files, ["fc7"], tmp_path / "absent" / "F.npz")
    with pytest.raises(InputError, match=r"F.npy: must end in .npz"):
        write_features(predictor, files, ["fc7"], tmp_path / "F.npy")
    with pytest.raises(InputError, match=r"--features='fc9': allowed are conv1, pool1"):
        write_features(predictor, files, ["fc9"], tmp_path / "F.npz")
    no_image = files_named([str(tmp_path / "absent.jpg")])
    with pytest.raises(InputError, match="none of 1 images can be read"):
        write_features(predictor, no_image, ["fc7"], tmp_path / "F.npz")
    full = namedtuple("usage", "free")(100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(InputError, match=r"takes 0.0 GB, and its disk has 0.0 GB free"):
        write_features(predictor, files, ["fc7"], tmp_path / "F.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["0.png"]


def test_neighbours_are_the_nearest_by_euclid(tmp_path):
    files = written(tmp_path, 12)
    copy = tmp_path / "copy.png"
    shutil.copy(files[4], copy)
    (tmp_path / "bad.png").write_bytes(b"no")
    absent = str(tmp_path / "gone.png")
    answers = list(
        neighbours(
            load_run(finished_run(), views=1),
            [files[4], absent, str(copy)],
            [str(tmp_path)],
        )
    )
    bad, own, gone, of_copy = answers
    assert bad["image"] == f"{tmp_path}/bad.png"
    assert "cannot be decoded" in bad["error"]
    assert gone["image"] == absent
    assert "No such file" in gone["error"]

    squares = np.stack([Generated(40, 72, 0, "validation")[i][1] for i in range(12)])
    predictor = load_run(finished_run(), views=1)
    fc7 = np.float64(predictor.features(squares, ["fc7"])["fc7"])
    distances = np.linalg.norm(fc7 - fc7[4], axis=1)
    order = [i for i in np.argsort(distances, kind="stable") if i != 4][:4]
    # The image itself is left out, its copy is not.
    twin = {"distance": pytest.approx(0, abs=1e-4)}
    assert own["neighbours"][0] == {"image": str(copy), **twin}
    assert of_copy["neighbours"][0] == {"image": files[4], **twin}
    for answer in (own, of_copy):
        found = answer["neighbours"][1:]
        assert [row["image"] for row in found] == [files[i] for i in order]
        assert [row["distance"] for row in found] == pytest.approx(
            distances[order], rel=1e-4
        )
    conv1 = neighbours(
        load_run(finished_run(), views=1), [files[4]], files, layer="conv1", top=1
    )
    assert len(next(conv1)["neighbours"]) == 1


def test_neighbours_of_the_command(tmp_path):
    files = written(tmp_path, 3)
    among = f"--neighbours={tmp_path}"
    checkpoint = f"--checkpoint={finished_run()}"
    answer = run_app("predict", checkpoint, among, "--json", "--top=1", files[0])
    found = next(
        neighbours(load_run(finished_run(), views=1), files[:1], [str(tmp_path)], top=1)
    )
    assert json.loads(answer.out) == found
    assert answer.status == 0


def test_every_awkward_file_is_answered(shared_data):
    answers = list(
        predict(load_run(finished_run()), [str(shared_data / "edge-cases")], top=10)
    )
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
    (answer,) = predict(load_run(finished_run()), files, names=str(table))
    assert [row["name"] for row in answer["top"]] == [
        f"the {classes[row['label']]}" for row in answer["top"]
    ]
    assert len(answer["top"]) == 5
    # As editors on Windows write it.
    text = "".join(f"{name}\tthe {name}\r\n" for name in classes)
    table.write_bytes(b"\xef\xbb\xbf" + text.encode())
    (again,) = predict(load_run(finished_run()), files, names=str(table))
    assert again == answer
    table.write_text("0\tdisc\tthe disc\n")
    with pytest.raises(InputError, match=r"has no line for the class 'ring'"):
        next(predict(load_run(finished_run()), files, names=str(table)))
    with pytest.raises(InputError, match=r"--names=nowhere: cannot be read"):
        next(predict(load_run(finished_run()), files, names="nowhere"))


def test_bad_flags_are_refused(tmp_path):
    checkpoint = f"--checkpoint={finished_run()}"
    assert "no image given" in refusal("predict", checkpoint)
    line = refusal("predict", checkpoint, f"{tmp_path}/**/*.jpg")
    assert line == f"error: {tmp_path}/**/*.jpg: matches no images"
    features = refusal("predict", checkpoint, "--features=fc7", "x.jpg")
    assert "--features=fc7: give --output=F.npz" in features
    both = "--features=fc7", "--output=F.npz", "--neighbours=x"
    assert "give one of them" in refusal("predict", checkpoint, *both, "x.jpg")
    assert "omit it" in refusal("predict", checkpoint, *both[:2], "--views=1", "x.jpg")
    assert "is for --features" in refusal("predict", checkpoint, both[1], "x.jpg")
    assert "compares one" in refusal(
        "predict", checkpoint, "--features=fc6,fc7", both[2], "x.jpg"
    )
    assert "a folder without images" in refusal("predict", checkpoint, tmp_path)
    assert "--top=0" in refusal("predict", checkpoint, "--top=0", "x.jpg")
    nowhere = refusal("predict", "--checkpoint=/nowhere", "x.jpg")
    assert nowhere.startswith("error: /nowhere/config.json: no such file")
    assert "--checkpoint: must be given" in refusal("predict", "x.jpg")
