"""Files of strangers: nothing in them is run, followed or believed."""

import ast
import contextlib
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import rubbish_kinds
from pictures import drawn, encoded, tar_bytes
from rubbish_kinds import KINDS

from alexnet_jax.data.files import array_of, arrays_of
from alexnet_jax.data.folders import ClassTar
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import pool
from alexnet_jax.prepare.originals import open_originals

PACKAGE = Path(__file__).parents[1] / "alexnet_jax"
FILES = sorted(p for top in ("alexnet_jax", "configs", "launch", "examples")
               for p in (PACKAGE.parent / top).rglob("*.py"))  # fmt: skip
# Readers that run what they read, or write where a file tells them to.
FORBIDDEN = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "shelve.open"),
    *("marshal.loads", "dill.load", "joblib.load", "yaml.load", "yaml.unsafe_load"),
    *("np.load", "numpy.load", "eval", "exec", "os.system", "np.fromfile"),
}
METHODS = {"extractall", "extract", "unpack_archive"}
TRUSTED = {"config_file.py", "sweep.py"}  # run the Python files that a user names


class Program:
    """What a pickle may hold: a call that is made when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_module_unpickles_or_unpacks(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in FORBIDDEN, f"{file.name}:{node.lineno}: {name}"
            assert name.split(".")[-1] not in METHODS, f"{file.name}:{node.lineno}"
            keys = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert keys.get("allow_pickle") in (None, "False"), file.name
            if name == "torch.load":
                assert keys["weights_only"] == "True", f"{file.name}:{node.lineno}"
            if name == "runpy.run_path":
                assert file.name in TRUSTED


def open_files(_: int) -> list[str]:
    """What the descriptors of this process are, links into the kernel."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of listdir
            names.append(os.readlink(f"/proc/self/fd/{number}"))
    return names


def test_what_workers_exchange_has_no_name():
    inherited = set(open_files(0))
    for names in pool.run(open_files, 2, range(3)):
        new = set(names) - inherited - {"/dev/null"}
        assert any(name.startswith("pipe:") for name in new)
        for name in new:
            assert name.startswith("pipe:") or name.endswith("(deleted)"), name


def payloads(trap: Path) -> dict[str, bytes]:
    """The same call in each form in which files carry pickles."""
    import torch

    program = Program(trap)
    objects = np.array([program], object)
    out = {name: io.BytesIO() for name in ("npy", "npz", "new", "old")}
    np.save(out["npy"], objects, allow_pickle=True)
    np.savez(out["npz"], allow_pickle=True, mean_image=objects, color_stddev=objects,
             color_axes=objects, text=objects, count=objects)  # fmt: skip
    for name in ("new", "old"):
        new = name == "new"
        torch.save({"x": program}, out[name], _use_new_zipfile_serialization=new)
    return {"pickle": pickle.dumps(program)} | {n: o.getvalue() for n, o in out.items()}


@pytest.mark.parametrize("name", [n for n in KINDS if n not in ("TFDS folder",)])
def test_a_pickle_in_place_of_a_file_is_not_read(name, tmp_path):
    kind, trap = KINDS[name], tmp_path / "trap"
    folder = tmp_path / "files"
    folder.mkdir()
    kind.make(folder)
    files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
    traps = payloads(trap)
    for file in [f for f in files if f.name.endswith(kind.damaged)][:3]:
        whole = file.read_bytes()
        for data in traps.values():
            file.write_bytes(data)
            with contextlib.suppress(InputError):
                kind.read(file)
            assert not trap.exists(), file.name
        file.write_bytes(whole)
    pickle.loads(traps["pickle"])
    assert trap.is_dir()  # so it was one


def test_arrays_are_those_of_numpy():
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "c": np.array([(1, 2)], [("at", "<i8"), ("size", "<i4")]),
        "d": np.float32(3),
        "e": np.zeros((0, 3)),
    }
    for save in (np.savez, np.savez_compressed):
        out = io.BytesIO()
        save(out, **arrays)
        found = arrays_of(out.getvalue())
        assert found.keys() == arrays.keys()
        for name, own in arrays.items():
            np.testing.assert_array_equal(found[name], own)
            assert found[name].dtype == own.dtype


@pytest.mark.parametrize("kind", ["statistics.npz", "mean image", "safetensors", "pth",
                                  "caffemodel", "class tar", "devkit"])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*quantize")  # PyTorch, of a bomb
def test_bombs_are_refused(kind, tmp_path):
    KINDS[kind].make(tmp_path)
    for name, data in KINDS[kind].bombs().items():
        file = tmp_path / name
        file.write_bytes(data)
        with pytest.raises(InputError) as caught:
            KINDS[kind].read(file)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_arrays_of_python_2_are_read_in_silence():
    data = rubbish_kinds.npy("(3L, 1L)", np.arange(3, dtype="<f4").tobytes())
    np.testing.assert_array_equal(array_of(data), [[0], [1], [2]])


def test_a_header_claims_no_memory():
    for shape in ("(99999, 99999, 3)", "(1099511627776,)", "(-1, -6)", "(3,)"):
        with pytest.raises(ValueError, match=r"4 bytes are no|negative"):
            array_of(rubbish_kinds.npy(shape, bytes(4)))


@pytest.mark.parametrize("name", ["../../a/x.jpg", "/a/x.jpg", "b/../../a/x.jpg"])
def test_members_of_tars_leave_no_folder(name, tmp_path):
    (tmp_path / "in").mkdir()
    tar, picture = tmp_path / "in" / "x.tar", encoded(drawn(1), "JPEG")
    tar.write_bytes(tar_bytes({name: picture, name.replace("a/x", "b/x"): picture}))
    source = ClassTar(tar, "dataset.train")
    assert [source[i].image for i in range(2)] == [picture] * 2
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "x.tar"]


def test_sparse_members_and_links_are_refused(tmp_path):
    for kind, why in ((tarfile.GNUTYPE_SPARSE, "sparse"), (tarfile.SYMTYPE, "a link")):
        info = tarfile.TarInfo("a/cat/0.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        file = tmp_path / "x.tar"
        file.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        with pytest.raises(InputError, match=why):
            ClassTar(file, "dataset.train")


def test_a_class_folder_beside_a_tar_is_named(tmp_path):
    rubbish_kinds.make_ilsvrc(tmp_path)
    (tmp_path / "ILSVRC2012_img_train.tar").unlink()
    assert set(open_originals(tmp_path, []).splits) == {"validation"}
    for name in ("train", "n01440764"):
        (tmp_path / name).mkdir()
        with pytest.raises(InputError, match=f"img_val.tar and the folder '{name}'"):
            open_originals(tmp_path, [])
        assert set(open_originals(tmp_path, ["validation"]).splits) == {"validation"}
        (tmp_path / name).rmdir()


def test_a_manifest_names_no_other_folder(tmp_path):
    rubbish_kinds.copy_of_prepared(tmp_path)
    path = tmp_path / "manifest.json"
    tree = json.loads(path.read_text())
    shards = tree["shards"]
    name = next(iter(shards))
    shards[f"../{name}"] = shards.pop(name)
    path.write_text(json.dumps(tree))
    with pytest.raises(InputError, match=r"manifest\.json: damaged"):
        rubbish_kinds.read_prepared(path)
