"""Files that nobody saved: an error or a state, and no more memory than an honest file takes."""

import copy
import importlib.util
import io
import json
import os
import re
import struct
import sys
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from conftest import EXAMPLES
from make_fixtures import FOLDER
from process import python
from table import keys_of

import zdlfast
from zdlfast import _files

ENDINGS = [".npz", ".safetensors"] if importlib.util.find_spec("safetensors") else [".npz"]
METHODS = [
    zipfile.ZIP_DEFLATED,
    *[zipfile.ZIP_BZIP2] * (importlib.util.find_spec("_bz2") is not None),
]
HONEST = sorted(path for path in FOLDER.iterdir() if path.suffix in ENDINGS)
HOSTILE = [
    *(0, 1, -1, 2**31, 2**62, 2**63, -(2**63), 2**64, 10**30, 10**400, 1.5, 1e308),
    *(float("nan"), float("inf"), True, False, None),
    *("", "\0", "v.0", "memory.0", "params.0", "<f8", "|O", "f8,f8", "\ud800", "x" * 5000),
    *(
        [],
        {},
        [[]],
        [0],
        [2**62, 2**62],
        [2**40],
        [-8],
        ["a"],
        [None] * 70,
        {"a": {}},
        {"array": "v.0"},
    ),
]
MANIFESTS = [
    "[" * 50_000,
    '{"a":' * 50_000,
    "1" * 5000,
    "-" * 900,
    "null",
    "[]",
    "{}",
    "\ud800",
    "",
]
DESCRS = [
    *("'|O'", "'<M8[s]'", "'<U9'", "'<U99999999999'", "'|V8'", "'<f3'", "'>f8'", "'|u1'", "'<f4'"),
    *("[('a', '<f8')]", "('<f8', (2,))", "None", "'f8'", "'<c16'", "'<f16'", "'<U0'"),
]
SHAPES = [
    *("()", "(1,)", "(6,)", "(2, 3)", "(3, 2)", "(1, 0, 5)", "(1000000,)", "(30000, 30000)"),
    *("(99999999999,)", "(4611686018427387904,)", "(4611686018427387904, 4)"),
    *("(0, 9223372036854775808)", "(-1,)", "(1e9,)", "(2**62,)", "(1,) * 99", "(9"),
    f"({'1, ' * 70})",
    f"({'0, ' * 30})",
    f"({'9' * 5000},)",
    f"{'(' * 4000}",
]
BOMB = bytes(2**22)


def pick(rng, some):
    return some[int(rng.integers(len(some)))]


# ------------------------------------------------------------------ what is done to a file


def bytes_changed(rng, path):
    """Bits, bytes, words and stretches changed, moved, missing or added."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.integers(1, 5)):
        at, other = (int(n) for n in rng.integers(len(data), size=2))
        length = int(rng.integers(1, 40))
        if rng.integers(4) == 0:  # where a file says what it holds
            at = (-length if path.suffix == ".npz" else length % 9) % len(data)
        match rng.integers(9):
            case 0:
                del data[max(at, 1) :]
            case 1 | 2 | 3:
                data[at] ^= 1 << int(rng.integers(8))
            case 4 if length < len(data):
                del data[at : at + length]
            case 5:
                data[at:at] = data[other : other + length]
            case 6:
                data[at : at + length] = data[other : other + length]
            case _:
                size = pick(rng, [1, 2, 4, 8])
                word = pick(rng, [0, 1, 2**16 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1])
                data[at : at + size] = struct.pack("<Q", word)[:size]
    return data


def places(value, place=()):
    """The keys that lead to all that is inside of lists and dicts."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*place, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*place, key))


def at_place(value, place):
    for key in place:
        value = value[key]
    return value


