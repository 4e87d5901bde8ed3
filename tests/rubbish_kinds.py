"""Kinds of files, whole, each with the code by which an app reads it."""

import base64
import contextlib
import io
import json
import random
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rubbish_mutations as damage
from pictures import class_tars, drawn, encoded, numbered_tar, tar_bytes
from rubbish_images import bombs, images

from alexnet_jax.errors import ImageError, InputError

MB = 1 << 20
ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "tests" / "material" / "prepared"


class OtherError(Exception):
    """Content was read that is not what was written, and that a checksum covers."""


@dataclass
class Kind:
    """Files of one kind.

    Attributes:
        make: writes whole ones into a folder.
        read: opens a file as an app does, and gives the number of records left out.
        deeper: a mutation behind the checksums of the format.
        bombs: further files, by name.
        damaged: the endings of the files to damage.
        memory: bytes that reading one may add.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], int]
    deeper: damage.Mutation = damage.plain
    bombs: Callable[[], dict[str, bytes]] = dict
    damaged: tuple[str, ...] = ("",)
    memory: int = 256 * MB


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


# --- images -----------------------------------------------------------------------


def read_image(file: Path) -> int:
    """As predict, training and prepare do."""
    from alexnet_jax import inputs
    from alexnet_jax.data.folders import files_named
    from alexnet_jax.data.preprocess import Square
    from alexnet_jax.prepare.shards import Encoder

    files = files_named([str(file)])
    inputs.shorter_side(files, 0)
    try:
        Square(64).pixels(files[0])
    except ImageError:
        with contextlib.suppress(ImageError):
            Square(64, exif_rotation=False).pixels(files[0])
        raise
    Encoder("jpeg", "4:4:4", Square(48)).encode(files[0])
    return 0


def image_or_png(rng, data, others):
    if data.startswith(b"\x89PNG"):
        return damage.png(rng, data, others)
    return damage.plain(rng, data, others)


# --- tars -------------------------------------------------------------------------


def read_all(source) -> int:
    """Read every record; the number of images that cannot be decoded."""
    from alexnet_jax.data.preprocess import Square

    left_out = 0
    for i in range(len(source)):
        try:
            Square(32).pixels(source[i])
        except ImageError as error:
            if "\n" in str(error):
                raise AssertionError(error) from None
            left_out += 1
    if left_out and left_out == len(source):
        raise ImageError(f"none of {left_out} images of {source[0].name}")
    return left_out


def read_class_tar(file: Path) -> int:
    from alexnet_jax.data.sources import open_source

    source = open_source(
        "folder", str(file), "train", key="dataset.train", image_size=32, seed=0
    )
    return read_all(source)


def make_class_tars(folder: Path) -> None:
    write(folder, {"pax.tar": class_tar()})
    write(
        folder,
        {
            "plain.tar": tar_bytes(
                {f"{c}/{i}.png": encoded(drawn(i)) for c in "ab" for i in (1, 2)}
            )
        },
    )
    for i in range(3):
        write(folder, {f"gnu{i}.tar": odd_tar(random.Random(i))})


def class_tar() -> bytes:
    """A tar of class folders with the long names of POSIX."""
    out = io.BytesIO()
    picture = encoded(drawn(1), "JPEG", quality=50)
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in (
            *("set/cat/0.jpg", "set/cat/" + "é" * 120 + ".jpg", "set/dog/1.jpg"),
            "set/dog/" + "long" * 60 + ".jpg",
        ):
            info = tarfile.TarInfo(name)
            info.size = len(picture)
            tar.addfile(info, io.BytesIO(picture))
        folder = tarfile.TarInfo("set/cat")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    return out.getvalue()


def odd_tar(rng: random.Random) -> bytes:
    """A tar of GNU's with a member that is no plain file, or lies outside."""
    out = io.BytesIO()
    picture = encoded(drawn(2), "JPEG", quality=50)
    kinds = (
        *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE),
        *(tarfile.BLKTYPE, tarfile.GNUTYPE_SPARSE, tarfile.REGTYPE),
    )
    names = ("/etc/cat/0.jpg", "../../cat/0.jpg", "a/../../cat/0.jpg", "a/cat/0.jpg")
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("a/cat/1.jpg", "a/dog/2.jpg", "a/dog/" + "n" * 150 + ".jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(picture)
            tar.addfile(info, io.BytesIO(picture))
        info = tarfile.TarInfo(rng.choice(names))
        info.type = rng.choice(kinds)
        info.linkname = rng.choice(("/etc/passwd", "../../x", "a/dog/2.jpg"))
        tar.addfile(info)
    return out.getvalue()


def tar_bombs() -> dict[str, bytes]:
    """Headers with sizes that are not there, names without end, a gzip of zeros."""
    whole = tar_bytes({"a/cat/0.jpg": b"x" * 600, "a/dog/1.jpg": b"y" * 600})

    def header(name: str, kind: bytes, size: int) -> bytes:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, size
        return info.tobuf(tarfile.GNU_FORMAT)

    long_name, pax = tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE
    link = header("././@LongLink", long_name, 10) + b"a/cat/0.jp".ljust(512, b"\0")
    record = b"13 size=-512\n"
    zeros = damage.gzip.compress(bytes(100 * MB), 1, mtime=0)
    return {
        "exabyte.tar": whole[:1536] + header("a/b/1.jpg", b"0", 1 << 62) + whole[2048:],
        "back.tar": whole[:1536] + header("a/b/1.jpg", b"0", -2048) + whole[2048:],
        "back.pax.tar": header("x", pax, len(record))
        + record.ljust(512, b"\0")
        + whole,
        "long.name.tar": header("x", long_name, 1 << 60) + whole,
        "long.pax.tar": header("x", pax, 1 << 60) + whole,
        "negative.pax.tar": header("x", pax, -512) + whole,
        "names.tar": link * 5000 + whole,
        "gzip.tar": tar_bytes({"a/cat/0.jpg": zeros, "a/dog/1.jpg": b"x"}),
    }


def make_ilsvrc(folder: Path) -> None:
    from alexnet_jax.data.ilsvrc import official_classes

    names = official_classes()[:3]
    write(
        folder,
        {
            "ILSVRC2012_img_train.tar": class_tars(dict.fromkeys(names, 2)),
            "ILSVRC2012_img_val.tar": numbered_tar("ILSVRC2012_val", range(1, 6)),
        },
    )


def read_ilsvrc(file: Path) -> int:
    from alexnet_jax.data.ilsvrc import Split
    from alexnet_jax.prepare.originals import open_originals

    split = Split.TRAIN if "train" in file.name else Split.VALIDATION
    return read_all(open_originals(file.parent, [split]).splits[split])


def make_devkit(folder: Path) -> None:
    from preparing import make_devkit

    inside = folder / "devkit"
    inside.mkdir()
    make_devkit(inside)
    data = tar_bytes({f"data/{f.name}": f.read_bytes() for f in inside.iterdir()})
    shutil.rmtree(inside)
    kit = damage.gzip.compress(data, mtime=0)
    write(folder, {"ILSVRC2010_devkit-1.0.tar.gz": kit})
    tar = numbered_tar("ILSVRC2010_val", range(1, 4))
    write(folder, {"ILSVRC2010_images_val.tar": tar})


def read_devkit(file: Path) -> int:
    from alexnet_jax.data.ilsvrc import Split
    from alexnet_jax.prepare.originals import open_originals

    splits = open_originals(file.parent, [Split.VALIDATION]).splits
    return read_all(splits[Split.VALIDATION])


def devkit_bombs() -> dict[str, bytes]:
    name = "data/ILSVRC2010_validation_ground_truth.txt"
    zeros = tar_bytes({"data/meta.mat": bytes(140 * MB), name: b"1\n"})
    return {"ILSVRC2010_devkit-1.0.tar.gz": damage.gzip.compress(zeros, 6, mtime=0)}


# --- prepared folders -------------------------------------------------------------


def copy_of_prepared(folder: Path) -> None:
    shutil.copytree(RECORDS, folder, dirs_exist_ok=True)


def read_prepared(file: Path) -> int:
    """As training does; what the hashes cover must be as it was written."""
    from alexnet_jax.data import prepared
    from alexnet_jax.data.preprocess import Square
    from alexnet_jax.data.sources import open_source
    from alexnet_jax.data.statistics import Statistics

    found = {}
    for folder in (RECORDS, file.parent):
        if statistics := prepared.statistics_of(folder):
            Statistics.load(statistics)
        size = json.loads((RECORDS / "manifest.json").read_text())
        source = open_source(
            "records", str(folder), "train", key="dataset.train",
            image_size=size["settings"]["--image_size"], seed=0,
        )  # fmt: skip
        every = [source[i] for i in range(len(source))]
        found[folder] = [(Square(32).pixels(r).tobytes(), r[2]) for r in every]
    changed = found[RECORDS] != found[file.parent]
    if changed and file.name != "manifest.json":  # the root of the checksums
        raise OtherError(f"{file.name} is damaged, and other records were read")
    return 0


def make_of_stranger(folder: Path) -> None:
    """A prepared folder, its manifest to be made to fit what is damaged."""
    copy_of_prepared(folder)


def read_of_stranger(file: Path) -> int:
    """As training does, where the checksums fit the damage."""
    from alexnet_jax.data.files import sha256

    manifest = file.with_name("manifest.json")
    whole = manifest.read_text()
    tree = json.loads(whole)
    if file.name in tree["files"]:
        tree["files"][file.name] = sha256(file)
    for name, shard in tree["shards"].items():
        if file.name == f"{name}.index.npy":
            shard["index"] = sha256(file)
        if file.name == name:
            shard["bytes"] = file.stat().st_size
    manifest.write_text(json.dumps(tree))
    try:
        return read_prepared(file)
    except OtherError:
        return 0
    finally:
        manifest.write_text(whole)


def make_of_tfds(folder: Path) -> None:
    """A folder as TFDS writes it, without our index and manifest."""
    copy_of_prepared(folder)
    for file in (*folder.glob("*.index.npy"), folder / "manifest.json"):
        file.unlink()


def read_of_tfds(file: Path) -> int:
    from alexnet_jax.data.sources import open_source

    source = open_source(
        "records", str(file.parent), "train", key="dataset.train", image_size=32, seed=0
    )
    return read_all(source)


def make_unfinished(folder: Path) -> None:
    from alexnet_jax.data.statistics import Sums
    from alexnet_jax.prepare.manifest import save_unfinished
    from alexnet_jax.prepare.shards import plan

    shards = plan("pictures", "train", 9, 2)
    settings = {"--encoding": "raw", "--image_size": 8, "--shards": 2}
    save_unfinished(folder, settings, shards, Sums.none(8))


def read_unfinished(file: Path) -> int:
    """As `prepare` does: what cannot be read counts as not written."""
    from alexnet_jax.prepare.manifest import load_unfinished

    if load_unfinished(file.parent) is None:
        raise InputError(f"--destination: {file.name} in it is damaged")
    return 0


# --- arrays -----------------------------------------------------------------------


def make_statistics(folder: Path) -> None:
    from alexnet_jax.data.statistics import Statistics

    mean = drawn(3, 24, 24).astype(np.float32)
    axes = np.eye(3, dtype=np.float32)
    Statistics(mean, np.ones(3, np.float32), axes).save(folder / "statistics.npz")


def read_statistics(file: Path) -> int:
    from alexnet_jax.data.statistics import Statistics

    Statistics.load(file)
    return 0


def npy(shape: str, content: bytes = b"", descr: str = "<f4") -> bytes:
    """A .npy file whose header claims a shape."""
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head.encode() + content


def zipped(members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind, compresslevel=1) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return out.getvalue()


def statistics_bombs() -> dict[str, bytes]:
    side = 4_800
    real = npy(f"({side}, {side}, 3)", bytes(4 * 3 * side * side))
    small = {"color_stddev.npy": npy("(3,)", bytes(12)),
             "color_axes.npy": npy("(3, 3)", bytes(36))}  # fmt: skip
    return {
        "zeros.npz": zipped({"mean_image.npy": real, **small}),
        "claims.npz": zipped({"mean_image.npy": npy("(99999, 99999, 3)"), **small}),
        "terabytes.npz": zipped({"mean_image.npy": npy(f"({2**40},)"), **small}),
    }


def make_means(folder: Path) -> None:
    from caffe_files import SMALL, mean_image, write_mean

    for name in ("mean.npy", "mean.binaryproto"):
        write_mean(folder / name, mean_image(SMALL)[:, :16, :16])


def read_mean(file: Path) -> int:
    from alexnet_jax.weights.caffe import read_mean

    read_mean(file)
    return 0


def mean_bombs() -> dict[str, bytes]:
    return {
        "claims.npy": npy("(3, 99999, 99999)"),
        "terabytes.npy": npy(f"({2**40},)"),
        "objects.npy": npy("(3,)", b"\x80\x04N.", "|O"),
        "zip.npy": zipped({"x.npy": npy("(3,)", bytes(12))}),
        "text.npy": npy("(3,)", bytes(12), "<U1"),
    }


# --- weights ----------------------------------------------------------------------


def tiny_weights() -> dict[str, np.ndarray]:
    """Outputs first, of the network of `weights_config`."""
    from alexnet_jax.weights.layout import shapes

    rng = np.random.default_rng(0)
    network, side = weights_network()
    return {
        name: rng.standard_normal(shape).astype("f4")
        for name, shape in shapes(network, side, outputs_first=True).items()
    }


def weights_network():
    from alexnet_jax.network.alexnet import AlexNet

    return AlexNet(classes=4, kernels=(2, 2, 2, 2, 2), units=(4, 4)), 67


def read_weights(file: Path) -> int:
    """As convert does, up to the arrays of the network."""
    from alexnet_jax.convert import _own_config, _read
    from alexnet_jax.weights.layout import as_params

    network, side = weights_network()
    mean = file.with_name("mean.npy") if file.suffix == ".caffemodel" else None
    found = _read(file, mean)
    if "config.json" in found.companions:
        _own_config(found, file)
    as_params(found, network, side, f"--source={file}")
    return 0


def make_safetensors(folder: Path) -> None:
    from safetensors.numpy import save_file

    tensors = tiny_weights()
    save_file(tensors, folder / "plain.safetensors")
    make_config(folder)
    config = base64.b64encode((folder / "config.json").read_bytes()).decode()
    (folder / "config.json").unlink()
    save_file(tensors, folder / "own.safetensors", {"config.json": config})
    half = {name: own.astype("f2") for name, own in tensors.items()}
    save_file(half, folder / "half.safetensors", {"format": "pt"})


def safetensors_bombs() -> dict[str, bytes]:
    def file(head: object) -> bytes:
        text = json.dumps(head).encode()
        return struct.pack("<Q", len(text)) + text

    def one(dtype: str, shape: list[int], end: int) -> bytes:
        name = "conv1.weight"
        return file({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}})

    return {
        "head.safetensors": struct.pack("<Q", 1 << 40),
        "full.head.safetensors": struct.pack("<Q", 99_000_000) + b"{",
        "huge.safetensors": one("F32", [1 << 20, 1 << 20], 1 << 42),
        "overflow.safetensors": one("F32", [1 << 40, 1 << 40], 16),
        "bf16.safetensors": one("BF16", [2, 2], 8) + bytes(8),
        "f8.safetensors": one("F8_E4M3", [2, 2], 4) + bytes(4),
        "many.safetensors": file(
            {f"{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
             for i in range(20_000)}
        ),
    }  # fmt: skip


