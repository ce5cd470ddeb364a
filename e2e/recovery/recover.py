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
MOST_ROOT, MOST_INDEX, MOST_TABLE, MOST_PACK = 1 << 18, 8 << 20, 675880, 32 << 20  # bytes
MOST_SEALED, LEAST_TABLE = (4 << 20) + 51, 4140  # bytes of a sealed blob, and of a table with its trailer
MOST_ENTRIES = 1 << 32  # of all index runs
MOST_BAD = {"head": 64, "roots": 8192}  # roots that don't open and are passed over
TOP = (1 << 63) - 1  # the highest generation, and number of bytes
NO_PACK = 0xFFFFFFFF  # the position that makes an index entry a tombstone
DIGITS = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # of recovery keys
STRUCTURES = {1: "root", 2: "session", 3: "session entry", 4: "volume record", 5: "volume table",
              6: "volume in the volume table", 7: "qube in the volume table", 8: "qube configuration",
              9: "table of contents", 10: "key slot", 11: "key export"}  # fmt: skip
STATES = ("whole", "lost", "not acknowledged")
REASONS = ("", "damaged", "missing", "rollback", "found by a repair")


class Refused(Exception):
    """Something is not what it has to be."""


class Lacking(Exception):
    """Something that is needed isn't on this computer."""


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


def known(ids, what):
    check(all(any(i) for i in ids), f"{what}: has an id of zeros")
    return ids


def distinct_pairs(names, what):
    """Objects and their twins are all different."""
    distinct(names + [twin(name) for name in names], what)


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
        raise Lacking("a passphrase needs libargon2, or argon2-cffi or cryptography for Python") from None


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
        raise Lacking("this archive is compressed, and the program zstd isn't here, or can't be run") from None

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
    c = Record(archive=f.take(16), branch=f.take(16), generation=f.number(8, 1, TOP))
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
    r.next, r.sessions = f.number(8, 1, 1 << 48), f.number(8)
    check(r.sessions < r.next, f"{f.what}: has more sessions than numbers for them")
    r.session_top, r.names_id, r.removed_id = f.take(32), f.take(32), f.take(32)
    check((r.sessions == 0) == (r.session_top == ZEROS), f"{f.what}: has a top of no sessions, or sessions and no top")
    _, r.pruned, r.heal, r.host_id = f.number(8, 0, TOP), f.number(8, 0, TOP), f.number(8, 0, TOP), f.take(16)
    r.host, r.written = f.text(0, 64), f.time()
    r.labels = [(f.text(0, 64, controls=False), f.time()) for _ in clear.slots]
    r.runs = [parse_run(f) for _ in range(f.number(1, 0, 128))]
    distinct_pairs([run.name for run in r.runs], f.what)
    check(sum(run.entries for run in r.runs) <= MOST_ENTRIES, f"{f.what}: has too many entries")
    needed = [(f.number(1, 1), f.number(2, 0x8000)) for _ in range(f.number(2, 0, 1024))]
    ascending(needed, f"{f.what}: list of tags")
    r.predecessors = [f.take(16) for _ in range(f.number(4, 0, 1024))]
    f.own_extensions(1)
    f.end_padded()
    return r


def parse_compression(f):
    method = f.number(1, 0, 1)
    f.number(1, method, 19 * method)


def parse_run(f):
    run = Record(level=f.number(1, 0, 15), entries=f.number(8, 1, MOST_ENTRIES), is_list=f.number(1, 0, 1) == 1)
    run.name, run.size = f.take(16), f.number(4, 0, MOST_INDEX)
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
    i.packs = [(f.take(16), f.number(4, 0, MOST_PACK)) for _ in range(f.number(4))]
    known(ascending([p for p, _ in i.packs], f"{f.what}: list of packs"), f.what)
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
        check(51 <= length <= MOST_SEALED, f"{f.what}: has a blob of {length} bytes")
        in_pack = offset >= 16 and offset + length + LEAST_TABLE <= i.packs[pack][1]
        check(in_pack, f"{f.what}: has an entry that isn't in its pack")
        used.add(pack)
    check(len(used) == len(i.packs), f"{f.what}: lists a pack that it doesn't use")
    f.end_padded()
    return i


def parse_index_list(f):
    """A list of index objects: name, entries and size of each."""
    objects = [(f.take(16), f.number(4, 1), f.number(4, 0, MOST_INDEX)) for _ in range(f.number(4, 2))]
    distinct_pairs([n for n, _, _ in objects], f.what)
    check(sum(entries for _, entries, _ in objects) <= MOST_ENTRIES, f"{f.what}: has too many entries")
    f.end_padded()
    return objects


def parse_table(f):
    """A table of contents: type, blob id, offset and length of each blob."""
    t = Record(generation=f.number(8, 0, TOP), kind=f.number(1, 1, 3), blobs=[], end=16)
    for _ in range(f.number(4, 1, 16384)):
        kind, blob_id, length = f.number(1, 1), f.take(32), f.number(4, 51, MOST_SEALED)
        t.blobs.append((kind, blob_id, t.end, length))
        t.end += length
    check(t.end <= MOST_PACK, f"{f.what}: has more bytes than a pack may have")
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
    r = Record(volume=f.take(16), domain=f.number(2), size=f.number(8, 0, TOP))
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
    t = Record(generation=f.number(8, 0, TOP), edits=f.number(4), names={})
    volumes, qubes, used = [], [], {0}
    for _ in range(f.number(4, 0, 4096)):
        volume, domain, name = f.take(16), f.number(2), f.text(1, 128, controls=False)
        used.add(domain)
        volumes.append((volume, name))
        if f.entry_extensions(6):
            t.names[volume] = name
    for _ in range(f.number(4, 0, 4096)):
        qubes.append((f.take(16), f.text(1, 31)))
        check(is_qube(qubes[-1][1]), f"{f.what}: has a qube with a name that no qube has")
        f.entry_extensions(7)
    for named in (volumes, qubes):
        ascending([name for _, name in named], f"{f.what}: list of names")
        known(distinct([i for i, _ in named], f.what), f.what)
    known(distinct([f.take(16) for _ in range(f.number(4, 0, 8192))], f.what), f.what)
    next_domain = f.number(2, 1)
    domains = [(f.number(2, 1, next_domain - 1), f.text(1, 128, controls=False)) for _ in range(f.number(2, 0, 4096))]
    ascending([number for number, _ in domains], f"{f.what}: list of domains")
    distinct([name for _, name in domains], f.what)
    check(used <= {0} | {number for number, _ in domains}, f"{f.what}: has a volume of a domain without a name")
    f.own_extensions(5)
    f.end()
    return t


