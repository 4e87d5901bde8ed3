import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from apps import run_app, start_app
from pictures import (
    drawn,
    encoded,
)
from preparing import CLASSES, SIZE, contents, made, records, refused

from alexnet_jax.data import prepared
from alexnet_jax.data.files import locked
from alexnet_jax.data.ilsvrc import Split
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import pool, shards
from alexnet_jax.prepare.manifest import load_unfinished


def test_neither_workers_nor_kill_9_change_a_byte(source, tmp_path):
    # A file for each picture: there is always one to come when the first is noted.
    made(source, tmp_path / "one", shards=60)
    undisturbed = contents(tmp_path / "one")
    flags = [f"--source={source}", f"--image_size={SIZE}", "--shards=60", "--workers=3"]
    killed, folder = tmp_path / "killed", tmp_path / "log"
    folder.mkdir()
    process = start_app(folder, "prepare", f"--destination={killed}", *flags)
    while process.is_alive() and not noted(killed):
        time.sleep(0.001)
    process.kill()
    process.join()
    assert not (killed / "manifest.json").exists()
    (killed / "pictures-train.array_record-00059-of-00060").write_bytes(b"half")
    refused(lambda: records(killed), killed, "not prepared to the end", "again")
    answer = run_app("prepare", f"--destination={killed}", *flags)
    assert answer.err == ""  # no bar in a pipe
    assert answer.status == 0, answer
    assert "finished shards are kept" in answer.out
    assert contents(killed) == undisturbed


def test_ctrl_c_ends_the_workers_and_leaves_nothing_half(source, tmp_path):
    out, folder = tmp_path / "out", tmp_path / "log"
    folder.mkdir()
    flags = [f"--source={source}", f"--image_size={SIZE}", "--shards=60", "--workers=3"]
    process = start_app(folder, "prepare", f"--destination={out}", *flags)
    while process.is_alive() and not noted(out):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGINT)
    process.join(10)
    assert process.exitcode == 130
    assert (folder / "err").read_text().splitlines()[-1] == "interrupted"
    assert "Traceback" not in (folder / "err").read_text()
    assert not list(out.glob("*.unfinished"))
    made(source, out, shards=60)
    made(source, tmp_path / "undisturbed", shards=60)
    assert contents(out) == contents(tmp_path / "undisturbed")


def noted(folder: Path) -> bool:
    """Whether a shard is known to be finished."""
    state = load_unfinished(folder)
    return state is not None and bool(state[1])


def test_a_finished_folder_is_verified_and_mended(source, tmp_path, capsys):
    out = tmp_path / "out"
    made(source, out)
    whole = contents(out)
    capsys.readouterr()
    made(source, out, workers=1)
    assert "10 finished shards are kept" in capsys.readouterr().out
    shard = out / "pictures-train.array_record-00002-of-00005"
    data = shard.read_bytes()
    middle = data.index(b"\xff\xd8") + 100  # in the first JPEG
    for damage in (data[:middle] + b"no" + data[middle + 2 :], data[:middle], None):
        shard.unlink()
        if damage is not None:
            shard.write_bytes(damage)
        with pytest.raises(InputError) as caught:
            list(records(out))
        assert str(caught.value).startswith(f"{shard}: damaged")
        assert "run `python -m alexnet_jax.prepare` again" in str(caught.value)
        made(source, out)
        told = capsys.readouterr().out
        assert f"{shard.name}: damaged; it is written again" in told
        assert "9 finished shards are kept" in told
        assert contents(out) == whole
    (out / "statistics.npz").write_bytes(b"")
    made(source, out)
    assert "statistics.npz: damaged" in capsys.readouterr().out
    assert contents(out) == whole

    shard.unlink()
    for file in (source / "train" / "cat").iterdir():
        file.write_bytes(encoded(drawn(7), "JPEG"))
    refused(lambda: made(source, out), "--source", "not those", shard.name)


def test_other_settings_are_refused(source, tmp_path):
    out = tmp_path / "out"
    made(source, out)
    refused(lambda: made(source, out, encoding="raw"), "--encoding=jpeg, not raw")
    refused(lambda: made(source, out, image_size=16), "--image_size=32, not 16")
    refused(lambda: made(source, out, shards=1), "10 files in all (--shards), not 2")
    refused(
        lambda: made(source, out, [Split.TRAIN]), "--split=train,validation, not train"
    )
    other = tmp_path / "other"
    shutil.copytree(source, other)
    begun = tmp_path / "begun"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ArrayRecordWriter", broken_writer)
        refused(lambda: made(source, begun), "No space left on device")
    refused(lambda: made(other, begun), f"--source={source}, not {other}")


