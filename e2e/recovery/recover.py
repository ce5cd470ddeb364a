#!/usr/bin/env python3
# SPDX-License-Identifier: CC0-1.0
"""Get volumes out of an archive of pinion without pinion.

This does what docs/recovery-format.md says, step by step, with Python's
standard library, the program zstd, and for a passphrase a library that has
Argon2. It reads the archive's directory, and writes nothing but images. What
doesn't authenticate, or isn't as docs/format.md says, is refused; where there
is a second copy that one is taken, with a line. Chunks that no copy gives are
left out with --salvage, which says where.
"""

import argparse
import bisect
import ctypes
import datetime
import getpass
import hashlib
import hmac
import json
import os
import re
import stat
import struct
import subprocess
import sys
import threading
import unicodedata
from types import SimpleNamespace as Record

try:
    from blake3 import blake3
except ImportError:
    blake3 = None

CHUNK, NODE, RECORD, NAMES, SESSION, LEAF, CONFIG, REMOVED = range(1, 9)  # types of blobs
ZEROS = bytes(32)  # the id of what isn't there
METADATA = 2 << 20  # bytes of a blob that is no chunk, at most
BATCH = 16 << 20  # bytes of chunks that are held in memory at once
MOST_ROOT, MOST_INDEX, MOST_TABLE = 1 << 18, 8 << 20, 4 << 20  # bytes, sealed
MOST_BAD_ROOTS = 64  # roots that don't open and are passed over
NO_PACK = 0xFFFFFFFF  # the position that makes an index entry a tombstone
DIGITS = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # of recovery keys
STRUCTURES = {1: "root", 2: "session", 3: "session entry", 4: "volume record", 5: "volume table",
              6: "volume in the volume table", 7: "qube in the volume table", 8: "qube configuration",
              9: "table of contents", 10: "key slot", 11: "key export"}  # fmt: skip
STATES = ("whole", "lost", "not acknowledged")
REASONS = ("", "damaged", "missing", "rollback", "found by a repair")


class Refused(Exception):
    """Something is not what it has to be."""


def check(holds, what):
    if not holds:
        raise Refused(what)


def note(line):
    print(f"recover: {line}", file=sys.stderr)


class Fields:
    """Takes a structure apart, field by field, all of it or nothing. What was
    taken is in seen; parts that were refused by themselves are in refused."""

    def __init__(self, data, what):
        self.data, self.at, self.what, self.seen, self.refused = data, 0, what, [], []

    def cut(self, n):
        check(len(self.data) - self.at >= n, f"{self.what}: is too short")
        self.at += n
        return self.data[self.at - n : self.at]

    def take(self, n):
        self.seen.append(self.cut(n))
        return self.seen[-1]

    def number(self, n, low=None, high=None, signed=False):
        value = int.from_bytes(self.cut(n), "big", signed=signed)
        in_bounds = (low is None or value >= low) and (high is None or value <= high)
        check(in_bounds, f"{self.what}: has {value} where it is to be from {low or 0} to {high}")
        self.seen.append(value)
        return value

    def time(self):
        return self.number(8, signed=True)

    def text(self, low=0, high=65535, controls=True, without=""):
        data = self.cut(int.from_bytes(self.cut(2), "big"))
        check(low <= len(data) <= high, f"{self.what}: has a text of {len(data)} bytes, not {low} to {high}")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise Refused(f"{self.what}: has a text that isn't UTF-8") from None
        bad = [c for c in text if c in without or not controls and unicodedata.category(c) == "Cc"]
        check(not bad, f"{self.what}: has a text with characters that can't be there")
        self.seen.append(text)
        return text

    def version(self):
        version = self.number(1)
        check(version == 2, f"{self.what}: has version {version}, which this doesn't know")

    def extensions(self, structure, most=65536):
        """An extension area; the tag for which the structure is to be refused."""
        start, last, needed = self.at, -1, None
        for _ in range(self.number(2)):
            tag = self.number(2)
            check(tag > last, f"{self.what}: has extensions that don't ascend")
            last = tag
            self.take(self.number(4))
            check(self.at - start <= most, f"{self.what}: has extensions of more than {most} bytes")
            if tag >> 14 == 3 and needed is None:
                needed = f"{self.what}: a newer version made it: {STRUCTURES[structure]}, extension {tag}"
        return needed

    def own_extensions(self, structure):
        needed = self.extensions(structure)
        check(needed is None, needed)

    def entry_extensions(self, structure):
        """Whether the entry can be read; if not, that is in refused."""
        needed = self.extensions(structure, 256)
        if needed is not None:
            self.refused.append(needed)
        return needed is None

    def end(self):
        check(self.at == len(self.data), f"{self.what}: has bytes left over")

    def end_padded(self):
        left = len(self.data) - self.at
        check(len(self.data) % 4096 == 0 and left < 4096, f"{self.what}: isn't padded to 4,096 bytes")
        check(not any(self.data[self.at :]), f"{self.what}: has bytes that aren't zero behind its end")