MARKS = {1: "live", 2: "changed while it was read", 8: "salvaged"}  # those that say something of the bytes


def parse_session(f):
    f.version()
    s = Record(generation=f.number(8, 0, TOP), edits=f.number(4), id=f.take(16), number=f.number(8, 1, 1 << 48), volumes={})
    s.time, s.east = f.time(), f.number(4, -86400, 86400, signed=True)
    s.zone, s.host = f.text(0, 16), f.text(0, 64)
    for _ in range(f.number(4, 0, 4096)):
        volume, record, size = f.take(16), f.take(32), f.number(8, 0, TOP)
        _, _, _, marks, imported = f.number(8, 0, TOP), f.number(8), f.number(1), f.number(2), f.time()
        check(marks & 32 or imported == 0, f"{f.what}: has a time of an import that was none")
        check(volume not in s.volumes, f"{f.what}: has a volume twice")
        s.volumes[volume] = Record(id=record, size=size, marks=marks)
    qubes = [(f.take(16), f.take(32), f.number(1, 0, 1), f.time()) for _ in range(f.number(4, 0, 4096))]
    known(distinct([q[0] for q in qubes], f.what) + [q[1] for q in qubes], f.what)
    check(all(ran or time == 0 for _, _, ran, time in qubes), f"{f.what}: has a time of a qube that didn't run")
    known(ascending([f.take(16) for _ in range(f.number(4, 0, 8192))], f"{f.what}: list of what was removed"), f.what)
    f.own_extensions(2)
    f.end()
    return s


def parse_leaf(f):
    """A leaf of the session list, with the entries that can be read."""
    f.version()
    leaf = Record(generation=f.number(8, 0, TOP), edits=f.number(4), entries=[])
    numbers = []
    for _ in range(f.number(1, 1, 32)):
        e = Record(id=f.take(16), blob=f.take(32), number=f.number(8, 1, 1 << 48), time=f.time(), new=f.number(8, 0, TOP))
        e.state, e.reason, e.noted = f.number(1, 0, 2), f.number(1), f.number(8, 0, TOP)
        noted = e.reason != 0 and e.noted != 0 if e.state else e.reason == e.noted == 0
        check(noted, f"{f.what}: has a session whose state doesn't fit its reason")
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
    r = Record(generation=f.number(8, 0, TOP), edits=0)
    r.ranges = [(f.number(8, 1, 1 << 48), f.number(8, 1, 1 << 48)) for _ in range(f.number(4, 1, 131071))]
    check(all(a <= b for a, b in r.ranges), f"{f.what}: has a range that ends before it begins")
    apart = all(a[1] + 1 < b[0] for a, b in zip(r.ranges, r.ranges[1:]))
    check(apart, f"{f.what}: has ranges that touch or don't ascend")
    f.end()
    return r


def key_text(f, low=0):
    """A name or a line in a configuration."""
    return f.text(low, 4096, controls=False)


def parse_items(f, parse):
    return [parse(f) for _ in range(f.number(4, 0, 8192))]


def parse_pairs(f):
    """Names and values, ascending by name."""
    pairs = parse_items(f, lambda f: (key_text(f, 1), f.text(0, 64000)))
    return {name for name, _ in ascending(pairs, f"{f.what}: a list", lambda p: p[0])}


def parse_device(f):
    device = key_text(f, 1), key_text(f, 1), key_text(f, 0), key_text(f, 0)
    key_text(f), parse_pairs(f)
    return device


def parse_config_volume(f):
    name = key_text(f, 1)
    key_text(f), key_text(f), key_text(f)
    f.number(8, 0, TOP), f.number(4, -1, (1 << 31) - 1, signed=True), f.number(1, 0, 15)
    return name


def parse_config(f):
    """The configuration of a qube, which no volume needs."""
    f.version()
    check(is_qube(key_text(f)), f"{f.what}: has a name that no qube has")
    key_text(f, 1), key_text(f)
    check(re.fullmatch("(0x[0-9a-fA-F]{6})?", key_text(f)), f"{f.what}: has a colour that is none")
    key_text(f)
    properties = parse_pairs(f)
    parse_pairs(f)
    ascending(parse_items(f, lambda f: key_text(f, 1)), f"{f.what}: list of tags")
    ascending(parse_items(f, parse_device), f"{f.what}: list of devices")
    parse_items(f, lambda f: key_text(f, 1))
    f.text(0, 64000)
    ascending(parse_items(f, parse_config_volume), f"{f.what}: list of volumes")
    parse_pairs(f)
    check(not properties & parse_pairs(f), f"{f.what}: has a property twice")
    f.own_extensions(8)
    f.end()


def parse_note(f):
    """The body of a lock note, which is no part of the archive."""
    f.take(16), f.text(0, 64)
    check(re.fullmatch("[a-z0-9 -]{1,32}", f.text(1, 32)), f"{f.what}: has a command that is none")
    f.number(4), f.time()
    check(len(f.data) == 200 and not any(f.data[f.at :]), f"{f.what}: isn't 200 bytes with zeros at their end")


PARSERS = {NODE: parse_node, RECORD: parse_record, NAMES: parse_names, SESSION: parse_session, LEAF: parse_leaf,
           CONFIG: parse_config, REMOVED: parse_removed}  # fmt: skip


# Keys.


def derive_kek(slot, secret, is_key_file):
    """Step 2: derive the key encryption key"""
    check(is_key_file == (slot.derivation == 2), "is for the other kind of secret")
    if is_key_file:
        return hkdf(secret, slot.salt, b"pinion 2 key file")
    return argon2id(secret, slot.salt, slot.passes, slot.memory, slot.lanes)


def open_master_key(slot, archive_id, kek):
    """Step 3: open the master key"""
    commitment = hmac.digest(kek, b"pinion 2 commitment", "sha256")
    check(hmac.compare_digest(commitment, slot.commitment), "is of another passphrase or key file")
    return unseal(kek, slot.nonce + slot.sealed, archive_id + slot.before + slot.area, "the master key in it")


