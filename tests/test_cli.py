import csv
import json
import os
import pkgutil
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from apps import ROOT, refusal, run_app, start_app
from runs import SCRATCH, TINY, contents, copy_of_finished_run, logged, tiny_flags

import alexnet_jax
from alexnet_jax import cli
from alexnet_jax.errors import InputError


def test_the_command_without_anything_says_what_it_needs():
    command = [sys.executable, "-m", "alexnet_jax.main"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: --config, --workdir: must be given; see --help\n"


@pytest.mark.parametrize(
    ("app", "flags"),
    [
        ("main", ["--config:", "--workdir:"]),
        (
            "evaluate",
            ["--[no]allow_unreadable", "--checkpoint:", "--split:"],
        ),
        ("predict", ["--checkpoint:", "--[no]json", "--names:", "--top:", "--views:"]),
        ("convert", ["--config:", "--destination:", "--source:"]),
    ],
)
def test_help_shows_the_flags(app, flags):
    answer = run_app(app, "--help")
    assert answer.status == 0
    assert answer.err == ""
    assert f"python -m alexnet_jax.{app} --" in answer.out
    for flag in flags:
        assert flag in answer.out


def test_apps_as_modules_define_no_flags():
    code = (
        "from absl import flags; before = set(flags.FLAGS)\n"
        "from alexnet_jax import convert, evaluate, main, predict\n"
        "print(sorted(set(flags.FLAGS) - before & set(flags.FLAGS)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    ours = {"config", "workdir", "checkpoint", "source", "destination", "views", "top"}
    assert not ours & set(done.stdout.replace("'", " ").replace(",", " ").split())


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--nope=1", "Unknown command line flag 'nope'"),
        ("--batch_size=8", "--batch_size: no such flag; did you mean --config.batch_"),
        ("--rate=1", "--rate: no such flag; did you mean --config.optimizer.rate?"),
        ("--optimizer.rate=1", "did you mean --config.optimizer.rate?"),
        ("extra", "'extra': not a flag; see --help"),
        ("--config.optimiser.rate=1", "no such key; did you mean 'optimizer.rate'?"),
        ("--config.zzz=1", "--config.zzz: no such key"),
        ("--config.batch_size=abc", "--config.batch_size=abc: must be a whole number"),
        ("--config.epochs=soon", "--config.epochs=soon: must be a number"),
        ("--config.augment.reflect=maybe", "reflect=maybe: must be true or false"),
        ("--config.augment.mean_at=middle", "allowed are crop, centre"),
        ("--config.batch_size=0", "batch_size=0: must be a whole number, 1 or more"),
        ("--config.optimizer.rate=-1", "optimizer.rate=-1.0: must be a number, 0 or"),
        ("--config.precision=half", "allowed are float32, bfloat16"),
        (
            "--config.network.biases=1,2,3",
            "biases=(1, 2, 3): must have 8 entries, one for each",
        ),
        (
            "--config.validate_every_epochs=1e-320",
            "0 or more; none between 0 and 1e-30",
        ),
        ("--config.optimizer.rate=nan", "optimizer.rate=nan: must be a number, 0 or"),
        ("--config.augment.crop=73", "augment.crop=73: larger than the images"),
        ("--config.mesh.data=16", "mesh.data=16, mesh.tower=1: there are 8 device(s)"),
        ("--config.mesh.tower=3", "mesh.tower=3: a network of 2 tower(s)"),
        ("--config.dataset.train=some", "dataset.train='some': not a number of ima"),
        ("--config.dataset.source=folder", "dataset.train='100': no such file or fol"),
        ("--config.dataset.validation=5", "5 generated images, 10 or more are needed"),
        ("--config.batch_size=101", "batch_size=101: more than the 100 images"),
        ("--workdir=", "--workdir=: is empty; give a path"),
        ("--workdir=gs://b/run", "--workdir=gs://b/run: is an address; mount it"),
        ("--workdir=pyproject.toml", "pyproject.toml': cannot be made: File exists"),
        (
            "--workdir=/proc/run",
            "/proc/run': cannot be made: No such file or directory",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(argument, line):
    workdir = SCRATCH / "never_made"
    assert line in refusal("main", *tiny_flags(workdir), argument)
    assert not workdir.exists()


def test_a_network_that_no_memory_holds_is_refused_at_once():
    workdir = SCRATCH / "never_made"
    line = refusal("main", *tiny_flags(workdir, {"network.units": (10**9, 16)}))
    assert "network: fc7 has 16,000,000,000 weights; training needs more than" in line
    assert not workdir.exists()


def test_a_missing_dataset_is_named():
    line = refusal(
        "main", "--config=configs/paper.py", f"--workdir={SCRATCH}/never_made"
    )
    assert "dataset.train='': names nothing to read; set dataset.train" in line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def get_config(:", "SyntaxError: invalid syntax (mine.py, line 1)"),
        ("import nosuch", "ModuleNotFoundError: No module named 'nosuch'"),
        ("def get_config(): return None", "must return a ConfigDict, not None"),
        ("def get_config(): return 1 / 0", "ZeroDivisionError: division by zero"),
        ("def get_config(): raise ValueError('so')", "ValueError: so"),
        ("", "KeyError: 'get_config'"),
        (None, "mine.py: no such file; give one like those of configs/"),
    ],
)
def test_a_config_file_that_cannot_be_used_is_named(text, line, tmp_path):
    config = tmp_path / "mine.py"
    if text is not None:
        config.write_text(text)
    refused = refusal("main", f"--config={config}", f"--workdir={tmp_path}/run")
    assert refused.startswith(f"error: --config={config}: ")
    assert refused.endswith(line)
    assert not (tmp_path / "run").exists()


def test_a_key_without_a_config_to_change_is_refused(tmp_path):
    for app, flag in (("main", "--workdir"), ("evaluate", "--checkpoint")):
        line = refusal(app, f"{flag}={tmp_path}", "--config.dataset.validation=5")
        assert line == (
            "error: --config.dataset.validation: there is no config to change; give "
            "--config=configs/X.py, or a work directory with a config.json"
        )


def test_a_config_json_is_a_config_and_that_of_the_work_directory_stands_in(tmp_path):
    run, twin = copy_of_finished_run(tmp_path / "run"), tmp_path / "twin"
    given = f"--config={run}/config.json"
    answer = run_app("main", given, f"--workdir={twin}", "--config.steps=2")
    assert answer.status == 0, answer
    assert [line["step"] for line in logged(twin)] == [2]
    assert json.loads((twin / "config.json").read_text()) == {
        **json.loads((run / "config.json").read_text()),
        "steps": 2,
    }
    answer = run_app("main", "--workdir", twin, "--config.steps", "3")
    assert answer.status == 0, answer
    assert [line["step"] for line in logged(twin)] == [2, 3]
    (twin / "config.json").write_text("{rubbish")
    line = refusal("main", f"--workdir={tmp_path}/new", f"--config={twin}/config.json")
    assert f"--config={twin}/config.json: {twin}/config.json: not the JSON" in line


def test_a_home_directory_is_found_in_flags(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    home = {"HOME": str(tmp_path)}
    (tmp_path / "mine.py").write_text("def get_config(): raise ValueError('found')")
    process = start_app(
        tmp_path, "main", "--config=~/mine.py", "--workdir=~/x", environment=home
    )
    process.join()
    line = "error: --config=~/mine.py: ValueError: found\n"
    assert (tmp_path / "err").read_text() == line
    assert cli.path("~/x", "--workdir") == tmp_path / "x"
    assert cli.folders(["~/x", "~y"], "--workdir") == [tmp_path / "x", Path("~y")]


def test_class_folders_must_make_a_training_set(tmp_path):
    keys = {"dataset.source": "folder", "dataset.train": str(tmp_path / "train")}
    flags = tiny_flags(tmp_path / "run", keys)
    (tmp_path / "train" / "cats").mkdir(parents=True)
    assert "the class folder 'cats' is empty" in refusal("main", *flags)
    (tmp_path / "train" / "cats" / "1.png").write_bytes(b"")
    assert "has one class, 'cats'; training needs two" in refusal("main", *flags)


def test_a_work_directory_of_another_config_is_left_alone(tmp_path):
    workdir = copy_of_finished_run(tmp_path / "run")
    before = contents(workdir)
    line = refusal("main", *tiny_flags(workdir, {"optimizer.rate": 0.5}))
    assert "was made with another config: optimizer.rate (0.01 there, 0.5 here)" in line
    assert contents(workdir) == before
    (workdir / "config.json").write_text("{rubbish")
    line = refusal("main", *tiny_flags(workdir))
    assert f"{workdir}/config.json: not the JSON of a config" in line


def run_elsewhere(tmp_path, *command, library: Path = ROOT, **options):
    environment = {**os.environ, "PYTHONPATH": str(library)}
    return subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **options,
    )


def test_a_config_is_found_wherever_one_stands(tmp_path):
    helped = ["-m", "alexnet_jax.benchmark", f"--config={ROOT}/configs/paper.py"]
    done = run_elsewhere(tmp_path, *helped, "nonsense", stdout=subprocess.DEVNULL)
    assert done.stderr.startswith("error: benchmark='nonsense': allowed are step")


def test_configs_of_the_package_are_found_anywhere_and_ones_own_come_first(tmp_path):
    command = ["-m", "alexnet_jax.benchmark", "--config=configs/imagenette.py", "none"]
    done = run_elsewhere(tmp_path, *command, stdout=subprocess.DEVNULL)
    assert done.stderr.startswith("error: benchmark='none': allowed are step")
    (tmp_path / "configs").mkdir()
    own = tmp_path / "configs" / "imagenette.py"
    own.write_text(
        "from configs import paper\n\nget_config = paper.base_config\n1 / 0\n"
    )
    done = run_elsewhere(tmp_path, *command, stdout=subprocess.DEVNULL)
    assert done.stderr == (
        "error: --config=configs/imagenette.py: ZeroDivisionError: division by zero\n"
    )


def test_the_wheel_has_every_folder_and_the_configs(tmp_path):
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = settings["tool"]["setuptools"]
    shipped = "alexnet_jax.shipped.configs"
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "alexnet_jax").rglob("*.py")
    }
    assert set(listed["packages"]) == folders | {shipped}
    assert listed["package-dir"] == {shipped: "configs"}

    # As installed: configs/ lies in the package, and its files import each other.
    installed = tmp_path / "site-packages" / "alexnet_jax"
    shutil.copytree(ROOT / "alexnet_jax", installed)
    shutil.copytree(ROOT / "configs", installed.joinpath(*shipped.split(".")[1:]))
    command = ["-m", "alexnet_jax.benchmark", "--config=configs/finetune.py", "none"]
    elsewhere = {"library": installed.parent, "stdout": subprocess.DEVNULL}
    done = run_elsewhere(tmp_path, *command, **elsewhere)
    assert done.stderr.startswith("error: benchmark='none': allowed are step")