def make_pth(folder: Path) -> None:
    import torch

    tensors = {name: torch.from_numpy(a) for name, a in tiny_weights().items()}
    torch.save(tensors, folder / "new.pth")
    torch.save(tensors, folder / "old.pth", _use_new_zipfile_serialization=False)
    halves = {name: tensor.half() for name, tensor in tensors.items()}
    torch.save(halves, folder / "half.pt")


def pth_bombs() -> dict[str, bytes]:
    import torch

    def saved(state: object) -> bytes:
        out = io.BytesIO()
        torch.save(state, out)
        return out.getvalue()

    one = torch.zeros(1, dtype=torch.float16)
    wide = one.expand(1 << 20, 1 << 20)
    plain = saved({"conv1.weight": torch.zeros(4)})
    with zipfile.ZipFile(io.BytesIO(plain)) as file:
        members = {info.filename: file.read(info) for info in file.infolist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    data = next(name for name in members if "/data/" in name)
    return {
        "expanded.pth": saved({"conv1.weight": wide}),
        "sparse.pth": saved({"conv1.weight": torch.eye(2).to_sparse()}),
        "complex.pth": saved({"conv1.weight": torch.ones(2, dtype=torch.complex64)}),
        "bfloat16.pth": saved({"conv1.weight": torch.ones(2, dtype=torch.bfloat16)}),
        "float8.pth": saved({"conv1.weight": torch.ones(2).to(torch.float8_e4m3fn)}),
        "meta.pth": saved({"conv1.weight": torch.empty(1 << 40, device="meta")}),
        "quantised.pth": saved(
            {
                "conv1.weight": torch.quantize_per_tensor(
                    torch.ones(2), 1, 0, torch.qint8
                )
            }
        ),
        "pickle.of.zeros.pth": zipped(members | {pickled: b"N" * (100 * MB) + b"."}),
        "zeros.pth": zipped(members | {data: bytes(100 * MB)}),
        "compressed.pth": zipped(members),
    }


def make_caffemodel(folder: Path) -> None:
    from caffe_files import write_caffemodel

    sizes = small_caffe()
    for generation in (1, 2):
        write_caffemodel(
            folder / f"v{generation}.caffemodel", "bvlc_alexnet", sizes,
            caffe_weights(), generation,
        )  # fmt: skip
    np.save(folder / "mean.npy", np.zeros((3, 8, 8), "f4"))


def small_caffe():
    from caffe_files import Sizes

    return Sizes((2, 2, 2, 2, 2), (4, 4), 4, 67, 72)


def caffe_weights() -> dict[str, np.ndarray]:
    from caffe_files import random_weights

    return random_weights("bvlc_alexnet", small_caffe())


def caffe_bombs() -> dict[str, bytes]:
    def field_(number: int, content: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(content)) + content

    def varint(n: int) -> bytes:
        low = b""
        while n > 127:
            low, n = low + bytes([n & 127 | 128]), n >> 7
        return low + bytes([n])

    def net(blob: bytes) -> bytes:
        return field_(100, field_(1, b"conv1") + field_(7, blob))

    huge = b"".join(varint(1 << 3) + varint(n) for n in (1 << 40, 1 << 40))
    nested = b""
    for _ in range(5000):
        nested = field_(7, nested)
    return {
        "claims.caffemodel": field_(100, b"")[:-1] + varint(1 << 60),
        "dims.caffemodel": net(field_(5, bytes(8)) + field_(7, huge)),
        "odd.caffemodel": net(field_(5, b"123") + field_(7, b"\x08\1")),
        "negative.caffemodel": net(
            field_(5, bytes(8)) + field_(7, varint(1 << 3) + varint((1 << 64) - 1))
        ),
        "layers.caffemodel": field_(100, b"") * 300_000,
        "nested.caffemodel": nested,
        "name.caffemodel": net(b"").replace(b"conv1", b"\xff\xfe\xff\xfe\xff"),
    }


# --- work directories -------------------------------------------------------------


def make_config(folder: Path) -> None:
    from runs import tiny_config

    from alexnet_jax.workdir import write_config

    write_config(tiny_config(), folder / "config.json")


def read_config(file: Path) -> int:
    """As predict and evaluate do, up to the shapes of the network."""
    from alexnet_jax import experiment, inputs
    from alexnet_jax.config_file import load_config
    from alexnet_jax.workdir import read_config

    config = read_config(file.parent)
    load_config(str(file))
    experiment.make_network(config, 10)
    inputs.make_square(config)
    return 0


def make_classes(folder: Path) -> None:
    write(folder, {"classes.txt": "cat\ndog\nAffe\nZürich\n".encode()})


def read_classes(file: Path) -> int:
    from alexnet_jax.workdir import read_classes

    read_classes(file)
    return 0


def make_fingerprints(folder: Path) -> None:
    own = {"images": 100, "classes": 10, "sha256": "0" * 64}
    both = {"dataset.train": own, "dataset.validation": own}
    write(folder, {"images.json": json.dumps(both).encode()})


def read_fingerprints(file: Path) -> int:
    from alexnet_jax.fingerprints import known_images

    known_images(file.parent)
    return 0


def make_metrics(folder: Path) -> None:
    rows = [
        {"step": 5 * i, "epoch": i / 2, "train/loss": 2.3, "train/top1_error": 0.9,
         "train/learning_rate": 0.01, "train/images_per_second": 100.0,
         "validation/top1_error": 0.9}
        for i in range(1, 9)
    ]  # fmt: skip
    write(
        folder, {"metrics.jsonl": "".join(f"{json.dumps(r)}\n" for r in rows).encode()}
    )


def read_metrics(file: Path) -> int:
    """As a resumed training and the report do; the number of lines left out."""
    from runs import tiny_config

    from alexnet_jax.metrics import MetricsFile, read_metrics
    from alexnet_jax.report.run import Run, training_images

    lines = read_metrics(file)
    run = Run("x", file.parent, tiny_config(), [], lines, None, None, None)
    training_images(lines, 16)
    for key in ("train/loss", "validation/top1_error"):
        run.last(key)
    _ = run.steps, run.complete, run.seconds, run.rate_changes()
    there = len([row for row in file.read_bytes().split(b"\n") if row])
    with contextlib.redirect_stderr(io.StringIO()) as said:
        MetricsFile(file, 20).close()
    kept = file.with_name(f"{file.name}.damaged").exists()
    if (said.getvalue().count("\n") == 1) != kept:
        raise OtherError(f"{file.name}: kept: {kept}, said: {said.getvalue()!r}")
    return there - len(lines)


@dataclass
class Checkpoint:
    """A small training's checkpoint, and its values."""

    like: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)

    def make(self, folder: Path) -> None:
        import jax
        import optax

        from alexnet_jax.checkpoint import Checkpoints
        from alexnet_jax.metrics import Sums
        from alexnet_jax.step import State

        rng = np.random.default_rng(0)
        params = {
            layer: {"kernel": rng.standard_normal((4, 30)).astype("f4"),
                    "bias": rng.standard_normal(30).astype("f4")}
            for layer in ("conv1", "fc8")
        }  # fmt: skip
        state = State(np.int32(7), params, optax.TraceState(params), Sums.zero())
        state = jax.device_put(state)
        checkpoints = Checkpoints(folder / "checkpoints", keep=2)
        checkpoints.save(state, {"plateau": 1}, 0.5)
        checkpoints.close()
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        self.like = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), state
        )
        self.values = jax.tree.map(np.asarray, state)

    def read(self, file: Path) -> int:
        """As a resumed training does."""
        import jax

        from alexnet_jax.checkpoint import Checkpoints

        folder = next(p for p in file.parents if p.name == "checkpoints")
        with contextlib.closing(Checkpoints(folder, keep=2)) as checkpoints:
            state, _ = checkpoints.restore(self.like)
        same = jax.tree.map(np.array_equal, state, self.values)
        if not all(jax.tree.leaves(same)):
            raise OtherError(f"{file.name} is damaged, and other weights were read")
        return 0


