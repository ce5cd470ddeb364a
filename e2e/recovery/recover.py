#!/usr/bin/env python3
"""Get volumes out of an archive of pinion without pinion.

This does what docs/recovery-format.md says, step by step, with Python's
standard library, the program zstd, and for a passphrase a library that has
Argon2. It reads the archive's directory, and writes nothing but the image.
Whatever doesn't authenticate, or isn't as that page says, is refused; chunks
like that are left out with --salvage, which says where.
"""

import argparse
import bisect
import ctypes
import datetime
import getpass
import hashlib
import hmac
import os
import re
import subprocess
import sys

CHUNK, NODE, RECORD, NAMES, SESSION, LEAF = 1, 2, 3, 4, 5, 6  # types of blobs
ZEROS = bytes(32)  # the id of what isn't there
METADATA = 262144  # bytes of a blob that is no chunk, at most
BATCH = 16 << 20  # bytes of chunks that are held in memory at once
DIGITS = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # of recovery keys


class Refused(Exception):
    """Something is not what it has to be."""


def check(holds, what):
    if not holds:
        raise Refused(what)


class Fields:
    """Takes a structure apart, field by field, all of it or nothing."""

    def __init__(self, data, what):
        self.data, self.at, self.what = data, 0, what

    def take(self, n):
        check(len(self.data) - self.at >= n, f"{self.what}: is too short")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, n, signed=False):
        return int.from_bytes(self.take(n), "big", signed=signed)

    def text(self):
        return self.take(self.number(2)).decode("utf-8", "backslashreplace")

    def end(self):
        check(self.at == len(self.data), f"{self.what}: has bytes left over")


def open_file(path, missing):
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"{missing}: {path}") from None


def read_file(path, most, missing="there is no such file"):
    with open_file(path, missing) as f:
        data = f.read(most + 1)
    check(len(data) <= most, f"{path}: is larger than {most} bytes")
    return data


def check_header(data, kind, path):
    check(data[:7] == b"PINION" + kind, f"{path}: doesn't begin with PINION{kind.decode()}")
    check(data[7:8] == b"\1", f"{path}: has a version that this doesn't know")


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


def unzstd(packed):
    """What frames of known lengths hold, by one run of zstd for all."""
    try:
        run = subprocess.run(["zstd", "-dcq"], input=b"".join(f for f, _ in packed), capture_output=True)
    except OSError:
        sys.exit("recover: error: this archive is compressed, and the program zstd isn't here, or can't be run")
    check(run.returncode == 0, "compressed blobs: zstd failed")
    f = Fields(run.stdout, "compressed blobs")
    plains = [f.take(length) for _, length in packed]
    f.end()
    return plains


# The steps.


def read_key_slot(path):
    """Step 1: read a key slot"""
    slot = read_file(path, 4096)
    check_header(slot, b"K", path)
    check(len(slot) == 220 and hashlib.sha256(slot[:188]).digest() == slot[188:], f"{path}: is damaged")
    check(slot[20:36].hex() == os.path.basename(path), f"{path}: is another slot")
    return slot


def derive_kek(slot, secret, is_key_file):
    """Step 2: derive the key encryption key"""
    f = Fields(slot[8:20], "key slot")
    derivation, lanes, zero, memory, passes = map(f.number, (1, 1, 2, 4, 4))
    salt = slot[36:68]
    check(derivation in (1, 2) and zero == 0, "a key slot is of a newer version")
    check(is_key_file == (derivation == 2), "a key slot is for the other kind of secret")
    if is_key_file:
        check(lanes == memory == passes == 0, "a key slot for a key file asks for Argon2")
        return hkdf(secret, salt, b"pinion 1 key file")
    check(1 <= lanes <= 8 and 65536 <= memory <= 1048576 and 1 <= passes <= 10, "a key slot is out of bounds")
    return argon2id(secret, salt, passes, memory, lanes)


def read_recovery_key(text):
    """The key file that a recovery key stands for, which is a way of step 2; None if it is none."""
    typed = text.translate(None, b" -\t").upper().translate(bytes.maketrans(b"OIL", b"011"))
    if not re.fullmatch(b"[%b]{56}" % DIGITS, typed):
        return None
    number = 0
    for digit in typed:
        number = number << 5 | DIGITS.index(digit)
    key = (number >> 24).to_bytes(32, "big")
    checksum = hashlib.sha256(b"pinion 1 recovery key" + key).digest()
    if number & 0xFFFFFF == int.from_bytes(checksum[:3], "big") >> 4:  # 4 zero bits and 20 of the checksum
        return key
    print("recover: this looks like a recovery key that was mistyped; it is taken as a passphrase", file=sys.stderr)
    return None