def ascending(values, what, key=lambda v: v):
    keys = [key(v) for v in values]
    check(all(a < b for a, b in zip(keys, keys[1:])), f"{what}: doesn't ascend")
    return values


def distinct(values, what):
    check(len(set(values)) == len(values), f"{what}: has something twice")
    return values


# Files.


def open_file(path, missing="there is no such file"):
    """A file of the archive, which must not be a pipe that never ends."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise FileNotFoundError(f"{missing}: {path}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Refused(f"{path}: isn't a file")
    return open(fd, "rb")


def read_file(path, most, missing="there is no such file"):
    with open_file(path, missing) as f:
        data = f.read(most + 1)
    check(len(data) <= most, f"{path}: is larger than {most} bytes")
    return data


def names_in(directory, pattern):
    """The names in a directory that are as an archive's; none if it isn't there."""
    try:
        names = os.listdir(directory)
    except OSError as why:
        note(f"{explain(why)}: nothing in it can be used")
        return []
    return sorted(n for n in names if re.fullmatch(pattern, n))


def split(data, kind, what):
    """Header, clear part, and what is behind them."""
    check(len(data) >= 16 and data[:7] == b"PINION" + kind, f"{what}: doesn't begin with PINION{kind.decode()}")
    check(data[7] == 2 and data[8:12] == bytes(4), f"{what}: is damaged, or of a version that this doesn't know")
    length = int.from_bytes(data[12:16], "big")
    check(length <= len(data) - 16, f"{what}: is too short")
    check((length > 0) == (kind in (b"R", b"K")), f"{what}: has a wrong clear part")
    return data[:16], data[16 : 16 + length], data[16 + length :]


# What the steps are built of: HKDF, XChaCha20-Poly1305, Argon2id, zstd.


def hkdf(secret, salt, info):
    """RFC 5869 with SHA-256, for 32 bytes, which are one block of output."""
    return hmac.digest(hmac.digest(salt, secret, "sha256"), info + b"\1", "sha256")


def words(data):
    return [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]


QUARTERS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
            (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))  # fmt: skip


def chacha_rounds(state, mask):
    """The 20 rounds of ChaCha on any number of blocks at once. A number in
    state has one word of every block, 64 bits apart: sums and shifts run over
    into the upper halves, which mask cuts off."""
    x = list(state)
    for _ in range(10):
        for a, b, c, d in QUARTERS:
            for to, plus, turn, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                x[to] = (x[to] + x[plus]) & mask
                t = x[turn] ^ x[to]
                x[turn] = (t << by | t >> (32 - by)) & mask
    return x


def chacha20(key, nonce, blocks):
    """The key stream of RFC 8439, from counter 0 on."""
    ones = int.from_bytes(b"\1\0\0\0\0\0\0\0" * blocks, "little")
    counters = int.from_bytes(b"".join(i.to_bytes(8, "little") for i in range(blocks)), "little")
    mask, fixed = 0xFFFFFFFF * ones, [w * ones for w in words(b"expand 32-byte k" + key + bytes(4) + nonce)]
    state = fixed[:12] + [counters] + fixed[13:]
    stream = bytearray(64 * blocks)
    for i, (x, s) in enumerate(zip(chacha_rounds(state, mask), state)):
        word = ((x + s) & mask).to_bytes(8 * blocks, "little")
        for j in range(4):
            stream[4 * i + j :: 64] = word[j::8]
    return stream


def hchacha20(key, nonce):
    x = chacha_rounds(words(b"expand 32-byte k" + key + nonce), 0xFFFFFFFF)
    return b"".join(w.to_bytes(4, "little") for w in x[:4] + x[12:])


def poly1305(key, data):
    """RFC 8439, of data that is a multiple of 16 bytes."""
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total, top, prime = 0, 1 << 128, (1 << 130) - 5
    for i in range(0, len(data), 16):
        total = (total + top + int.from_bytes(data[i : i + 16], "little")) * r % prime
    return ((total + int.from_bytes(key[16:32], "little")) % top).to_bytes(16, "little")


def unseal(key, sealed, associated, what):
    """The plaintext of nonce ‖ ciphertext ‖ tag."""
    check(len(sealed) >= 40, f"{what}: is too short for a seal")
    nonce, text, tag = sealed[:24], sealed[24:-16], sealed[-16:]
    key, nonce = hchacha20(key, nonce[:16]), bytes(4) + nonce[16:]
    stream = chacha20(key, nonce, 1 + (len(text) + 63) // 64)
    data = b"".join(part + bytes(-len(part) % 16) for part in (associated, text))
    data += len(associated).to_bytes(8, "little") + len(text).to_bytes(8, "little")
    check(hmac.compare_digest(poly1305(stream[:32], data), tag), f"{what}: doesn't authenticate")
    plain = int.from_bytes(text, "little") ^ int.from_bytes(stream[64 : 64 + len(text)], "little")
    return plain.to_bytes(len(text), "little")


def argon2id(passphrase, salt, passes, memory, lanes):
    """By whichever of three libraries is here; all give the same."""
    try:
        library = ctypes.CDLL("libargon2.so.1")
    except OSError:
        return argon2id_of_python(passphrase, salt, passes, memory, lanes)
    size, number, out = ctypes.c_size_t, ctypes.c_uint32, ctypes.create_string_buffer(32)
    costs = number(passes), number(memory), number(lanes)
    inputs = passphrase, size(len(passphrase)), salt, size(len(salt))
    status = library.argon2id_hash_raw(*costs, *inputs, out, size(32))
    check(status == 0, f"libargon2 failed with {status}")
    return out.raw


def argon2id_of_python(passphrase, salt, passes, memory, lanes):
    try:
        from argon2.low_level import Type, hash_secret_raw

        return hash_secret_raw(passphrase, salt, passes, memory, lanes, 32, Type.ID)
    except ImportError:
        pass
    try:
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        return Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory).derive(passphrase)
    except ImportError:
        sys.exit("recover: error: a passphrase needs libargon2, or argon2-cffi or cryptography for Python")


def frame_length(frame, what):
    """The length that a zstd frame says that it has, or None. Refuses what isn't exactly one frame."""
    f = Fields(frame, what)
    check(f.cut(4) == b"\x28\xb5\x2f\xfd", f"{what}: isn't a frame of zstd")
    flags = f.cut(1)[0]
    single, size = flags >> 5 & 1, flags >> 6
    check(flags & 0b1011 == 0, f"{what}: has a frame that needs a dictionary")
    f.cut(1 - single)
    stated = f.cut((single, 2, 4, 8)[size])
    last = 0
    while not last:
        block = int.from_bytes(f.cut(3), "little")
        last, kind = block & 1, block >> 1 & 3
        check(kind != 3, f"{what}: has a frame that is damaged")
        f.cut(1 if kind == 1 else block >> 3)
    f.cut(flags & 4)  # 4 bytes of checksum
    f.end()
    return int.from_bytes(stated, "little") + 256 * (size == 1) if stated else None