_checkpoint = Checkpoint()

KINDS = {
    "images": Kind(lambda f: write(f, images()), read_image,
                   image_or_png, bombs, memory=1300 * MB),
    "class tar": Kind(make_class_tars, read_class_tar, damage.tar, tar_bombs),
    "ILSVRC tars": Kind(make_ilsvrc, read_ilsvrc, damage.tar),
    "devkit": Kind(make_devkit, read_devkit, damage.zipped_tar, devkit_bombs,
                   damaged=(".gz",)),
    "prepared folder": Kind(copy_of_prepared, read_prepared, damage.tree),
    "stranger's folder": Kind(make_of_stranger, read_of_stranger,
                              damaged=("-of-00001", ".npy", ".npz", ".txt")),
    "manifest": Kind(copy_of_prepared, read_prepared, damage.tree,
                     damaged=("manifest.json",)),
    "TFDS folder": Kind(make_of_tfds, read_of_tfds),
    "unfinished.npz": Kind(make_unfinished, read_unfinished, damage.archive),
    "statistics.npz": Kind(make_statistics, read_statistics, damage.archive,
                           statistics_bombs),
    "mean image": Kind(make_means, read_mean, bombs=mean_bombs),
    "safetensors": Kind(make_safetensors, read_weights, damage.safetensors,
                        safetensors_bombs),
    "pth": Kind(make_pth, read_weights, damage.archive, pth_bombs,
                damaged=(".pth", ".pt")),
    "caffemodel": Kind(make_caffemodel, read_weights, bombs=caffe_bombs,
                       damaged=(".caffemodel",)),
    "config.json": Kind(make_config, read_config, damage.tree),
    "classes.txt": Kind(make_classes, read_classes),
    "images.json": Kind(make_fingerprints, read_fingerprints, damage.tree),
    "metrics.jsonl": Kind(make_metrics, read_metrics, damage.lines),
    "checkpoint": Kind(_checkpoint.make, _checkpoint.read),
}  # fmt: skip
