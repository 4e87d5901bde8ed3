"""Damage to files, a function of a random generator: bytes → other bytes."""

import gzip
import io
import json
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence

Mutation = Callable[[random.Random, bytes, Sequence[bytes]], bytes]

HEADS = (
    b"\xff\xd8\xff\xe0\0\x10JFIF", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0",
    b"MM\0*", b"RIFF\xff\xff\xff\x7fWEBPVP8X", b"P6\n99999 99999\n255\n", b"%!PS-Adobe",
    b"\0\0\0\x20ftypavif", b"PK\x03\x04", b"\x1f\x8b\x08", b"\x80\x02}q\0.",
    b"\x93NUMPY\x01\0", b"{", b"[" * 64, b"8BPS", b"\xd7\xcd\xc6\x9a", b"BZh9",
)  # fmt: skip
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000,
            0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)  # fmt: skip
ODD = (
    None, True, False, -1, 0, 1, 2**31, 2**63, 10**18, 10**400, -0.0, 0.5, 1e-320,
    float("nan"), float("inf"), "", "x", "x" * 1000, "../../x", "/x", "\0", "a\nb",
    "\ud800", [], {}, [[]], [1, 2, 3], {"a": {}}, ["x"] * 3,
)  # fmt: skip


def _span(rng: random.Random, size: int) -> tuple[int, int]:
    start = rng.randrange(size)
    return start, min(size, start + 1 + int(rng.expovariate(1 / 40)))


def _place(rng: random.Random, size: int) -> int:
    """A position; half of them in the first 512 bytes, where most headers are."""
    return rng.randrange(min(size, 512) if rng.random() < 0.5 else size)


def cut(rng, data, others):
    return data[: rng.randrange(len(data))]


def overwrite(rng, data, others):
    start, stop = _span(rng, len(data))
    filled = rng.choice((None, b"\0", b"\xff"))
    new = rng.randbytes(stop - start) if filled is None else filled * (stop - start)
    return data[:start] + new + data[stop:]


def splice(rng, data, others):
    other = rng.choice(others)
    here, there = rng.randrange(len(data)), rng.randrange(len(other) or 1)
    return data[:here] + other[there:]


def lengthen(rng, data, others):
    start, stop = _span(rng, len(data))
    new = rng.choice((data[start:stop] * 3, rng.randbytes(60), b"\0" * 1024, data))
    at = rng.choice((len(data), start))
    return data[:at] + new + data[at:]


def flip(rng, data, others):
    new = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        new[_place(rng, len(new))] ^= 1 << rng.randrange(8)
    return bytes(new)


def swap(rng, data, others):
    a, b, c, d = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def resize(rng, data, others):
    """Another number where a size may be."""
    width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
    at = _place(rng, len(data))
    new = (rng.choice(EXTREMES) % (1 << 8 * width)).to_bytes(width, order)
    return data[:at] + new + data[at + width :]


def empty(rng, data, others):
    return b""


def behead(rng, data, others):
    head = rng.choice(HEADS)
    return head + data[len(head) :]


PLAIN = (cut, cut, overwrite, overwrite, splice, splice, lengthen, flip, flip, flip,
         swap, swap, resize, resize, resize, behead)  # fmt: skip


