"""A small part of `python tests/rubbish.py`: every kind, a few files each."""

import contextlib

import pytest
import rubbish
from rubbish_kinds import KINDS

from alexnet_jax.errors import InputError

FEWER = {
    "checkpoint": 4,
    "devkit": 4,
    "TFDS folder": 10,
    "config.json": 20,
    "images": 150,
}
# With members that are no images of class folders, on purpose.
ODD = ("gnu",)


def test_damaged_files_are_read_refused_or_left_out(tmp_path):
    first = rubbish.BOMBS
    tasks = [(n, i) for n in KINDS for i in range(first, first + FEWER.get(n, 40))]
    results = rubbish.read_all(tasks, 0, tmp_path)
    failed = {t: r for t, r in results.items() if r.outcome not in rubbish.OUTCOMES}
    assert not failed
    assert len(results) == len(tasks)


@pytest.mark.parametrize("name", KINDS)
def test_whole_files_are_read(name, tmp_path):
    kind = KINDS[name]
    kind.make(tmp_path)
    for file in sorted(tmp_path.rglob("*")):
        if file.is_file() and file.name.endswith(kind.damaged):
            if file.name.startswith(ODD):
                with contextlib.suppress(InputError):
                    kind.read(file)
            else:
                assert kind.read(file) == 0, file


def test_a_file_is_a_function_of_seed_and_number(tmp_path):
    kind = KINDS["statistics.npz"]
    kind.make(tmp_path)
    files = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    made = [
        rubbish.case(kind, files, "statistics.npz", seed, number, dict)
        for seed, number in ((0, 30), (0, 30), (0, 31), (1, 30))
    ]
    assert made[0] == made[1]
    assert len({data for _, data in made}) == 3