def run_zstd(data, most):
    """What the program gives for frames; None if it fails, or gives more than most bytes."""
    try:
        run = subprocess.Popen(["zstd", "-dcq"], stdin=-1, stdout=-1, stderr=subprocess.DEVNULL)
    except OSError:
        sys.exit("recover: error: this archive is compressed, and the program zstd isn't here, or can't be run")

    def feed():
        try:
            with run.stdin:
                run.stdin.write(data)
        except BrokenPipeError:
            pass  # it refused what it got; its exit status says so

    feeder = threading.Thread(target=feed)
    feeder.start()
    with run.stdout:
        out = run.stdout.read(most + 1)
    if len(out) > most:
        run.kill()
    feeder.join()
    return out if run.wait() == 0 and len(out) <= most else None


def unzstd(packed):
    """What frames of known lengths hold, or why not, by one run of zstd for all that say their length."""
    results, together = [None] * len(packed), []
    for i, (frame, length) in enumerate(packed):
        try:
            stated = frame_length(frame, "a compressed blob")
            check(stated in (None, length), "a compressed blob: has another length than it says")
            if stated is not None:
                together.append(i)
        except Refused as why:
            results[i] = why
    total = sum(packed[i][1] for i in together)
    out = run_zstd(b"".join(packed[i][0] for i in together), total) if together else None
    if out is not None and len(out) == total:
        f = Fields(out, "compressed blobs")
        for i in together:
            results[i] = f.cut(packed[i][1])
    for i, (frame, length) in enumerate(packed):
        if results[i] is None:
            out = run_zstd(frame, length)
            whole = out is not None and len(out) == length
            results[i] = out if whole else Refused("a compressed blob: is damaged, or has another length than it says")
    return results


