#!/usr/bin/env python3
"""Takes a copy out of a Pullback store without Pullback: python3 unpack.py COPY NEW_FILE

COPY is a file of the copy in STORE/HOST/STEM/copies: its .db, .db.gz, .delta.gz or .json. NEW_FILE must not exist.
doc/format.md describes what is read here. Needs nothing but Python 3.6 or later.
"""

import gzip
import hashlib
import json
import os
import shutil
import struct
import sys
import zlib

SUFFIXES = (".db", ".db.gz", ".delta.gz", ".json", ".pages")
CHANGE = struct.Struct("<IB16s")  # page number, 0 whole or 1 XOR, first 16 bytes of BLAKE3 (not looked at here)


def fail(why):
    sys.exit(f"unpack.py: {why}")


def copy_id(path):
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.endswith(suffix):
            return path[: -len(suffix)]
    fail(f"{path} is no file of a copy")


def chain(copy):
    """The deltas that lead to a copy, oldest first, and the whole copy that they begin at."""
    folder, deltas = os.path.dirname(copy), []
    while True:
        for suffix in (".db", ".db.gz"):
            if os.path.exists(copy + suffix):
                return deltas, copy + suffix
        delta = copy + ".delta.gz"
        if not os.path.exists(delta):
            fail(f"neither {copy}.db nor {copy}.db.gz nor {delta} is there")
        with gzip.open(delta) as packed:
            head = json.loads(packed.readline(4096))
        if head.get("pullback") != "delta" or head.get("v") != 1:
            fail(f"{delta} is no delta, or of a later version")
        if delta in deltas:
            fail(f"{delta} leads to itself")
        deltas.append(delta)
        copy = os.path.join(folder, head["base"])


def exactly(stream, count, name):
    data = stream.read(count)
    if len(data) != count:
        fail(f"{name} is cut short")
    return data


def apply(delta, out):
    """Changes the file `out`, which holds the newer copy, into the one that is in `delta`."""
    with gzip.open(delta) as packed:
        head = json.loads(packed.readline(4096))
        size = head["page_size"]
        for _ in range(head["pages"]):
            number, kind, _hash = CHANGE.unpack(exactly(packed, CHANGE.size, delta))
            page = exactly(packed, size, delta)
            if kind == 1:
                out.seek((number - 1) * size)
                old = exactly(out, size, "the newer copy")
                page = (int.from_bytes(page, "big") ^ int.from_bytes(old, "big")).to_bytes(size, "big")
            elif kind != 0:
                fail(f"{delta} has a change of kind {kind}")
            out.seek((number - 1) * size)
            out.write(page)
        if packed.read(1):
            fail(f"{delta} is longer than it says")
        out.truncate(head["page_count"] * size)


def unpack(copy, out):
    deltas, whole = chain(copy)
    with (gzip.open if whole.endswith(".gz") else open)(whole, "rb") as plain:
        shutil.copyfileobj(plain, out, 1 << 20)
    for delta in reversed(deltas):
        apply(delta, out)
    out.seek(0)
    md5 = hashlib.md5()
    for block in iter(lambda: out.read(1 << 20), b""):
        md5.update(block)
    with open(copy + ".json", encoding="utf-8") as file:
        manifest = json.load(file)
    if out.tell() != manifest["bytes"] or manifest["md5"] not in (None, md5.hexdigest()):
        fail(f"this is not what the manifest says: {out.tell()} bytes, MD5 {md5.hexdigest()}")
    known = "as its manifest says" if manifest["md5"] else "and its manifest names none: run PRAGMA integrity_check"
    return f"{out.tell()} bytes, MD5 {md5.hexdigest()}, {known}"


def main():
    if len(sys.argv) != 3:
        fail(__doc__.strip())
    copy, target = copy_id(sys.argv[1]), sys.argv[2]
    try:
        out = open(target, "x+b")
    except FileExistsError:
        fail(f"{target} is there already")
    done = False
    try:
        with out:
            said = unpack(copy, out)
        done = True
    except (OSError, EOFError, ValueError, KeyError, struct.error, zlib.error) as error:
        fail(f"{type(error).__name__}: {error}; `puller verify` says more, and doc/format.md what damage costs")
    finally:
        # Whole, or not at all.
        if not done:
            os.remove(target)
    print(f"{target}: {said}")


if __name__ == "__main__":
    main()