def change_json(rng, tree):
    """Put something else in one to three places of it."""
    for _ in range(rng.integers(1, 4)):
        found = list(places(tree))
        if not found:
            return
        *outer, last = pick(rng, found)
        holder = at_place(tree, outer)
        match rng.integers(8), holder[last]:
            case 0, _:
                del holder[last]
            case 1, _:
                holder[last] = copy.deepcopy(at_place(tree, pick(rng, found)))
            case 2, _:
                depth = int(rng.integers(1, 300))
                holder[last] = json.loads("[" * depth + "]" * depth)
            case 3, int(number):
                holder[last] = number + int(rng.integers(-20, 20))
            case 4, list(items):
                holder[last] = items * int(rng.integers(2, 50))
            case 5, _ if isinstance(holder, dict):
                holder[str(pick(rng, HOSTILE))] = holder.pop(last)
            case _:
                holder[last] = copy.deepcopy(pick(rng, HOSTILE))


def parts(path):
    """The manifest and the arrays of a file."""
    with _files._format_of(path).open(path) as file:
        return json.loads(file.strings["zdlfast"]), {name: file.read(name) for name in file.names}


def forged(ending, manifest, arrays):
    """A file with a checksum that is right."""
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    checksum = _files._checksum(text.encode(errors="replace").decode(), arrays)
    file = io.BytesIO()
    _files._FORMATS[ending].write(file, {"zdlfast": text, "sha256": checksum}, arrays)
    return file.getvalue()


def manifest_changed(rng, path):
    manifest, arrays = parts(path)
    if rng.integers(20) == 0:
        text = pick(rng, MANIFESTS if path.suffix == ".npz" else MANIFESTS[:7])
        return forged(path.suffix, text, arrays)
    change_json(rng, manifest)
    if arrays and rng.integers(8) == 0:
        del arrays[pick(rng, sorted(arrays))]
    return forged(path.suffix, manifest, arrays)