# Structures, as docs/format.md has them.


def parse_clear(f):
    """The clear part of a root or a key export."""
    c = Record(archive=f.take(16), branch=f.take(16), generation=f.number(8, 1, (1 << 63) - 1))
    c.slots = [f.take(f.number(2, 64, 4096)) for _ in range(f.number(1, 1, 16))]
    f.end()
    return c


def parse_slot(f):
    """A key slot of a derivation that is known."""
    check(64 <= len(f.data) <= 4096, f"{f.what}: has a wrong length")
    check(hashlib.sha256(f.data[:-32]).digest() == f.data[-32:], f"{f.what}: is damaged")
    s = Record(derivation=f.number(1), lanes=0, memory=0, passes=0)
    check(s.derivation in (1, 2), f"{f.what}: is of a derivation that this doesn't know")
    length = f.number(2)
    check(length == (41, 32)[s.derivation - 1], f"{f.what}: has parameters of a wrong length")
    if s.derivation == 1:
        s.lanes, s.memory, s.passes = f.number(1, 1, 8), f.number(4, 65536, 4194304), f.number(4, 1, 8)
        check(s.memory * s.passes <= 4194304, f"{f.what}: asks for more than Argon2 may cost")
    s.salt = f.take(32)
    s.before = f.data[: f.at]
    s.nonce, s.sealed, s.commitment = f.take(24), f.take(48), f.take(32)
    start = f.at
    f.own_extensions(10)
    s.area = f.data[start : f.at]
    f.take(32)
    f.end()
    return s


def parse_root(f, clear):
    """What is sealed in a root, beside its clear part."""
    r = Record(chunk_size=f.number(4), **vars(clear))
    check(r.chunk_size in [1 << n for n in range(16, 23)], f"{f.what}: has a wrong chunk size")
    parse_compression(f)
    r.next, r.sessions = f.number(8, 1), f.number(8)
    r.session_top, r.names_id, r.removed_id = f.take(32), f.take(32), f.take(32)
    check((r.sessions == 0) == (r.session_top == ZEROS), f"{f.what}: has a top of no sessions, or sessions and no top")
    _, r.pruned, r.heal, r.host_id = f.number(8), f.number(8), f.number(8), f.take(16)
    r.host, r.written = f.text(0, 64), f.time()
    r.labels = [(f.text(0, 64, controls=False), f.time()) for _ in clear.slots]
    r.runs = [parse_run(f) for _ in range(f.number(1, 0, 128))]
    needed = [(f.number(1), f.number(2, 0x8000)) for _ in range(f.number(2, 0, 1024))]
    ascending(needed, f"{f.what}: list of tags")
    r.predecessors = [f.take(16) for _ in range(f.number(4, 0, 1024))]
    f.own_extensions(1)
    f.end_padded()
    return r


def parse_compression(f):
    method = f.number(1, 0, 1)
    f.number(1, method, 19 * method)


def parse_run(f):
    run = Record(level=f.number(1, 0, 15), entries=f.number(8, 1, 1 << 32), is_list=f.number(1, 0, 1) == 1)
    run.name, run.size = f.take(16), f.number(4)
    return run


def parse_export(f):
    """What is sealed in a key export."""
    e = Record(chunk_size=f.number(4))
    check(e.chunk_size in [1 << n for n in range(16, 23)], f"{f.what}: has a wrong chunk size")
    parse_compression(f)
    e.time = f.time()
    f.own_extensions(11)
    f.end()
    return e


ENTRY = struct.Struct(">32sBIII")  # of an index object


def parse_index(f):
    """An index object: the level of its run, packs with their lengths, and entries as they stand."""
    i = Record(level=f.number(1, 0, 15))
    i.packs = [(f.take(16), f.number(4)) for _ in range(f.number(4))]
    ascending([p for p, _ in i.packs], f"{f.what}: list of packs")
    i.body = f.cut(ENTRY.size * f.number(4, 1))
    used, last = set(), b""
    for blob_id, kind, pack, offset, length in ENTRY.iter_unpack(i.body):
        f.seen += blob_id, kind, pack, offset, length
        check(blob_id > last and kind > 0, f"{f.what}: has entries that don't ascend, or of no type")
        last = blob_id
        if pack == NO_PACK:
            check(offset == length == 0, f"{f.what}: has a tombstone with a place")
            continue
        check(pack < len(i.packs), f"{f.what}: has an entry of a pack that it doesn't list")
        check(offset >= 16 and offset + length <= i.packs[pack][1], f"{f.what}: has an entry that isn't in its pack")
        used.add(pack)
    check(len(used) == len(i.packs), f"{f.what}: lists a pack that it doesn't use")
    f.end_padded()
    return i