class Keys:
    def __init__(self, master, archive_id):
        self.master, self.archive_id, self.derived = master, archive_id, {}

    def key(self, info):
        """Step 4: derive the keys"""
        if info not in self.derived:
            self.derived[info] = hkdf(self.master, self.archive_id, info)
        return self.derived[info]

    def open_object(self, data, kind, info, name, what):
        """The clear part and the plaintext of a whole object."""
        header, clear, sealed = split(data, kind, what)
        return clear, unseal(self.key(info), sealed, header + clear + name.encode(), what)

    def open_sealed_blob(self, sealed, kind, blob_id, domain, most, what):
        """Length of the plaintext, and content, of a blob; whether that is compressed."""
        f = Fields(unseal(self.key(b"pinion 2 blob seal"), sealed, bytes([kind]) + blob_id, what), what)
        packed, in_domain, length, n = f.number(1, 0, 1), f.number(2), f.number(4, 0, most), f.number(4)
        check(domain in (None, in_domain), f"{what}: is of the domain {in_domain}, which doesn't belong there")
        check(kind == CHUNK or in_domain == 0, f"{what}: is metadata of a domain")
        content, zeros = f.cut(n), f.data[f.at :]
        check(packed or n == length, f"{what}: has another length than it says")
        bits = int.from_bytes(hmac.digest(self.key(b"pinion 2 padding"), blob_id, "sha256")[:2], "big") >> 7
        padded = kind == CONFIG or kind == CHUNK and packed
        check(len(zeros) == (-(-(n + bits) // 512) * 512 - n if padded else 0), f"{what}: has a wrong padding")
        check(not any(zeros), f"{what}: has a padding that isn't zeros")
        pays = not packed or kind != CHUNK or n + len(zeros) < length
        check(pays, f"{what}: is compressed, and not shorter for that")
        return packed, in_domain, length, content

    def check_id(self, plain, kind, blob_id, domain):
        """Where BLAKE3 is there: a blob is what its id says, whoever sealed it."""
        if blake3 is not None:
            key = self.key(b"pinion 2 blob id" + bytes([kind]) + domain.to_bytes(2, "big"))
            named = blake3(plain, key=key).digest()
            check(hmac.compare_digest(named, blob_id), f"blob {blob_id.hex()}: has other content than its id says")


def read_recovery_key(text):
    """The key file that a recovery key stands for, which is a way of step 2; None if it is none."""
    typed = text.translate(None, b" -\t").upper().translate(bytes.maketrans(b"OIL", b"011"))
    if not re.fullmatch(b"[%b]{56}" % DIGITS, typed):
        return None
    number = 0
    for digit in typed:
        number = number << 5 | DIGITS.index(digit)
    key = (number >> 24).to_bytes(32, "big")
    checksum = hashlib.sha256(b"pinion 2 recovery key" + key).digest()
    if number & 0xFFFFFF == int.from_bytes(checksum[:3], "big") >> 4:  # 4 zero bits and 20 of the checksum
        return key
    note("this looks like a recovery key that was mistyped; it is taken as a passphrase")
    return None


def forms(passphrase):
    """What a passphrase may have been given as: normalised, and as it was typed."""
    try:
        normal = unicodedata.normalize("NFC", passphrase.decode()).encode()
    except UnicodeDecodeError:
        normal = passphrase
    both = [p for p in dict.fromkeys((normal, passphrase)) if len(p) <= 1024]
    check(both, "the passphrase has more than 1,024 bytes")
    return both


class Unlocker:
    """Finds master keys in the slots of roots, each slot once."""

    def __init__(self, secrets, is_key_file):
        self.secrets, self.is_key_file = secrets, is_key_file
        self.keys, self.slot, self.refused, self.tried = {}, None, [], set()

    def slots_of(self, clears):
        """Step 1: find the key slots"""
        slots = []
        for path, clear in clears:
            for data in clear.slots:
                if (clear.archive, data) in self.tried:
                    continue
                self.tried.add((clear.archive, data))
                what = f"slot {hashlib.sha256(data).hexdigest()[:16]} of {path}"
                try:
                    slots.append((parse_slot(Fields(data, what)), what, clear.archive, data))
                except Refused as why:
                    self.refused.append(f"\n  {why}")
        return sorted(slots, key=lambda s: s[0].memory * s[0].passes)

    def unlock(self, clears):
        """Whether one of these roots has a slot that opens."""
        for slot, what, archive_id, data in self.slots_of(clears):
            if slot.memory * slot.passes > 1 << 20 and not self.is_key_file:
                note(f"{what} takes its time: Argon2, {slot.memory >> 10} MiB, {slot.passes} passes")
            for secret in self.secrets:
                try:
                    master = open_master_key(slot, archive_id, derive_kek(slot, secret, self.is_key_file))
                    self.keys[archive_id], self.slot = Keys(master, archive_id), data
                    return True
                except (Refused, MemoryError) as why:
                    self.refused.append(f"\n  {what}: {why}")
        return False

    def explain(self):
        return f"none of {len(self.tried)} key slots opens" + "".join(dict.fromkeys(self.refused))


# Roots.


def generation_of(name):
    return int(re.split("[/-]", name)[1])


class Roots:
    """The roots of an archive's directory, the highest generation first. Of one
    generation those in roots/ come first: a head that was never acknowledged may
    have no copy there, and one that was has."""

    def __init__(self, directory, wanted):
        self.directory, self.wanted, self.said = directory, wanted, set()
        copies = [f"roots/{n}" for n in names_in(os.path.join(directory, "roots"), "[0-9]{12}-[0-9a-f]{32}")]
        heads = [f"head/{n}" for n in names_in(os.path.join(directory, "head"), "[0-9]{12}")]
        self.all = sorted(copies + heads, key=generation_of, reverse=True)  # a sort that keeps equal ones in order

    def chosen(self):
        if self.wanted is None:
            return self.all
        generation = int(self.wanted) if re.fullmatch("[0-9]{1,12}", self.wanted) else None
        wanted = [n for n in self.all if n == self.wanted or generation_of(n) == generation]
        check(wanted, f"the archive has no root {self.wanted}")
        return wanted

    def read(self, name):
        """A root's bytes and its clear part, if its name is true."""
        path = os.path.join(self.directory, name)
        data = read_file(path, MOST_ROOT)
        clear = parse_clear(Fields(split(data, b"R", path)[1], path))
        _, _, *digits = re.split("[/-]", name)
        check(clear.generation == generation_of(name), f"{path}: is of generation {clear.generation}")
        if digits:
            check(hashlib.sha256(data).hexdigest()[:32] == digits[0], f"{path}: has other bytes than its name says")
        return data, clear

    def clears(self, names, most):
        """The clear parts of the first of these that are well-formed, equal ones once."""
        found, seen = [], set()
        for name in names:
            if len(found) == most:
                break
            try:
                clear = self.read(name)[1]
            except (Refused, OSError):
                continue  # it is named where it is passed over
            if (same := (clear.generation, clear.archive, clear.branch, *clear.slots)) not in seen:
                seen.add(same)
                found.append((name, clear))
        return found

    def unlock(self, unlocker):
        """Gets the master key from slots: of the two highest roots, the oldest, and the one asked for; then of the others."""
        if self.wanted is not None:
            return unlocker.unlock(self.clears(self.chosen(), 64)) or unlocker.unlock(self.clears(self.all, 64))
        two, oldest = self.clears(self.all, 2), self.clears(self.all[::-1], 1)
        return unlocker.unlock(two + oldest) or unlocker.unlock(self.clears(self.all, 64))

    def open_root(self, name, unlocker):
        """Step 5: open the root"""
        path = os.path.join(self.directory, name)
        data, clear = self.read(name)
        keys = unlocker.keys.get(clear.archive)
        check(keys, f"{path}: is another archive's ({clear.archive.hex()}), or of other keys")
        _, plain = keys.open_object(data, b"R", b"pinion 2 root", "root", path)
        root = parse_root(Fields(plain, path), clear)
        root.path, root.hash = path, hashlib.sha256(data).digest()
        return root

    def highest(self, unlocker):
        """The highest generation that opens; None if none does."""
        passed = {"head": 0, "roots": 0}
        for name in self.chosen():
            try:
                root = self.open_root(name, unlocker)
            except (Refused, OSError) as why:
                note(f"passed over: {explain(why)}")
                directory = name.partition("/")[0]
                passed[directory] += 1
                too_many = passed[directory] > MOST_BAD[directory]
                check(not too_many, f"more than {MOST_BAD[directory]} in {directory}/ don't open; --root NAME takes another one")
                continue
            self.compare(root, name, unlocker)
            return root
        return None

    def compare(self, root, name, unlocker):
        """Two roots of one generation are two branches, of which somebody has to choose."""
        for other in self.all:
            if other != name and generation_of(other) == root.generation:
                try:
                    same = self.open_root(other, unlocker).hash == root.hash
                except (Refused, OSError):
                    continue
                check(same or self.wanted is None or "/" in self.wanted, f"{name} and {other} differ: name one of them")
                if not same:
                    note(f"{name} and {other} differ; --root {other} takes the other one")


# Where blobs are.


def twin(name):
    """The id with all bits inverted."""
    return bytes(b ^ 255 for b in name)


def pack_path(name):
    return f"packs/{name.hex()[:2]}/{name.hex()}"


class Index:
    """Places of blobs: those that the runs of a root name, and if some of these are lost, those in tables of contents."""

    def __init__(self, directory, keys):
        self.directory, self.keys, self.runs, self.complete, self.scanned = directory, keys, [], True, False

    def path(self, name):
        return os.path.join(self.directory, name)

    def open_runs(self, runs):
        """Step 6: open the index objects"""
        for run in reversed(runs):  # the newest first
            objects = [(run.name, run.entries, run.size)]
            if run.is_list:
                objects = self.open_either(run.name, run.size, b"J", b"pinion 2 index list", parse_index_list) or []
                if objects and sum(entries for _, entries, _ in objects) != run.entries:
                    note(f"the list {run.name.hex()} has another number of entries than the root says")
                    self.complete = False
            parts = [self.open_part(run.level, *part) for part in objects]
            self.runs.append([part for part in parts if part is not None])

    def open_part(self, level, name, entries, size):
        def parse(f):
            part = parse_index(f)
            check(part.level == level and len(part.body) == ENTRY.size * entries, f"{f.what}: isn't what is listed")
            return part

        return self.open_either(name, size, b"I", b"pinion 2 index", parse)

    def open_either(self, name, size, kind, info, parse):
        """An index object or a list, or its twin; None if both are lost."""
        reasons = []
        for which in (name, twin(name)):
            path = self.path(f"index/{which.hex()}")
            try:
                data = read_file(path, MOST_INDEX, "the archive has no index object of this name")
                check(len(data) == size, f"{path}: has {len(data)} bytes, not {size}")
                found = parse(Fields(self.keys.open_object(data, kind, info, f"index/{which.hex()}", path)[1], path))
            except (Refused, OSError) as why:
                reasons.append(explain(why))
                continue
            if reasons:
                note(f"{reasons[0]}; its twin is taken")
            return found
        self.complete = False
        note(f"{'; '.join(reasons)}: neither can be used")
        return None

    def scan(self):
        """Step 14: do without the index"""
        self.scanned = True
        packs = []
        for xx in names_in(self.path("packs"), "[0-9a-f]{2}"):
            packs += [bytes.fromhex(n) for n in names_in(self.path(f"packs/{xx}"), xx + "[0-9a-f]{30}")]
        note(f"the index isn't whole: reading the tables of contents of {len(packs)} packs")
        tables, entries, failed = {}, [], []
        for name in packs:
            try:
                table = self.open_table(name)
                tables.setdefault(twin(name) if table.kind == 3 else name, table)
            except (Refused, OSError) as why:
                failed.append((name, explain(why)))
        for name, why in failed:
            known = name in tables or twin(name) in tables
            note(f"{why}" + ("; the table of its twin is taken" if known else "; what only it has is lost"))
        for i, (_, table) in enumerate(names := list(tables.items())):
            entries += [ENTRY.pack(blob_id, kind, i, at, length) for kind, blob_id, at, length in table.blobs]
        entries.sort()
        self.runs.append([Record(packs=[(name, None) for name, _ in names], body=b"".join(entries))])

    def open_table(self, name):
        """The table of contents at the end of a pack."""
        path = self.path(pack_path(name))
        with open_file(path) as f:
            header, size = f.read(16), os.fstat(f.fileno()).st_size
            split(header, b"P", path)
            check(size >= 16 + 51 + LEAST_TABLE, f"{path}: is too short")
            f.seek(size - 4)
            length = int.from_bytes(f.read(4), "big")
            check(length <= min(MOST_TABLE, size - 20), f"{path}: has no table of contents")
            f.seek(size - 4 - length)
            sealed = f.read(length)
        associated = header + pack_path(name).encode()
        table = parse_table(Fields(unseal(self.keys.key(b"pinion 2 table of contents"), sealed, associated, path), path))
        check(table.end + length + 4 == size, f"{path}: has blobs that don't fill it")
        return table

    def places(self, blob_id):
        """Pack, offset and length of a blob, wherever it may be, the newest first."""
        for run in self.runs:
            for part in run:
                body = part.body

                def entry(i):
                    return body[ENTRY.size * i : ENTRY.size * i + 32]

                i = bisect.bisect_left(range(len(body) // ENTRY.size), blob_id, key=entry)
                while entry(i) == blob_id:
                    _, _, pack, offset, length = ENTRY.unpack_from(body, ENTRY.size * i)
                    if pack == NO_PACK:
                        return  # it is gone, whatever older runs say
                    yield part.packs[pack][0], offset, length
                    i += 1

    def ids_of(self, kind):
        """The ids of all blobs of a type."""
        if not self.complete and not self.scanned:
            self.scan()
        ids = {}
        for run in self.runs:
            for part in run:
                for i, found in enumerate(part.body[32 :: ENTRY.size]):
                    if found == kind:
                        ids[part.body[ENTRY.size * i :][:32]] = None
        return list(ids)


class Blobs:
    """Reads blobs by their ids, each from wherever it opens."""

    def __init__(self, index, keys):
        self.index, self.keys, self.said = index, keys, set()

    def once(self, line):
        if line not in self.said:
            self.said.add(line)
            note(line)

    def open(self, kind, ids, most, domain=0):
        """Step 7: open a blob"""
        results, packed = [], []
        for blob_id in ids:
            try:
                compressed, in_domain, length, content = self.find(kind, blob_id, most, domain)
                results.append(content)
                if compressed:
                    packed.append((len(results) - 1, content, length))
            except (Refused, OSError) as why:
                results.append(why)
        for (i, _, _), plain in zip(packed, unzstd([p[1:] for p in packed])):
            results[i] = plain
        for i, blob_id in enumerate(ids):
            try:
                if isinstance(results[i], bytes):
                    self.keys.check_id(results[i], kind, blob_id, domain)
            except Refused as why:
                results[i] = why
        return results

    def find(self, kind, blob_id, most, domain):
        """A blob of the first place that has it whole."""
        reasons = []
        for again in (False, True):
            if again and (self.index.complete or self.index.scanned):
                break
            if again:
                self.index.scan()
            for pack, offset, length in dict.fromkeys(self.index.places(blob_id)):
                for which in (pack, twin(pack)) if kind != CHUNK else (pack,):
                    try:
                        found = self.read(which, offset, length, kind, blob_id, most, domain)
                    except (Refused, OSError) as why:
                        reasons.append(why)
                        continue
                    if reasons:
                        self.once(f"{explain(reasons[0])}; another copy of it is taken")
                    return found
        raise reasons[0] if reasons else Refused(f"blob {blob_id.hex()}: is in no index")

    def read(self, pack, offset, length, kind, blob_id, most, domain):
        path = self.index.path(pack_path(pack))
        check(length <= most + 51 + 1024, f"{path}: a blob at {offset} is too large")
        with open_file(path, "the archive has no pack of this name") as f:
            f.seek(offset)
            sealed = f.read(length)
        what = f"{path}: blob at {offset}"
        check(len(sealed) == length, f"{what}: is cut off")
        return self.keys.open_sealed_blob(sealed, kind, blob_id, domain, most, what)


# What is in an archive.


def version_of(parsed):
    return parsed.generation, parsed.edits


class Archive:
    def __init__(self, directory, keys, root, chunk_size):
        self.keys, self.root, self.chunk_size = keys, root, chunk_size
        self.index = Index(directory, keys)
        self.blobs = Blobs(self.index, keys)
        self.salvage, self.lost, self.failed = False, 0, False
        if root is None:
            self.index.complete = False
        else:
            self.index.open_runs(root.runs)

    def problem(self, line):
        """Something can't be read, and the rest is still worth having."""
        note(line)
        self.failed = True

    def open_metadata(self, kind, blob_id, what):
        plain = self.blobs.open(kind, [blob_id], METADATA)[0]
        if isinstance(plain, Exception):
            raise Refused(f"{what}: {explain(plain)}")
        f = Fields(plain, what)
        parsed = PARSERS[kind](f)
        for why in f.refused:
            self.problem(why)
        return parsed

    def all_of(self, kind, what):
        """Every blob of a type that can be read, whether a root leads to it or not."""
        found = []
        for blob_id in self.index.ids_of(kind):
            try:
                found.append((blob_id, self.open_metadata(kind, blob_id, what)))
            except Refused as why:
                note(f"{why}")
        return found

    def read_names(self):
        """Step 8: read the names of the volumes"""
        if self.root is not None:
            if self.root.names_id == ZEROS:
                return {}
            try:
                return self.open_metadata(NAMES, self.root.names_id, "volume table").names
            except Refused as why:
                self.problem(f"{why}; an older one is taken, if there is one")
        tables = [table for _, table in self.all_of(NAMES, "volume table")]
        return max(tables, key=version_of).names if tables else {}

    def walk_tree(self, top, addresses, lost=None):
        """Step 9: walk a tree"""
        height = next(h for h in range(14) if 32**h >= addresses)
        return self.walk_node(height, 0, top, addresses, lost) if top != ZEROS else iter(())

    def walk_node(self, level, i, blob_id, addresses, lost):
        """Addresses and ids below a node. Instead of raising what fails, lost is called with the addresses and why."""
        check(i * 32**level < addresses, "a tree has more than its addresses")
        if level == 0:
            yield i, blob_id
            return
        try:
            at, children = self.open_metadata(NODE, blob_id, "node of a tree")
            check(at == level, "a node of a tree is on another level")
            outside = [c for c, _ in children if (32 * i + c) * 32 ** (level - 1) >= addresses]
            check(not outside, "a tree has more than its addresses")
        except Refused as why:
            if lost is None:
                raise
            lost(i * 32**level, min((i + 1) * 32**level, addresses), why)
            return
        for c, child in children:
            yield from self.walk_node(level - 1, 32 * i + c, child, addresses, lost)

    def read_session_list(self):
        """Step 10: read the list of sessions"""
        if self.root is None:
            return self.find_sessions()
        found, gone = [], []

        def lost(first, end, why):
            self.problem(f"the list of sessions from #{32 * first} on, below #{32 * end}: {why}")
            gone.append((32 * first, 32 * end))

        for address, leaf_id in self.walk_tree(self.root.session_top, self.root.next // 32 + 1, lost):
            try:
                leaf = self.open_metadata(LEAF, leaf_id, "leaf of the session list")
                check(leaf.address == address, "a leaf of the session list is in another's place")
            except Refused as why:
                lost(address, address + 1, why)
                continue
            found += leaf.entries
        if gone:
            found += [e for e in self.find_sessions() if any(a <= e.number < b for a, b in gone)]
        elif len(found) != self.root.sessions:
            self.problem(f"the list has {len(found)} sessions, not {self.root.sessions} as the root says")
        return sorted(found, key=lambda e: e.number)

    def find_sessions(self):
        """Step 15: do without a root"""
        newest, leaves, removed = {}, {}, []
        for blob_id, s in self.all_of(SESSION, "session"):
            if s.id not in newest or version_of(s) > version_of(newest[s.id][1]):
                newest[s.id] = blob_id, s
        for _, leaf in self.all_of(LEAF, "leaf of the session list"):
            if leaf.address not in leaves or version_of(leaf) > version_of(leaves[leaf.address]):
                leaves[leaf.address] = leaf
        for _, r in sorted(self.all_of(REMOVED, "removed numbers"), key=lambda r: version_of(r[1])):
            removed = r.ranges
        known = {s.id for _, s in newest.values()}
        entries = [e for leaf in leaves.values() for e in leaf.entries if e.id not in known]
        for blob_id, s in newest.values():
            e = Record(id=s.id, blob=blob_id, number=s.number, time=s.time, state=0, reason=0, noted=0, tags=[])
            leaf = leaves.get(s.number // 32)
            listed = [x for x in leaf.entries if x.number == s.number] if leaf else []
            if listed and listed[0].id == s.id:
                e.state, e.reason, e.noted, e.tags = listed[0].state, listed[0].reason, listed[0].noted, listed[0].tags
            gone = leaf is not None and not listed and leaf.generation >= s.generation
            e.removed = gone or any(a <= s.number <= b for a, b in removed)
            entries.append(e)
        return sorted(entries, key=lambda e: (e.number, e.time))

    def read_session(self, entry):
        """Step 11: read a session"""
        check(entry.blob != ZEROS, f"session #{entry.number}: is lost, and nobody knows what it had")
        s = self.open_metadata(SESSION, entry.blob, f"session #{entry.number}")
        check(s.id == entry.id and s.number == entry.number, f"session #{entry.number}: is another one")
        return s

    def read_record(self, volume_id, volume):
        """Step 12: read the volume's record"""
        record = self.open_metadata(RECORD, volume.id, "volume record")
        check(record.volume == volume_id and record.size == volume.size, "a volume record is another volume's")
        return record

    def write_image(self, record, path):
        """Step 13: put the chunks into the image"""
        check(not os.path.lexists(path), f"{path}: is there already")
        self.lost = 0
        with open(path + ".part", "xb") as out:
            try:
                out.truncate(record.size)
                batch = []
                addresses = -(-record.size // self.chunk_size)
                lost = self.leave_out(record) if self.salvage else None
                for chunk in self.walk_tree(record.top, addresses, lost):
                    batch.append(chunk)
                    if len(batch) * self.chunk_size >= BATCH:
                        self.write_chunks(out, batch, record)
                        batch = []
                self.write_chunks(out, batch, record)
                out.flush()
                os.fsync(out.fileno())
                os.rename(path + ".part", path)
            except BaseException:
                os.unlink(path + ".part")  # what isn't whole must not look as if it were
                raise

    def leave_out(self, record):
        def lost(first, end, why):
            start, end = first * self.chunk_size, min(end * self.chunk_size, record.size)
            note(f"damaged: bytes {start} to {end}: {explain(why)}")
            self.lost += end - start

        return lost

    def write_chunks(self, out, batch, record):
        plains = self.blobs.open(CHUNK, [chunk_id for _, chunk_id in batch], self.chunk_size, record.domain)
        for (address, _), plain in zip(batch, plains):
            start = address * self.chunk_size
            whole = min(self.chunk_size, record.size - start)
            if isinstance(plain, bytes) and len(plain) != whole:
                plain = Refused(f"chunk {address} hasn't its length")
            if isinstance(plain, Exception):
                if not self.salvage:
                    raise plain
                self.leave_out(record)(address, address + 1, plain)
                continue
            out.seek(start)
            out.write(plain)
            if sys.stderr.isatty():
                print(f"\r{start * 100 // record.size} %", end="\r", file=sys.stderr)


# The commands.


def explain(error):
    """An error in plain words."""
    named = getattr(error, "filename", None)
    return plainly((f"{named}: " if named else "") + (getattr(error, "strerror", None) or str(error)), "\n")


def instant(nanoseconds):
    time = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=nanoseconds // 1000)
    return time.isoformat(" ", "seconds") + " UTC"


def plainly(name, keep=""):
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in name)


def state_of(entry):
    words = [STATES[entry.state]] if entry.state else []
    words += [REASONS[entry.reason] if entry.reason < len(REASONS) else f"reason {entry.reason}"] if entry.reason else []
    words += [f"noted in generation {entry.noted}"] if entry.noted else []
    words += ["removed on purpose"] if getattr(entry, "removed", False) else []
    return f" ({', '.join(words)})" if words else ""


def show(archive):
    names = archive.read_names()
    for entry in archive.read_session_list():
        tags = "".join(f" ^{plainly(tag)}" for tag in entry.tags)
        print(f"#{entry.number} {instant(entry.time)}{tags}{state_of(entry)}")
        try:
            session = archive.read_session(entry)
        except Refused as why:
            if entry.state == 1:
                note(f"{why}")
            else:
                archive.problem(f"{why}")
            continue
        for volume_id, volume in session.volumes.items():
            marks = ", ".join(words for mark, words in MARKS.items() if volume.marks & mark)
            name = plainly(names.get(volume_id, volume_id.hex()))
            print(f"{volume.size:>19}  {name}" + (f" ({marks})" if marks else ""))
    check(not archive.failed, "something couldn't be read: see above")


def usable(entry, wanted):
    """Whether a session may be taken: the one that was asked for, else any that is whole."""
    if wanted is not None:
        return entry.number == wanted
    if entry.state == 2:
        note(f"session #{entry.number} was not acknowledged, so an older one is looked for; --session {entry.number} takes it")
    return entry.state == 0 and not getattr(entry, "removed", False)


def find_volume(archive, name):
    found = [i for i, n in archive.read_names().items() if name == n]
    if not found and re.fullmatch("[0-9a-f]{32}", name):
        return bytes.fromhex(name)
    check(found, f"the archive has no volume {name!r}")
    return found[0]


def restore(archive, name, wanted, path):
    volume_id = find_volume(archive, name)
    for entry in reversed(archive.read_session_list()):
        if not usable(entry, wanted):
            continue
        volume = archive.read_session(entry).volumes.get(volume_id)
        if volume is not None:
            restore_one(archive, volume_id, volume, entry, name, path)
            check(archive.lost == 0, f"{path}: {archive.lost} bytes of it are damaged, and zeros there")
            return
    raise Refused(f"{name!r} is in no session" if wanted is None else f"{name!r} is not in a session #{wanted}")


def restore_one(archive, volume_id, volume, entry, name, path):
    archive.write_image(archive.read_record(volume_id, volume), path)
    print(f"{path}: {plainly(name)} of session #{entry.number}, {volume.size} bytes")


def file_name(name):
    """A name that stays in its directory, for every volume another one."""
    name = name.replace("%", "%25").replace("/", "%2F")
    return "%2E" + name[1:] if name.startswith(".") else name


def restore_all(archive, wanted, directory):
    names = archive.read_names()
    entries = [e for e in reversed(archive.read_session_list()) if usable(e, wanted)]
    check(entries, "the archive has no session" if wanted is None else f"the archive has no session #{wanted}")
    session = archive.read_session(entries[0])
    os.makedirs(directory, exist_ok=True)
    damaged = []
    for volume_id, volume in session.volumes.items():
        name = names.get(volume_id, volume_id.hex())
        path = os.path.join(directory, file_name(name))
        try:
            restore_one(archive, volume_id, volume, entries[0], name, path)
            check(archive.lost == 0, f"{path}: {archive.lost} bytes of it are damaged, and zeros there")
        except (Refused, OSError) as why:
            note(f"{plainly(name)}: {explain(why)}")
            damaged.append(name)
    check(not damaged, f"{len(damaged)} of {len(session.volumes)} volumes are damaged, or weren't written: see above")


def read_secret(keyfile, passfile):
    """The secrets to try, and whether they are a key file's."""
    if keyfile:
        key = read_whole(keyfile, 65536)
        check(len(key) >= 32, f"{keyfile}: is shorter than a key file can be")
        return [key], True
    if passfile:
        secret, newline, _ = read_whole(passfile, 1 << 20).partition(b"\n")
        secret = secret[:-1] if newline and secret.endswith(b"\r") else secret
    else:
        try:
            secret = getpass.getpass("passphrase or recovery key: ").encode(errors="surrogateescape")
        except EOFError:
            raise Refused("no passphrase was given") from None
    key = read_recovery_key(secret)
    return (forms(secret), False) if key is None else ([key], True)


def read_whole(path, most):
    """A file of the user's, which may be a pipe."""
    try:
        with open(path, "rb") as f:
            data = f.read(most + 1)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no such file: {path}") from None
    check(len(data) <= most, f"{path}: is larger than {most} bytes")
    return data


def open_export(path, unlocker):
    """What a key export says of its archive."""
    data = read_whole(path, MOST_ROOT)
    clear = parse_clear(Fields(split(data, b"K", path)[1], path))
    check(unlocker.unlock([(path, clear)]), f"{path}: {unlocker.explain()}")
    keys = unlocker.keys[clear.archive]
    export = parse_export(Fields(keys.open_object(data, b"K", b"pinion 2 key export", "key export", path)[1], path))
    export.archive = clear.archive
    return export


def open_archive(options):
    roots, unlocker = Roots(options.archive, options.root), Unlocker(*read_secret(options.keyfile, options.passfile))
    export = open_export(options.key_export, unlocker) if options.key_export else None
    if export is None:
        check(roots.all, f"the archive has no root: {options.archive}; without one it takes a --key-export")
        unlocked = roots.unlock(unlocker)
        if not unlocker.tried:
            roots.highest(unlocker)  # says why no root has slots
        check(unlocked, unlocker.explain())
    root = roots.highest(unlocker)
    if root is None:
        check(export, "no root opens; without one it takes a --key-export")
        note("no root opens: sessions are looked for in all packs, and may be more than there were")
        return Archive(options.archive, unlocker.keys[export.archive], None, export.chunk_size)
    said = f"{root.path} is of generation {root.generation}, written {instant(root.written)} by {plainly(root.host)}"
    note(f"{said}, of archive {root.archive.hex()}")
    if unlocker.slot not in root.slots and not unlocker.unlock([(root.path, root)]):
        having = [name for name, clear in roots.clears(roots.all, len(roots.all)) if unlocker.slot in clear.slots]
        said = f"this key was removed: {root.path} doesn't list this key slot"
        check(export, said + (f"; --root {having[0]} does" if having else ""))
        note(said)
    return Archive(options.archive, unlocker.keys[root.archive], root, root.chunk_size)


# Vectors: files with structures that both programs have to take or to refuse; docs/vectors.md says how they are listed.


def vector_keys(v):
    return Keys(bytes.fromhex(v["master"]), bytes.fromhex(v["archive"]))


def vector_root(v, data, what):
    clear = parse_clear(Fields(split(data, b"R", what)[1], what))
    plain = vector_keys(v).open_object(data, b"R", b"pinion 2 root", "root", what)[1]
    f = Fields(plain, what)
    parse_root(f, clear)
    return f


def vector_export(v, data, what):
    parse_clear(Fields(split(data, b"K", what)[1], what))
    plain = vector_keys(v).open_object(data, b"K", b"pinion 2 key export", "key export", what)[1]
    f = Fields(plain, what)
    parse_export(f)
    return f


def vector_object(kind, info, prefix, parse):
    """An object that is header and seal, as the archive has it under a name."""

    def open_it(v, data, what):
        name = prefix + v["object"] if prefix.endswith("/") else prefix
        f = Fields(vector_keys(v).open_object(data, kind, info, name, what)[1], what)
        parse(f)
        return f

    return open_it


def vector_pack(v, data, what):
    """A whole pack: its table, and every blob in it."""
    keys, path = vector_keys(v), pack_path(bytes.fromhex(v["object"]))
    split(data[:16], b"P", what)
    check(20 <= len(data) <= MOST_PACK, f"{what}: has a wrong length")
    length = int.from_bytes(data[-4:], "big")
    check(length <= len(data) - 20, f"{what}: has no table of contents")
    sealed = data[len(data) - 4 - length : -4]
    f = Fields(unseal(keys.key(b"pinion 2 table of contents"), sealed, data[:16] + path.encode(), what), what)
    table = parse_table(f)
    check(table.end + length + 4 == len(data), f"{what}: has blobs that don't fill it")
    for kind, blob_id, at, size in table.blobs:
        open_vector_blob(keys, data[at : at + size], kind, blob_id, None, 4 << 20 if kind == CHUNK else METADATA, what)
    return f


def open_vector_blob(keys, sealed, kind, blob_id, domain, most, what):
    packed, domain, length, content = keys.open_sealed_blob(sealed, kind, blob_id, domain, most, what)
    plain = unzstd([(content, length)])[0] if packed else content
    if isinstance(plain, Exception):
        raise plain
    keys.check_id(plain, kind, blob_id, domain)
    return plain


def vector_blob(v, data, what):
    kind = v["type"]
    most = v.get("most", 4 << 20 if kind == CHUNK else METADATA)
    plain = open_vector_blob(vector_keys(v), data, kind, bytes.fromhex(v["id"]), v.get("domain"), most, what)
    f = Fields(plain, what)
    f.take(len(plain))
    return f


def vector_slot(v, data, what):
    f = Fields(data, what)
    parse_slot(f)
    for given, is_key_file in (("keyfile", True), ("passphrase", False)):
        if given in v:
            secrets = [bytes.fromhex(v[given])] if is_key_file else forms(v[given].encode())
            unlocker = Unlocker(secrets, is_key_file)
            archive_id = bytes.fromhex(v["archive"])
            unlocked = unlocker.unlock([(what, Record(archive=archive_id, slots=[data]))])
            check(unlocked and unlocker.keys[archive_id].master.hex() == v["master"], f"{what}: gives another master key")
    return f


def vector_recovery_key(v, data, what):
    key = read_recovery_key(data)
    check(key is not None, f"{what}: is no recovery key")
    f = Fields(key, what)
    f.take(32)
    return f


def vector_root_body(v, data, what):
    f = Fields(data, what)
    parse_root(f, Record(slots=[b""] * v["slots"]))
    return f


def vector_extensions(v, data, what):
    f = Fields(data, what)
    needed = f.extensions(v["number"], 256 if v.get("entry") else 65536)
    check(needed is None, needed)
    f.end()
    return f


def vector_body(parse):
    def parse_it(v, data, what):
        f = Fields(data, what)
        parse(f)
        return f

    return parse_it


VECTORS = {
    "root": vector_root, "key export": vector_export, "pack": vector_pack, "blob": vector_blob,
    "index object": vector_object(b"I", b"pinion 2 index", "index/", parse_index),
    "index list": vector_object(b"J", b"pinion 2 index list", "index/", parse_index_list),
    "lock note": vector_object(b"L", b"pinion 2 lock note", "lock.note", parse_note),
    "clear part": vector_body(parse_clear), "key slot": vector_slot, "recovery key": vector_recovery_key,
    "extension area": vector_extensions, "root body": vector_root_body, "key export body": vector_body(parse_export),
    "index object body": vector_body(parse_index), "index list body": vector_body(parse_index_list),
    "table of contents": vector_body(parse_table), "lock note body": vector_body(parse_note),
    "tree node": vector_body(parse_node), "volume record": vector_body(parse_record),
    "volume table": vector_body(parse_names), "session": vector_body(parse_session),
    "session leaf": vector_body(parse_leaf), "qube configuration": vector_body(parse_config),
    "removed numbers": vector_body(parse_removed),
}  # fmt: skip


def seen_as_json(f):
    return [v.hex() if isinstance(v, bytes) else v for v in f.seen]


def check_vector(directory, v):
    """What is wrong with what this makes of a vector; None if nothing is."""
    try:
        open_vector = VECTORS[v["structure"]]
    except KeyError:
        return f"is of a structure that this doesn't know: {v['structure']!r}"
    data = bytearray(read_file(os.path.join(directory, v["file"]), 1 << 28))
    for at in v.get("flip", []):
        data[at] ^= 1
    data = bytes(data)
    try:
        f = open_vector(v, data, v["name"])
        check(not f.refused, "".join(f.refused))
    except Refused as why:
        return f"is refused: {explain(why)}" if v["valid"] else None
    if not v["valid"]:
        return "is taken, and was to be refused" + (f": {v['why']}" if "why" in v else "")
    if "fields" in v and seen_as_json(f) != v["fields"]:
        return f"has the fields {json.dumps(seen_as_json(f))}"
    return None


def check_vectors(directory):
    """Checks all vectors of a directory; one line for each that isn't as it has to be."""
    try:
        manifest = json.loads(read_file(os.path.join(directory, "MANIFEST"), 1 << 26))
        wrong = 0
        for v in manifest:
            if v.get("blake3") and blake3 is None:
                note(f"vector {plainly(v['name'])}: needs BLAKE3 and isn't checked")
                continue
            try:
                why = check_vector(directory, v)
            except Lacking as what:
                note(f"vector {plainly(v['name'])}: isn't checked: {what}")
                continue
            if why is not None:
                note(f"vector {plainly(v['name'])}: {why}")
                wrong += 1
    except (ValueError, KeyError, TypeError) as why:
        raise Refused(f"{directory}: its MANIFEST isn't as it has to be: {why!r}") from None
    print(f"{len(manifest)} vectors, of which {sum(v['valid'] for v in manifest)} are valid")
    check(wrong == 0, f"{wrong} of {len(manifest)} vectors are not as they have to be")


def archive_options():
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--keyfile", help="the key file that opens the archive")
    common.add_argument("--passfile", help="a file whose first line is the passphrase or a recovery key; else asked")
    common.add_argument("--key-export", help="a key export of this archive, for when no root is left")
    common.add_argument("--root", help="another root than the newest: a generation, or a name such as head/000000000007")
    return common


def parse_options():
    # Options of the archive stand anywhere, so they are taken out first.
    options, rest = archive_options().parse_known_args()
    parser = argparse.ArgumentParser(
        description="Get volumes out of an archive of pinion without pinion.", parents=[archive_options()]
    )
    parser.add_argument("--vectors", metavar="DIR", help="check this script with the vectors in a directory")
    parser.add_argument("archive", nargs="?", help="the archive's directory")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("list", help="show the sessions and the volumes in them")
    one = commands.add_parser("restore", help="write a volume to a new file")
    every = commands.add_parser("restore-all", help="write all volumes of a session to new files in a directory")
    for command in (one, every):
        command.add_argument("--session", type=int, help="number of the session; else the newest that will do")
        command.add_argument("--salvage", action="store_true", help="leave damaged chunks out, as zeros, and say where")
    one.add_argument("volume")
    one.add_argument("image")
    every.add_argument("directory")
    given = vars(options)
    for name, value in vars(parser.parse_args(rest)).items():
        given.setdefault(name, value)
    if options.vectors is None and options.command is None:
        parser.error("an archive and a command are needed")
    if options.keyfile and options.passfile:
        parser.error("--keyfile and --passfile can't both be used")
    return options


def main():
    options = parse_options()
    if blake3 is None:
        note("the module blake3 isn't here: that blobs are what their names say rests on their seals alone")
    if options.vectors is not None:
        check_vectors(options.vectors)
        return
    archive = open_archive(options)
    archive.salvage = getattr(options, "salvage", False)
    if options.command == "list":
        show(archive)
    elif options.command == "restore":
        restore(archive, options.volume, options.session, options.image)
    else:
        restore_all(archive, options.session, options.directory)


if __name__ == "__main__":
    try:
        main()
    except (Refused, Lacking, OSError) as error:
        sys.exit(f"recover: error: {explain(error)}")
    except KeyboardInterrupt:
        sys.exit(130)