def plain(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Bytes without regard to their format."""
    if not data or rng.random() < 0.005:
        return empty(rng, data, others)
    for _ in range(rng.choice((1, 1, 1, 2))):
        data = rng.choice(PLAIN)(rng, data, others) or data
    return data


# --- behind the checksums of a format -------------------------------------------------


def png(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Chunks changed, swapped, removed or doubled, with right checksums."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += size + 12
    i, j = rng.randrange(len(chunks)), rng.randrange(len(chunks))
    kind, content = chunks[i]
    match rng.randrange(5):
        case 0:
            chunks[i], chunks[j] = chunks[j], chunks[i]
        case 1:
            chunks[i:i] = [chunks[j]]
        case 2:
            del chunks[i]
        case 3 if kind == b"IDAT":
            pixels = plain(rng, zlib.decompress(content), others)
            chunks[i] = kind, zlib.compress(pixels)
        case _:
            chunks[i] = kind, plain(rng, content, others)
    return data[:8] + b"".join(
        len(content).to_bytes(4, "big")
        + kind
        + content
        + zlib.crc32(kind + content).to_bytes(4, "big")
        for kind, content in chunks
    )


TAR_FIELDS = ((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100),
              (257, 8), (345, 155))  # fmt: skip
TAR_SIZES = (b"77777777777\0", b"00000000000\0", b"\x80" + b"\xff" * 11,
             b"\xff" * 12, b"\xff" * 10 + b"\xfe\0", b"0000000001 \0",
             b"-0000000001\0", b"\x80" + b"\0" * 7 + b"\x40\0\0\0")  # fmt: skip


def tar(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A field of a header changed, with the right checksum."""
    if len(data) % 512 or len(data) < 1024:
        return plain(rng, data, others)
    new = bytearray(data)
    headers = [
        i for i in range(0, len(data), 512) if data[i + 257 : i + 262] == b"ustar"
    ]
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.choice(headers)
        start, width = rng.choice(TAR_FIELDS)
        if start == 124 and rng.random() < 0.7:
            value = rng.choice(TAR_SIZES)
        elif width == 1:
            value = rng.choice(b"0123456789LKxgSVMN\0").to_bytes(1, "big")
        else:
            value = rng.choice((rng.randbytes(width), b"../../x/y.JPEG", b"/x/y.JPEG"))
        new[at + start : at + start + width] = value[:width].ljust(width, b"\0")
        new[at + 148 : at + 156] = b" " * 8
        new[at + 148 : at + 156] = b"%06o\0 " % sum(new[at : at + 512])
    return bytes(new)


def archive(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A member of a zip changed, renamed, removed, doubled or compressed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        infos = old.infolist()
        chosen = rng.randrange(len(infos))
        how = rng.randrange(8)
        for i, info in enumerate(infos):
            content, name, kind = old.read(info), info.filename, zipfile.ZIP_STORED
            if i == chosen:
                match how:
                    case 0:
                        continue
                    case 1:
                        name = rng.choice(("../x", "/x", name + "x", infos[0].filename))
                    case 2:
                        kind = zipfile.ZIP_DEFLATED
                    case _:
                        content = plain(rng, content, others)
            if name not in new.namelist():
                new.writestr(name, content, kind)
    return out.getvalue()


def _nodes(tree) -> list[tuple]:
    """(container, key) of every value in a tree of JSON."""
    pairs = (
        list(tree.items())
        if isinstance(tree, dict)
        else list(enumerate(tree))
        if isinstance(tree, list)
        else []
    )
    return [(tree, key) for key, _ in pairs] + [n for _, v in pairs for n in _nodes(v)]


def tree(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A value of a JSON text changed, moved or removed; or a deep nest."""
    values = json.loads(data)
    if rng.random() < 0.01:
        return rng.choice((b"[", b'{"a":')) * 100_000
    for _ in range(rng.choice((1, 1, 3))):
        nodes = _nodes(values)
        if not nodes:
            break
        place, key = rng.choice(nodes)
        match rng.randrange(6):
            case 0 if isinstance(place, dict):
                place[rng.choice(("", "x", "a.b", f"{key} "))] = place.pop(key)
            case 1:
                del place[key]
            case 2:
                other, name = rng.choice(nodes)
                place[key] = (
                    json.loads(json.dumps(other[name]))
                    if name in other or (isinstance(other, list) and name < len(other))
                    else None
                )
            case _:
                place[key] = rng.choice(ODD)
    if rng.random() < 0.05:
        values = rng.choice((*ODD, [values]))
    return json.dumps(values).encode()


def lines(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A line of a file of JSON lines changed."""
    rows = data.splitlines()
    i = rng.randrange(len(rows))
    rows[i] = tree(rng, rows[i], others)
    return b"\n".join(rows) + rng.choice((b"\n", b""))


def safetensors(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The JSON header changed, its length right."""
    (size,) = struct.unpack("<Q", data[:8])
    head = tree(rng, data[8 : 8 + size], others)
    return struct.pack("<Q", len(head)) + head + data[8 + size :]


def zipped_tar(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The tar in a gzip, or a file in that, changed."""
    inside = gzip.decompress(data)
    if rng.random() < 0.3:
        return gzip.compress(tar(rng, inside, others), mtime=0)
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(inside)) as old,
        tarfile.open(fileobj=out, mode="w") as new,
    ):
        infos = old.getmembers()
        chosen = rng.choice(infos).name
        for info in infos:
            content = old.extractfile(info).read()
            if info.name == chosen:
                content = plain(rng, content, others)
            info.size = len(content)
            new.addfile(info, io.BytesIO(content))
    return gzip.compress(out.getvalue(), mtime=0)