def parse_index_list(f):
    """A list of index objects: name, entries and size of each."""
    objects = [(f.take(16), f.number(4, 1), f.number(4)) for _ in range(f.number(4, 2))]
    distinct([n for n, _, _ in objects], f.what)
    f.end_padded()
    return objects


def parse_table(f):
    """A table of contents: type, blob id, offset and length of each blob."""
    t = Record(generation=f.number(8), kind=f.number(1, 1, 3), blobs=[], end=16)
    for _ in range(f.number(4, 1)):
        kind, blob_id, length = f.number(1, 1), f.take(32), f.number(4, 51)
        t.blobs.append((kind, blob_id, t.end, length))
        t.end += length
    f.own_extensions(9)
    f.end_padded()
    return t


def parse_node(f):
    """A node of a tree: its level, and its children by number."""
    f.version()
    level, there = f.number(1, 1), f.number(4, 1)
    children = [(c, f.take(32)) for c in range(32) if there >> c & 1]
    check(all(child != ZEROS for _, child in children), f"{f.what}: has a child that is none")
    f.end()
    return level, children


def parse_record(f):
    f.version()
    r = Record(volume=f.take(16), domain=f.number(2), size=f.number(8, 0, (1 << 63) - 1))
    r.bytes, r.source, r.top = f.number(8, 0, r.size), f.number(1), f.take(32)
    check((r.top == ZEROS) == (r.bytes == 0), f"{f.what}: has a tree of holes, or no tree and no holes")
    f.own_extensions(4)
    f.end()
    return r


def is_qube(name):
    return name == "dom0" or (
        re.fullmatch("[a-zA-Z][a-zA-Z0-9._-]{0,30}", name) is not None and name not in ("Domain-0", "none", "default")
    )


def parse_names(f):
    """The volume table: the names of volumes, by id."""
    f.version()
    t = Record(generation=f.number(8), edits=f.number(4), names={})
    volumes, qubes, domains = [], [], []
    for _ in range(f.number(4, 0, 4096)):
        volume, _, name = f.take(16), f.number(2), f.text(1, 128, controls=False)
        volumes.append((volume, name))
        if f.entry_extensions(6):
            t.names[volume] = name
    for _ in range(f.number(4, 0, 4096)):
        qubes.append((f.take(16), f.text(1, 31)))
        check(is_qube(qubes[-1][1]), f"{f.what}: has a qube with a name that no qube has")
        f.entry_extensions(7)
    for named in (volumes, qubes):
        ascending([name for _, name in named], f"{f.what}: list of names")
        check(bytes(16) not in distinct([i for i, _ in named], f.what), f"{f.what}: has an id of zeros")
    distinct([f.take(16) for _ in range(f.number(4, 0, 8192))], f.what)
    next_domain = f.number(2, 1)
    domains = [(f.number(2, 1, next_domain - 1), f.text(1, 128, controls=False)) for _ in range(f.number(2))]
    ascending([number for number, _ in domains], f"{f.what}: list of domains")
    distinct([name for _, name in domains], f.what)
    f.own_extensions(5)
    f.end()
    return t


MARKS = {1: "live", 2: "changed while it was read", 8: "salvaged"}  # those that say something of the bytes


def parse_session(f):
    f.version()
    s = Record(generation=f.number(8), edits=f.number(4), id=f.take(16), number=f.number(8, 1, 1 << 48), volumes={})
    s.time, s.east = f.time(), f.number(4, -86400, 86400, signed=True)
    s.zone, s.host = f.text(0, 16), f.text(0, 64)
    for _ in range(f.number(4)):
        volume, record, size = f.take(16), f.take(32), f.number(8, 0, (1 << 63) - 1)
        _, _, _, marks, imported = f.number(8), f.number(8), f.number(1), f.number(2), f.time()
        check(marks & 32 or imported == 0, f"{f.what}: has a time of an import that was none")
        check(volume not in s.volumes, f"{f.what}: has a volume twice")
        s.volumes[volume] = Record(id=record, size=size, marks=marks)
    qubes = [(f.take(16), f.take(32), f.number(1, 0, 1), f.time())[0] for _ in range(f.number(4))]
    distinct(qubes, f.what)
    ascending([f.take(16) for _ in range(f.number(4, 0, 8192))], f"{f.what}: list of what was removed")
    f.own_extensions(2)
    f.end()
    return s