def broken_writer(path, options):
    raise RuntimeError(f"write() failed: No space left on device; writing {path}")


def test_a_full_disk(source, tmp_path):
    raw = {"encoding": "raw", "shards": 1}
    made(source, tmp_path / "out", **raw)
    full = tmp_path / "full"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A shard of 60 pictures of 3 kB does not fit into this.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        refused(
            lambda: made(source, full, **raw),
            "train.array_record-00000-of-00001: cannot be written: File too large",
            "are still to be written",
            "are free: correct that, then run `python -m alexnet_jax.prepare` again",
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(contents(full)) == ["unfinished.npz"]
    made(source, full, **raw)
    assert contents(full) == contents(tmp_path / "out")


def test_a_disk_too_small(source, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=150_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    out = tmp_path / "out"
    refused(
        lambda: made(source, out, shards=1), "--destination", "0.1 MB are free", "raw"
    )
    assert contents(out) == {}
    usage = usage._replace(free=10_000_000)
    made(source, out, shards=1)
    told = capsys.readouterr().out
    assert "as --encoding=jpeg (about 0.5 MB as --encoding=raw)" in told
    assert "10.0 MB are free" in told


def test_other_pictures_are_not_mixed_with_those_that_are_there(source, tmp_path):
    out = tmp_path / "out"
    made(source, out)
    before = contents(out)
    source.rename(tmp_path / "moved")
    made(tmp_path / "moved", out)  # the same ones
    train = tmp_path / "moved" / "train"
    (train / "cat").rename(train / "cow")  # as many, of another class
    (tmp_path / "moved" / "val" / "cat").rename(tmp_path / "moved" / "val" / "cow")
    refused(lambda: made(tmp_path / "moved", out), "other images than --source has")
    assert contents(out) == before
    (train / "cow").rename(train / "cat")
    (tmp_path / "moved" / "val" / "cow").rename(tmp_path / "moved" / "val" / "cat")
    (train / "cat" / "00.JPEG").rename(train / "cat" / "99.JPEG")  # in another order
    refused(lambda: made(tmp_path / "moved", out), "other images than --source has")


def test_a_lost_index_costs_no_shard(source, tmp_path):
    out = tmp_path / "out"
    made(source, out)
    (lost,) = out.glob("*-train.*-00000-of-*.index.npy")
    index = lost.read_bytes()
    lost.unlink()
    first = source / "train" / "bird" / "00.JPEG"
    picture = first.read_bytes()
    first.write_bytes(encoded(drawn(99), "JPEG"))
    before = contents(out)
    refused(lambda: made(source, out), "its images are not those")
    assert contents(out) == before
    first.write_bytes(picture)
    made(source, out)
    assert lost.read_bytes() == index


def test_what_lies_beside_the_shards_is_checked_too(source, tmp_path):
    out = tmp_path / "out"
    made(source, out)
    classes, statistics = out / "classes.txt", out / "statistics.npz"
    whole = classes.read_bytes()
    for damaged in (b"cat\nbird\ndog\n", b"bird\ncat\n"):
        classes.write_bytes(damaged)
        refused(lambda: records(out), classes, "damaged", "prepare` again")
    classes.write_bytes(whole)
    assert records(out).classes == CLASSES
    assert prepared.statistics_of(out) == statistics
    for damage in (lambda: statistics.write_bytes(b"x"), statistics.unlink):
        damage()
        refused(lambda: prepared.statistics_of(out), statistics, "prepare` again")


def test_what_was_begun_and_is_damaged_is_named(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "unfinished.npz").write_bytes(b"x")
    refused(lambda: made(source, tmp_path / "out"), "unfinished.npz in it is damaged")


def test_two_at_once(source, tmp_path):
    out = tmp_path / "out"
    with locked(out, "--destination", "`prepare`"):
        refused(lambda: made(source, out), out, "another `prepare` is using it")
    made(source, out)


def test_results_come_in_the_order_of_the_jobs():
    results = pool.run(pow, 2, range(50), [2] * 50)
    assert list(results) == [i**2 for i in range(50)]


def test_a_worker_that_is_killed():
    jobs = pool.run(os._exit, 2, [9] * 3)
    refused(lambda: list(jobs), "--workers=2: one of them was killed")
    assert not multiprocessing.active_children()


PARENT = """
import os, time
from alexnet_jax.prepare import pool

def where_and_wait(_):
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    list(pool.run(where_and_wait, 2, range(2)))
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_end_with_a_process_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(map(alive, workers))
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rsplit(")")[1].split()[0] != "Z"