def zipped(members, methods=None):
    """A zip file of pairs of names and bytes, some of them compressed."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as target:
        warnings.simplefilter("ignore")  # of names that come twice
        for i, (name, data) in enumerate(members):
            target.writestr(name, data, (methods or {}).get(i, zipfile.ZIP_STORED))
    return bytearray(file.getvalue())


def members_of(path):
    with zipfile.ZipFile(path) as file:
        return [(name, file.read(name)) for name in file.namelist()]


def npy(header, body, version=(1, 0)):
    length = struct.pack("<H" if version[0] < 2 else "<I", len(header) + 1)
    return b"\x93NUMPY" + bytes(version) + length + header.encode() + b"\n" + body


def header_changed(rng, path):
    """What an array of a .npz says of itself is changed; or the header of .safetensors."""
    if path.suffix != ".npz":
        return index_changed(rng, path)
    members = members_of(path)
    i = int(rng.integers(len(members)))
    name, data = members[i]
    end = 10 + int.from_bytes(data[8:10], "little")
    header, body = data[10:end].decode().rstrip(), data[end:]
    if rng.integers(3) == 0:
        at, other = (int(n) for n in rng.integers(len(header), size=2))
        header = header[:at] + header[other] + header[at + int(rng.integers(2)) :]
    else:
        part, some = pick(rng, [("descr", DESCRS), ("shape", SHAPES)])
        before, after = re.fullmatch(rf"(.*'{part}': ).*?(, 'fort.*|, }})", header).groups()
        header = before + pick(rng, some) + after
    body = pick(rng, [body, body, body[:-1], body + b"\0", b"", body * 2])
    members[i] = name, npy(header, body, pick(rng, [(1, 0), (1, 0), (1, 0), (2, 0), (3, 0)]))
    return zipped(members)


def index_changed(rng, path):
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    change_json(rng, header)
    text = json.dumps(header).encode()
    length = pick(rng, [len(text), len(text), len(text), len(text) + 1, 2**40, 2**64 - 1])
    return struct.pack("<Q", length) + text + data[end:]


def directory_changed(rng, path):
    """The tricks of zip files: names twice, sizes that lie, bombs, members that overlap."""
    if path.suffix != ".npz":
        return index_changed(rng, path)
    members = members_of(path)
    i = int(rng.integers(len(members)))
    name, data = members[i]
    match rng.integers(6):
        case 0:
            return zipped([*members, pick(rng, members)])
        case 1:  # a bomb that the manifest names, or does not name
            head = npy(
                f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({len(BOMB)},), }}", BOMB
            )
            bomb = pick(rng, [name, "other.npy", "other", "../a.npy"])
            return zipped(
                [*members[:i], (bomb, head), *members[i + 1 :]], {i: zipfile.ZIP_DEFLATED}
            )
        case 2:
            return zipped(members, {i: pick(rng, METHODS)})
        case 3:
            return zipped([*members, (f"{name}.npy", data)])
    whole = zipped(members)
    if rng.integers(4) == 0:  # all members lie where the largest one does
        with zipfile.ZipFile(io.BytesIO(whole)) as file:
            largest = max(file.infolist(), key=lambda member: member.file_size)
        size, offset = largest.file_size, largest.header_offset
        for at in starts(whole, b"PK\1\2"):
            struct.pack_into("<II", whole, at + 20, size, size)
            struct.pack_into("<I", whole, at + 42, offset)
        return whole
    for _ in range(rng.integers(1, 4)):
        signature = pick(rng, [b"PK\1\2", b"PK\3\4", b"PK\5\6"])
        at = pick(rng, starts(whole, signature)) + int(rng.integers(4, 45))
        size = pick(rng, [1, 2, 4])
        word = pick(rng, [0, 1, 8, 10, 255, 2**16 - 1, 2**31, 2**32 - 1, int(rng.integers(2**32))])
        whole[at : at + size] = struct.pack("<I", word % 2 ** (8 * size))[:size]
    return whole


def starts(data, signature):
    found = [data.find(signature)]
    while found[-1] >= 0:
        found.append(data.find(signature, found[-1] + 1))
    return found[:-1]


CHANGES = [bytes_changed, manifest_changed, header_changed, directory_changed]


# ------------------------------------------------------------------ and what comes of it


def touch(container):
    """Read and write all of some arrays; of those that only seem large, the ends."""
    for key in [] if container is None else keys_of(container):
        array = np.asarray(container[key])
        if array.nbytes < 1e6:
            array[...] = array.copy()
        else:
            for end in (0, -1):
                array[(end,) * array.ndim] = array[(end,) * array.ndim]


def load_forged(path, data):
    """What it is loaded as, or None; at most some times the file's own memory is taken."""
    path.write_bytes(data)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    try:
        optimizer, params = zdlfast.load(path)
    except ValueError as error:
        assert str(error).startswith(f"{path} cannot be loaded: ")  # noqa: PT017
        optimizer, params = None, None
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before < 50 * len(data) + 500_000
    if optimizer is not None:
        repr(optimizer)
        for container in (params, *(getattr(optimizer, slot) for slot in type(optimizer)._slots)):
            touch(container)
    return optimizer


def load_many(seeds, folder):
    """Load a file for each seed; tell how many were taken for a state."""
    for honest in HONEST:
        zdlfast.load(honest)  # what is imported or cached at the first one
    tracemalloc.start()
    loaded = 0
    try:
        for seed in seeds:
            rng = np.random.default_rng(seed)
            honest, change = pick(rng, HONEST), pick(rng, CHANGES)
            try:
                path = folder / f"forged{honest.suffix}"
                loaded += load_forged(path, change(rng, honest)) is not None
            except BaseException as error:
                raise AssertionError(f"seed {seed}: {change.__name__}, {honest.name}") from error
    finally:
        tracemalloc.stop()
    return loaded