def parse_leaf(f):
    """A leaf of the session list, with the entries that can be read."""
    f.version()
    leaf = Record(generation=f.number(8), edits=f.number(4), entries=[])
    numbers = []
    for _ in range(f.number(1, 1, 32)):
        e = Record(id=f.take(16), blob=f.take(32), number=f.number(8, 1, 1 << 48), time=f.time(), new=f.number(8))
        e.state, e.reason, e.noted = f.number(1, 0, 2), f.number(1, 0, 4), f.number(8)
        check(e.state != 0 or e.reason == e.noted == 0, f"{f.what}: has a whole session that was lost")
        check(e.state == 1 or e.id != bytes(16) and e.blob != ZEROS, f"{f.what}: has a session that isn't known")
        tags = range(f.number(1, 0, 5))
        e.tags = [(f.text(1, 64, controls=False, without=","), f.text(0, 64, controls=False))[0] for _ in tags]
        numbers.append(e.number)
        if f.entry_extensions(3):
            leaf.entries.append(e)
    ascending(numbers, f"{f.what}: list of sessions")
    check(len({n // 32 for n in numbers}) == 1, f"{f.what}: has sessions of another leaf")
    leaf.address = numbers[0] // 32
    f.end()
    return leaf


def parse_removed(f):
    f.version()
    r = Record(generation=f.number(8), edits=0)
    r.ranges = [(f.number(8, 1), f.number(8, 1)) for _ in range(f.number(4, 1))]
    check(all(a <= b for a, b in r.ranges), f"{f.what}: has a range that ends before it begins")
    apart = all(a[1] + 1 < b[0] for a, b in zip(r.ranges, r.ranges[1:]))
    check(apart, f"{f.what}: has ranges that touch or don't ascend")
    f.end()
    return r


def parse_list(f, parts, key=1, controls=True):
    """A list of the qube configuration: so many texts in each entry, ascending by the first of them."""
    entries = []
    for _ in range(f.number(4)):
        named = [f.text(controls=False) for _ in range(min(key, parts))]
        entries.append(tuple(named + [f.text(controls=controls) for _ in range(parts - len(named))]))
    return ascending(entries, f"{f.what}: a list", lambda e: e[:key])


def parse_device(f):
    device = tuple(f.text(controls=False) for _ in range(5))
    parse_list(f, 2)
    return device


def parse_config_volume(f):
    name = [f.text(controls=False) for _ in range(4)][0]
    f.number(8, 0, (1 << 63) - 1), f.number(4, -1, (1 << 31) - 1, signed=True), f.number(1, 0, 15)
    return name


def parse_config(f):
    """The configuration of a qube, which no volume needs."""
    f.version()
    name, _, _, colour, _ = (f.text(controls=False) for _ in range(5))
    check(is_qube(name), f"{f.what}: has a name that no qube has")
    check(colour == "" or re.fullmatch("0x[0-9a-fA-F]{6}", colour), f"{f.what}: has a colour that is none")
    properties = parse_list(f, 2)
    parse_list(f, 2), parse_list(f, 1)
    ascending([parse_device(f) for _ in range(f.number(4))], f"{f.what}: list of devices", lambda d: d[:4])
    _ = [f.text(controls=False) for _ in range(f.number(4))], f.text()
    ascending([parse_config_volume(f) for _ in range(f.number(4))], f"{f.what}: list of volumes")
    parse_list(f, 2)
    defaults = parse_list(f, 2)
    check(not {p[0] for p in properties} & {d[0] for d in defaults}, f"{f.what}: has a property twice")
    f.own_extensions(8)
    f.end()


def parse_note(f):
    """The body of a lock note, which is no part of the archive."""
    f.take(16), f.text(0, 64), f.text(1, 32), f.number(4), f.time()
    check(len(f.data) == 200 and not any(f.data[f.at :]), f"{f.what}: isn't 200 bytes with zeros at their end")


PARSERS = {NODE: parse_node, RECORD: parse_record, NAMES: parse_names, SESSION: parse_session, LEAF: parse_leaf,
           CONFIG: parse_config, REMOVED: parse_removed}  # fmt: skip


