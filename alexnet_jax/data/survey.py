"""A look at every training picture, for the statistics that training subtracts."""

import os
from contextlib import closing
from dataclasses import dataclass

import grain
from tqdm import tqdm

from alexnet_jax.data.background import in_background
from alexnet_jax.data.images import Source
from alexnet_jax.data.preprocess import Square
from alexnet_jax.data.statistics import Statistics, Sums
from alexnet_jax.errors import InputError, PictureError

CHUNK = 32  # pictures that a worker sums up before it reports


@dataclass(frozen=True)
class _SumUp:
    """Sums over one chunk of pictures."""

    source: Source
    square: Square

    def __call__(self, chunk: int) -> dict:
        sums = Sums.none(self.square.size)
        unreadable = []
        start = chunk * CHUNK
        indices = range(start, min(start + CHUNK, len(self.source)))
        for i in indices:
            try:
                sums.add(self.square.pixels(self.source[i]))
            except PictureError as error:
                unreadable.append((i, str(error)))
        # grain would take a list or a dataclass apart.
        return {
            "looked_at": len(indices),
            "count": sums.count,
            "image": sums.image,
            "products": sums.products,
            "unreadable": unreadable,
        }


def survey(
    source: Source, square: Square, *, workers: int, progress: bool
) -> tuple[Statistics, list[tuple[int, str]]]:
    """Look once at every training picture.

    The sums are whole numbers: the result is the same, bit for bit, for any workers.

    Args:
        source: the training pictures.
        square: what they are brought to.
        workers: processes to decode in; 0 takes threads of this one.
        progress: whether to show a bar on stderr.

    Returns:
        The statistics, and (index, message) of every picture that cannot be decoded,
        which are left out of them.

    Raises:
        InputError: no picture can be decoded.
    """
    sums = Sums.none(square.size)
    unreadable: list[tuple[int, str]] = []
    chunks = grain.MapDataset.range(-(-len(source) // CHUNK)).map(
        _SumUp(source, square)
    )
    threads = 1 if workers else os.cpu_count() or 1
    bar = tqdm(
        total=len(source), unit=" pictures", desc="statistics", disable=not progress
    )
    with bar, closing(in_background(chunks, workers, threads)) as summed:
        for chunk in summed:
            sums += Sums(chunk["count"], chunk["image"], chunk["products"])
            unreadable += chunk["unreadable"]
            bar.update(chunk["looked_at"])
    if not sums.count:
        reason = f"; {unreadable[0][1]}" if unreadable else ""
        raise InputError(f"none of {len(source)} pictures can be decoded{reason}")
    return sums.statistics(), unreadable