def test_no_file_harms(thousand, tmp_path):
    """With --examples=20000 as many files are tried."""
    first = thousand * EXAMPLES
    assert 0 < load_many(range(first, first + EXAMPLES), tmp_path) < EXAMPLES / 2


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="which takes all addresses")
def test_no_file_takes_memory_beside_python_and_numpy(tmp_path):
    code = f"""
import pathlib, resource, sys
sys.path.insert(0, {str(FOLDER.parent)!r})
from test_files_fuzz import load_many
load_many(range(0), None)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, resource.RLIM_INFINITY))
load_many(range(200), pathlib.Path({str(tmp_path)!r}))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------ one by one


@pytest.fixture(params=ENDINGS)
def saved(request, tmp_path):
    """The file of an optimizer whose parameters are views of one memory."""
    values, optimizer = np.arange(1.0, 7.0), zdlfast.Momentum()
    params = {"a": values, "b": values[::-1], "c": np.ones(2)}
    optimizer.update(params, params)
    path = tmp_path / f"a{request.param}"
    zdlfast.save(path, optimizer, params)
    return path


def view(offset=0, dtype="<f8", shape=(6,), strides=(8,), block="memory.0"):
    return [block, offset, dtype, list(shape), list(strides)]


VIEW = ("views", "params.1")
ENTRY = ("params", "entries", 0)


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        (VIEW, view(dtype="|O"), "has dtype '|O', expected numbers"),
        (VIEW, view(dtype="|V8"), "has dtype '|V8', expected numbers"),
        (VIEW, view(dtype="<U2"), "has dtype '<U2', expected numbers"),
        (VIEW, view(dtype="f8,f8"), "has dtype 'f8,f8', expected numbers"),
        (VIEW, view(shape=[5], strides=[2**62]), "'params.1' lies outside of 'memory.0'"),
        (VIEW, view(shape=[5], strides=[-(2**62)]), "lies outside"),
        (VIEW, view(shape=[5, 5], strides=[2**62, -(2**62)]), "lies outside"),
        (VIEW, view(shape=[2**62]), "lies outside"),
        (VIEW, view(strides=[-8]), "lies outside"),
        (VIEW, view(offset=-8), "lies outside"),
        (VIEW, view(offset=1), "lies outside"),
        (VIEW, view(shape=[0]), "lies outside"),
        (VIEW, view(shape=[-1]), "lies outside"),
        (VIEW, view(shape=[2**40, 2**40], strides=[0, 0]), "too big"),
        (VIEW, view(shape=[6.0]), "numbers that are not whole"),
        (VIEW, view(offset=True), "numbers that are not whole"),
        (VIEW, view(strides=[]), "shorter"),
        (VIEW, view(block="memory.1"), "'memory.1' is missing"),
        (("class",), "load", "it is of 'load', expected one of"),
        (("params", "kind"), "set", "a 'set' of 3 keys and 3 values"),
        ((*ENTRY, "key"), "b", "a 'dict' of 2 keys and 3 values"),
        ((*ENTRY, "key"), None, "the key None, expected a string, a whole number or a list"),
        ((*ENTRY, "key"), [1.5], "the key 1.5, expected"),
        ((*ENTRY, "array"), "v.9", "'v.9' is missing"),
        ((*ENTRY, "scalar"), True, "cannot reshape array of size 6"),
        ((*ENTRY, "bfloat16"), True, "bfloat16 in an array of float64"),
        ((*ENTRY, "bfloat16"), False, "bfloat16 in an array of float64"),
        (ENTRY, {"key": "a", "number": "x"}, "the value 'x', expected a number"),
        (ENTRY, {"key": "a"}, "it has no 'number'"),
    ],
)
def test_a_forged_manifest_is_told(saved, place, value, text):
    manifest, arrays = parts(saved)
    *outer, last = place
    at_place(manifest, outer)[last] = value
    saved.write_bytes(forged(saved.suffix, manifest, arrays))
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        zdlfast.load(saved)
    assert text in str(caught.value)


def test_one_array_for_many_keys_is_not_copied_for_each(saved):
    manifest, arrays = parts(saved)
    arrays["v.0"] = np.ones(100_000)
    entry = {"array": "v.0", "scalar": False}
    entries = [{"key": key, **entry} for key in range(1000)]
    manifest["state"]["v"] = {"kind": "list", "entries": entries}
    del arrays["v.1"], arrays["v.2"]
    tracemalloc.start()
    try:
        assert load_forged(saved, forged(saved.suffix, manifest, arrays))
    finally:
        tracemalloc.stop()


@pytest.fixture(params=ENDINGS)
def encoded(request, tmp_path):
    """The file of an optimizer with state in 8 bits."""
    params, optimizer = {"a": np.ones(100_000)}, zdlfast.Momentum(state="8bit")
    optimizer.update(params, params)
    path = tmp_path / f"a{request.param}"
    zdlfast.save(path, optimizer, params)
    return path


@pytest.mark.parametrize(
    ("part", "value", "text"),
    [
        ("shape", [2**40], "codes of the encoded state v['a'] do not fit 8bit of the shape"),
        ("shape", [10**30], "do not fit"),
        ("shape", [2**20] * 40, "do not fit"),
        ("shape", [0], "do not fit"),
        ("shape", [1.0], "has the shape [1.0]"),
        ("format", "bfloat16", "codes of the encoded state v['a'] do not fit bfloat16"),
        ("format", "4bit", "has format '4bit', expected one of"),
        ("dtype", "float16", "has dtype 'float16', expected one of"),
        ("signed", 1, "must be a bool, got 1"),
        ("scales", "v.0.codes", "'v.0.scales' is unknown to its manifest"),
    ],
)
def test_forged_state_in_few_bits_is_told_before_memory_is_taken(encoded, part, value, text):
    manifest, arrays = parts(encoded)
    manifest["state"]["v"]["entries"][0]["encoded"][part] = value
    tracemalloc.start()
    try:
        assert load_forged(encoded, forged(encoded.suffix, manifest, arrays)) is None
        with pytest.raises(ValueError, match=re.escape(text)):
            zdlfast.load(encoded)
    finally:
        tracemalloc.stop()


def test_codes_for_many_keys_are_told_because_they_would_be_copied_for_each(encoded):
    manifest, arrays = parts(encoded)
    (entry,) = manifest["state"]["v"]["entries"]
    manifest["state"]["v"]["entries"] = [{**entry, "key": f"{n}"} for n in range(200)]
    tracemalloc.start()
    try:
        assert load_forged(encoded, forged(encoded.suffix, manifest, arrays)) is None
        with pytest.raises(
            ValueError, match=r"'v\.0\.codes' of encoded state belongs to something"
        ):
            zdlfast.load(encoded)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "descr", "shape", "size", "text"),
    [
        ("other.npy", "<f8", "(1048576,)", 2**23, "'other' is unknown to its manifest"),
        ("params.2.npy", "<f8", "(1048576,)", 2**23, "is not stored as an array of numbers"),
        ("params.2.npy", "<f8", "(4611686018427387904,)", 16, "another size than its shape"),
        ("params.2.npy", "<f8", "(4611686018427387904, 4)", 16, "another size than its shape"),
        ("params.2.npy", "<f8", "(1099511627776,)", 16, "another size than its shape"),
        ("params.2.npy", "<f8", "(4, 0)", 16, "another size than its shape"),
        ("params.2.npy", "<U2", "(2,)", 16, "has dtype <U2, expected numbers"),
        ("params.2.npy", "|O", "(2,)", 16, "is not stored as an array of numbers"),
    ],
)
def test_a_forged_member_is_told_before_memory_is_taken(tmp_path, name, descr, shape, size, text):
    path = tmp_path / "a.npz"
    zdlfast.save(path, zdlfast.SGD(), [np.ones(1), np.ones(1), np.ones(2)])
    members = [member for member in members_of(path) if member[0] != name]
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    methods = {len(members): zipfile.ZIP_STORED if size == 16 else zipfile.ZIP_DEFLATED}
    path.write_bytes(zipped([*members, (name, npy(header, bytes(size)))], methods))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="cannot be loaded") as caught:
            zdlfast.load(path)
        assert text in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_members_that_overlap_or_come_twice_are_told(tmp_path):
    path = tmp_path / "a.npz"
    zdlfast.save(path, zdlfast.SGD(), [np.ones(100_000), np.ones(2)])
    members = members_of(path)
    twice, overlapping = zipped([*members, members[0]]), zipped(members)
    large, small = starts(overlapping, b"PK\1\2")[2:]
    for first, last in ((20, 28), (42, 46)):  # where they are, and their sizes
        overlapping[small + first : small + last] = overlapping[large + first : large + last]
    for data in (twice, overlapping):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"it cannot hold \d members of"):
            zdlfast.load(path)