def open_master_key(slot, kek):
    """Step 3: open the master key"""
    commitment = hashlib.blake2b(b"commit", digest_size=32, key=kek).digest()
    check(hmac.compare_digest(commitment, slot[92:124]), "a key slot is of another passphrase or key file")
    plain = unseal(kek, slot[68:92] + slot[124:188], slot[:68], "key slot")
    return plain[:32], plain[32:]


def derive_keys(master, archive_id):
    """Step 4: derive the keys"""
    uses = b"blob id", b"blob seal", b"root seal", b"index seal"
    return {use: hkdf(master, archive_id, b"pinion 1 " + use) for use in uses}


class Archive:
    def __init__(self, directory, root, secret, is_key_file):
        self.directory, self.salvage, self.lost, refused = directory, False, 0, []
        sealed_root = read_file(self.path(root), 65536, f"the archive has no {root}")
        check(os.path.isdir(self.path("keys")), f"the archive has no keys: {self.path('keys')}")
        for name in sorted(n for n in os.listdir(self.path("keys")) if re.fullmatch("[0-9a-f]{32}", n)):
            try:
                slot = read_key_slot(self.path("keys", name))
                master, self.id = open_master_key(slot, derive_kek(slot, secret, is_key_file))
                self.keys = derive_keys(master, self.id)
                self.open_root(self.path(root), sealed_root, slot[20:36])
                break
            except (Refused, OSError) as why:
                refused.append(f"\n  {name}: {explain(why)}")
        else:
            raise Refused(f"none of {len(refused)} key slots leads to this archive's root" + "".join(refused))
        self.open_index()

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def open_root(self, path, sealed, slot_id):
        """Step 5: open the root"""
        check_header(sealed, b"R", path)
        f = Fields(unseal(self.keys[b"root seal"], sealed[8:], self.id + b"Rroot", path), path)
        check(f.take(16) == self.id, f"{path}: is another archive's")
        _, self.generation = f.take(16), f.number(8)
        check((f.number(1), f.number(1)) == (1, 1), f"{path}: has algorithms that this doesn't know")
        self.chunk_size, _ = f.number(4), f.take(2)
        check(self.chunk_size in [1 << n for n in range(16, 23)], f"{path}: has a wrong chunk size")
        self.next, self.sessions = f.number(8), f.number(4)
        self.session_top, self.names_id = f.take(32), f.take(32)
        f.take(8 + 8 + 8 + 16)
        self.host, self.written = f.text(), f.number(8, signed=True)
        slots = [f.take(16 + 8)[:16] for _ in range(f.number(4))]
        check(slot_id in slots, f"{path}: doesn't list this key slot")
        # Of each: name, run, level, entries, size.
        self.index = [(f.take(16), *map(f.number, (4, 1, 4, 4))) for _ in range(f.number(4))]
        f.take(16 * f.number(4))
        f.end()

    def open_index(self):
        """Step 6: open the index objects"""
        self.bodies = []
        for name, _, level, entries, size in sorted(self.index, key=lambda x: (x[2], -x[1])):
            path = self.path("index", name.hex())
            sealed = read_file(path, 8388608, "the archive has no index object of this name")
            check_header(sealed, b"I", path)
            associated = self.id + b"Iindex/" + name.hex().encode()
            f = Fields(unseal(self.keys[b"index seal"], sealed[8:], associated, path), path)
            ok = f.number(1) == level and len(sealed) == size
            packs = f.take(16 * f.number(4))
            check(ok and f.number(4) == entries, f"{path}: isn't what the root lists")
            self.bodies.append((packs, f.take(45 * entries)))
            f.end()

    def find(self, blob_id):
        for packs, body in self.bodies:
            i = bisect.bisect_left(range(len(body) // 45), blob_id, key=lambda i: body[45 * i : 45 * i + 32])
            if body[45 * i : 45 * i + 32] == blob_id:
                _, pack, offset, length = map(Fields(body[45 * i + 32 :][:13], "index entry").number, (1, 4, 4, 4))
                return Fields(packs[16 * pack :], "list of packs").take(16).hex(), offset, length
        raise Refused(f"blob {blob_id.hex()}: is in no index")

    def open_blobs(self, kind, ids, most):
        """Step 7: open a blob"""
        plains, packed = [], []
        for blob_id in ids:
            pack, offset, length = self.find(blob_id)
            path = self.path("packs", pack[:2], pack)
            check(length <= most + 41, f"{path}: a blob at {offset} is too large")
            with open_file(path, "the archive has no pack of this name") as f:
                check_header(f.read(8), b"P", path)
                f.seek(offset)
                sealed = f.read(length)
            associated = self.id + bytes([kind]) + blob_id
            f = Fields(unseal(self.keys[b"blob seal"], sealed, associated, f"{path}: blob at {offset}"), "a blob")
            method = f.number(1)
            check(method in (0, 1), f"{path}: a blob has a method that this doesn't know")
            if method == 1:
                plain_length = f.number(4)
                check(plain_length <= most, f"{path}: a blob at {offset} is too large")
                packed.append((f.data[5:], plain_length))
            plains.append(f.data[1:] if method == 0 else None)
        unpacked = iter(unzstd(packed) if packed else ())
        plains = [next(unpacked) if plain is None else plain for plain in plains]
        for blob_id, plain in zip(ids, plains):
            named = hashlib.blake2b(bytes([kind]) + plain, digest_size=32, key=self.keys[b"blob id"]).digest()
            check(hmac.compare_digest(named, blob_id), f"blob {blob_id.hex()}: has other content than its id says")
        return plains

    def open_metadata(self, kind, blob_id, what, newest=1):
        """The version of a blob that is no chunk, and its other fields."""
        f = Fields(self.open_blobs(kind, [blob_id], METADATA)[0], what)
        version = f.number(1)
        check(1 <= version <= newest, f"{what}: has version {version}, which this doesn't know")
        return version, f

    def read_names(self):
        """Step 8: read the names of the volumes"""
        if self.names_id == ZEROS:
            return {}
        version, f = self.open_metadata(NAMES, self.names_id, "volume table", newest=2)
        names = {f.take(16): f.text() for _ in range(f.number(4))}
        if version == 2:
            _ = [(f.take(16), f.text()) for _ in range(f.number(4))]  # qubes
        f.end()
        return names

    def walk_tree(self, top, addresses):
        """Step 9: walk a tree"""
        height = next(h for h in range(14) if 32**h >= addresses)
        return self.walk_node(height, 0, top, addresses) if top != ZEROS else iter(())

    def walk_node(self, level, i, blob_id, addresses):
        check(i * 32**level < addresses, "a tree has more than its addresses")
        if level == 0:
            yield i, blob_id
            return
        _, f = self.open_metadata(NODE, blob_id, "node of a tree")
        check(f.number(1) == level, "a node of a tree is on another level")
        there = f.number(4)
        check(there != 0, "a node of a tree is empty")
        children = [(32 * i + c, f.take(32)) for c in range(32) if there >> c & 1]
        f.end()
        for c, child in children:
            yield from self.walk_node(level - 1, c, child, addresses)

    def read_session_list(self):
        """Step 10: read the list of sessions"""
        found = []
        for address, leaf_id in self.walk_tree(self.session_top, self.next // 32 + 1):
            _, f = self.open_metadata(LEAF, leaf_id, "leaf of the session list")
            for _ in range(f.number(1)):
                session_id, blob_id, number, _ = f.take(16), f.take(32), f.number(8), f.take(8)
                tags = [(f.text(), f.text())[0] for _ in range(f.number(1))]
                check(number // 32 == address and number < self.next, "a session is in another's place")
                found.append((number, session_id, blob_id, tags))
            f.end()
        check(len(found) == self.sessions, "the list of sessions hasn't all of them")
        return found

    def read_session(self, number, session_id, blob_id):
        """Step 11: read a session"""
        version, f = self.open_metadata(SESSION, blob_id, f"session #{number}", newest=2)
        check(f.take(16) == session_id and f.number(8) == number, f"session #{number}: is another one")
        time, _, _, _ = f.number(8, signed=True), f.take(4), f.text(), f.text()
        volumes = [(f.take(16), f.take(32), f.number(8), f.take(8 + 8 + 1 + 1)) for _ in range(f.number(4))]
        if version == 2:
            f.take((16 + 32 + 1 + 8) * f.number(4))  # qubes
        f.end()
        return time, {volume_id: (record_id, size) for volume_id, record_id, size, _ in volumes}

    def read_record(self, volume_id, record_id, size):
        """Step 12: read the volume's record"""
        _, f = self.open_metadata(RECORD, record_id, "volume record")
        check(f.take(16) == volume_id and f.number(8) == size, "a volume record is another volume's")
        f.take(8 + 1)
        top = f.take(32)
        f.end()
        return top

    def write_image(self, top, size, path):
        """Step 13: put the chunks into the image"""
        check(not os.path.lexists(path), f"{path}: is there already")
        with open(path + ".part", "xb") as out:
            try:
                out.truncate(size)
                batch = []
                for chunk in self.walk_tree(top, -(-size // self.chunk_size)):
                    batch.append(chunk)
                    if len(batch) * self.chunk_size >= BATCH:
                        self.write_chunks(out, batch, size)
                        batch = []
                self.write_chunks(out, batch, size)
                out.flush()
                os.fsync(out.fileno())
                os.rename(path + ".part", path)
            except BaseException:
                os.unlink(path + ".part")  # what isn't whole must not look as if it were
                raise

    def write_chunks(self, out, batch, size):
        for (address, _), plain in zip(batch, self.read_chunks(batch, size)):
            start = address * self.chunk_size
            out.seek(start)
            out.write(plain)
            if sys.stderr.isatty():
                print(f"\r{start * 100 // size} %", end="\r", file=sys.stderr)

    def read_chunks(self, batch, size):
        """What is in chunks, whole; to salvage, nothing of those that are damaged."""
        try:
            plains = self.open_blobs(CHUNK, [chunk_id for _, chunk_id in batch], self.chunk_size)
            for (address, _), plain in zip(batch, plains):
                whole = min(self.chunk_size, size - address * self.chunk_size)
                check(len(plain) == whole, f"chunk {address} hasn't its length")
            return plains
        except (Refused, OSError) as why:
            if not self.salvage:
                raise
            if len(batch) > 1:
                half = len(batch) // 2
                return self.read_chunks(batch[:half], size) + self.read_chunks(batch[half:], size)
            start = batch[0][0] * self.chunk_size
            end = min(start + self.chunk_size, size)
            print(f"recover: damaged: bytes {start} to {end}: {explain(why)}", file=sys.stderr)
            self.lost += end - start
            return [b""]


def explain(error):
    """An error in plain words."""
    named = getattr(error, "filename", None)
    return (f"{named}: " if named else "") + (getattr(error, "strerror", None) or str(error))


def instant(nanoseconds):
    time = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=nanoseconds // 1000)
    return time.isoformat(" ", "seconds") + " UTC"


def plainly(name):
    return name if name.isprintable() else ascii(name)


def show(archive):
    names = archive.read_names()
    for *session, tags in archive.read_session_list():
        time, volumes = archive.read_session(*session)
        print(f"#{session[0]}", instant(time), *("^" + plainly(tag) for tag in tags))
        for volume_id, (_, size) in volumes.items():
            print(f"{size:>19}  {plainly(names.get(volume_id, volume_id.hex()))}")


def restore(archive, name, wanted, path, salvage):
    archive.salvage = salvage
    volume_id = next((i for i, n in archive.read_names().items() if name == n), None)
    check(volume_id, f"the archive has no volume {name!r}")
    for *session, _ in reversed(archive.read_session_list()):
        volumes = archive.read_session(*session)[1] if wanted in (None, session[0]) else {}
        if volume_id in volumes:
            record_id, size = volumes[volume_id]
            archive.write_image(archive.read_record(volume_id, record_id, size), size, path)
            print(f"{path}: {plainly(name)} of session #{session[0]}, {size} bytes")
            check(archive.lost == 0, f"{path}: {archive.lost} bytes of it are damaged, and zeros there")
            return
    raise Refused(f"{name!r} is in no session" if wanted is None else f"{name!r} is not in a session #{wanted}")


def read_secret(keyfile, passfile):
    """The secret, and whether it is a key file's."""
    if keyfile:
        key = read_file(keyfile, 65536)
        check(len(key) >= 32, f"{keyfile}: is shorter than a key file can be")
        return key, True
    if passfile:
        secret, newline, _ = read_file(passfile, 1 << 20).partition(b"\n")
        secret = secret[:-1] if newline and secret.endswith(b"\r") else secret
    else:
        secret = getpass.getpass("passphrase or recovery key: ").encode()
    key = read_recovery_key(secret)
    return (secret, False) if key is None else (key, True)


def main():
    parser = argparse.ArgumentParser(description="Get volumes out of an archive of pinion without pinion.")
    parser.add_argument("--keyfile", help="the key file that opens the archive")
    parser.add_argument("--passfile", help="a file whose first line is the passphrase or a recovery key; else asked")
    parser.add_argument("--root", default="root", help="another root in the archive's directory, such as root.7")
    parser.add_argument("archive", help="the archive's directory")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show the sessions and the volumes in them")
    command = commands.add_parser("restore", help="write a volume to a new file")
    command.add_argument("--session", type=int, help="number of the session; else the newest that has the volume")
    command.add_argument("--salvage", action="store_true", help="leave damaged chunks out, as zeros, and say where")
    command.add_argument("volume")
    command.add_argument("image")
    options = parser.parse_args()
    archive = Archive(options.archive, options.root, *read_secret(options.keyfile, options.passfile))
    written = f"{instant(archive.written)} by {plainly(archive.host)}"
    print(f"recover: {options.root} is of generation {archive.generation}, written {written}", file=sys.stderr)
    if options.command == "list":
        show(archive)
    else:
        restore(archive, options.volume, options.session, options.image, options.salvage)


if __name__ == "__main__":
    try:
        main()
    except (Refused, OSError) as error:
        sys.exit(f"recover: error: {explain(error)}")
    except KeyboardInterrupt:
        sys.exit(130)