def test_every_script_runs_its_app(monkeypatch):
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    run: list[tuple] = []

    def run_module(app: str, **how):
        run.append((app, how))

    monkeypatch.setattr(runpy, "run_module", run_module)
    for place in settings["project"]["scripts"].values():
        pkgutil.resolve_name(place)()
    apps = ["main", "evaluate", "predict", "prepare", "convert", "report", "benchmark"]
    as_main = {"run_name": "__main__", "alter_sys": True}
    assert run == [(f"alexnet_jax.{app}", as_main) for app in apps]
    assert list(settings["project"]["scripts"]) == [
        f"alexnet-{app}" for app in ("train", *apps[1:])
    ]


def test_a_script_shows_the_help_of_its_app():
    # As pip writes it, but for the path.
    code = (
        "import sys; from alexnet_jax.scripts import evaluate\n"
        "sys.argv = ['alexnet-evaluate', '--help']; sys.exit(evaluate())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("App: loss and error rates of a network, or an ens")
    assert "--[no]allow_unreadable" in done.stdout


def test_the_version_is_in_one_place():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["project"]["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", alexnet_jax.__version__)


def test_a_config_beside_ones_data_needs_the_package_alone(tmp_path):
    # As installed: the package without the rest of the repository.
    installed, mine = tmp_path / "site-packages", tmp_path / "mine"
    shutil.copytree(ROOT / "alexnet_jax", installed / "alexnet_jax")
    mine.mkdir()
    changes = "".join(
        f"    config.{k} = {v!r}\n" for k, v in {**TINY, "steps": 2}.items()
    )
    (mine / "mine.py").write_text(
        "from alexnet_jax.config import base_config\n\n"
        f"def get_config():\n    config = base_config()\n{changes}    return config\n"
    )
    flags = ["--config=mine.py", "--workdir=run", "--config.seed=3"]
    command = ["-m", "alexnet_jax.main", *flags]
    options = {"library": installed, "stdout": subprocess.PIPE}
    done = run_elsewhere(mine, *command, **options)
    assert done.returncode == 0, done.stderr
    (line,) = logged(mine / "run")
    error = f"{line['validation/top1_error']:.2%}"
    assert done.stdout.endswith(
        "done: run\n"
        "report: run/report/index.html\n"
        f"best validation: top-1 error {error} after step 2\n"
        "next: python -m alexnet_jax.evaluate --checkpoint=run --views=10\n"
        "      python -m alexnet_jax.predict --checkpoint=run IMAGE\n"
    )
    assert json.loads((mine / "run" / "config.json").read_text())["seed"] == 3
    assert line["step"] == 2
    asked = "import alexnet_jax; print(alexnet_jax.__file__)"
    answer = run_elsewhere(mine, "-c", asked, **options).stdout.strip()
    assert Path(answer).is_relative_to(installed), "which package was run"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_is_one_line(tmp_path):
    program = "from alexnet_jax import cli; cli.run(lambda _: print(1, flush=True))"
    with Path("/dev/full").open("w") as full:
        done = run_elsewhere(tmp_path, "-c", program, stdout=full)
    assert done.returncode == 2
    assert done.stderr.startswith("error: No space left on device\n")


def test_folders_of_a_list_may_have_commas_in_their_names(tmp_path):
    for name in ("a,b", "c"):
        (tmp_path / name).mkdir()
    whole, other, missing = (tmp_path / name for name in ("a,b", "c", "d"))
    for text in (f"{whole},{other},{missing}", f'"{whole}",{other},{missing}'):
        names = next(csv.reader([text]))  # as absl splits a list
        assert cli.folders(names, "--workdir") == [whole, other, missing]
    with pytest.raises(InputError, match="--workdir=a,: name a work directory"):
        cli.folders(["a", ""], "--workdir")
