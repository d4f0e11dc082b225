"""An optimizer and its parameters in a file: training goes on as if it had never stopped."""

# What only files need is imported where they are written: an import of zdlfast is to be short.

import contextlib
import ctypes
import math
import os
import re
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from zdlfast import _state
from zdlfast._bfloat16 import bfloat16, is_bfloat16
from zdlfast._rules import RULES

if TYPE_CHECKING:
    from zipfile import ZipInfo

    from zdlfast._optimizer import Optimizer

_NUMBERS = "biufc"  # kinds of dtypes
_ENCODED = ("codes", "scales")  # the arrays of state in few bits

# As NumPy writes numbers in an array's own dtype and header, and the manifest as a string.
_DTYPE = r"[<>|][biufc]\d{1,2}"
_HEADER = (
    rf"\{{'descr': '({_DTYPE}|[<>]U\d+)', 'fortran_order': (True|False), "
    r"'shape': \((\d+,|\d+(?:, \d+)+|)\), \} *\n"
)

_NOWHERE = 2**64  # an address behind all others


def save(path: str | os.PathLike[str], optimizer: "Optimizer", params: Any = None) -> None:
    """Write an optimizer, and parameters if they are given, to a file.

    Whatever happens, a crash or a full disk at any moment, the file is the old one or the new
    one, whole: it is written under another name beside it, flushed to the disk and renamed. (A
    process that is killed in between leaves a file ``.zdlfast-*.tmp``, which may be deleted.)

    Parameters
    ----------
    path : path
        The file, by its ending ``.npz`` or, if the package safetensors is installed,
        ``.safetensors``. No pickle is in it. A link is followed.
    optimizer : Optimizer
        One of `zdlfast` or `zdlfast.reference`.
    params : mapping or list, optional
        Arrays and numbers. Keys may be strings, whole numbers, and tuples of these. Arrays
        that share memory (tied weights, a matrix and its transpose) come back so; they are
        stored with all bytes between their elements.

    Raises
    ------
    TypeError
        The arguments are in another order; the optimizer, a key or a value can be stored in no
        such file.
    ValueError
        The file's name has another ending.
    OSError
        The file cannot be written. What was there is untouched.

    See Also
    --------
    load
    """
    if not isinstance(path, str | os.PathLike) or not _is_optimizer(optimizer):
        given = ", ".join(map(_described, (path, optimizer, params)))
        raise TypeError(f"save expects (path, optimizer, params), got ({given})")
    path = Path(path)
    _format_of(path)
    rule = RULES.get(type(optimizer).__name__)
    if rule is None or type(optimizer) not in (rule.twin, rule.fastest):
        raise TypeError(
            f"a {type(optimizer).__qualname__} could not be loaded, expected an optimizer of "
            "zdlfast or zdlfast.reference itself: save its state_dict()"
        )
    optimizer._locked(False, _save, path, optimizer, params)


def _is_optimizer(value: Any) -> bool:
    return hasattr(type(value), "_slots")


def _described(value: Any) -> str:
    """An argument of `save`, for a message: arrays are not printed."""
    if value is None or isinstance(value, str | os.PathLike):
        return repr(value)
    if _is_optimizer(value):
        return f"the optimizer {type(value).__name__}"
    return f"a value of type {type(value).__module__}.{type(value).__qualname__}"


def _save(path: Path, optimizer: "Optimizer", params: Any) -> None:
    import json
    import shutil

    write = _format_of(path).write
    arrays: dict[str, np.ndarray] = {}
    # Of what is stored already, by id; it keeps the objects, and so their ids and their memory.
    names: dict[int, tuple[str, Any]] = {}
    content = _state.collect(optimizer, copies=False)
    manifest = {name: value for name, value in content.items() if name != "state"}
    manifest["state"] = {
        slot: _pack(slot, held, arrays, names) for slot, held in content["state"].items()
    }
    manifest["params"] = _pack("params", params, arrays, names)
    manifest["views"] = _pack_views(arrays)
    text = json.dumps(manifest)
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no file that could be replaced")
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(f"{path} is read-only")
    outside = sys.exception()  # that this is called to save from, perhaps
    # Beside the file, because only within one folder a name is exchanged at once.
    beside = path.with_name(f".zdlfast-{os.urandom(8).hex()}.tmp")
    try:
        with beside.open("xb") as file:
            write(file, {_MANIFEST: text, _CHECKSUM: _checksum(text, arrays)}, arrays)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(path, beside)
        beside.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        _raise_interrupt_behind(error, outside)
        raise
    if os.name == "posix":
        # The new name, to the disk as well. The file is there already, so that it is no error
        # if a folder may not be opened or flushed.
        with contextlib.suppress(OSError):
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _raise_interrupt_behind(error: BaseException, outside: BaseException | None) -> None:
    """Raise the KeyboardInterrupt that made another error, of zipfile, which would hide it."""
    behind = error.__context__
    while behind is not None and behind is not outside:
        if not isinstance(behind, Exception):
            raise behind
        behind = behind.__context__


def load(
    path: str | os.PathLike[str], *, lr: Callable[[int], float] | None = None
) -> tuple["Optimizer", Any]:
    """Read what `save` wrote.

    Parameters
    ----------
    path : path
        The file; or the folder to which ranks wrote, see `zdlfast.mpi`.
    lr : callable, optional
        The learning rate, if it was a function of your own: a file can hold the schedules of
        `zdlfast.schedules` alone.

    Returns
    -------
    optimizer : Optimizer
        Of the class of `zdlfast` with the saved one's name; without the compiled kernels, of
        that of `zdlfast.reference`.
    params : dict, list or None
        What was saved with it.

    Raises
    ------
    OSError
        There is no such file, or it may not be read.
    ValueError
        The file is damaged, of a newer zdlfast, or none that `save` wrote.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path, lr)
    open_file = _format_of(path).open
    with path.open("rb"):
        pass  # what is wrong with the path is no damage of the file
    try:
        with open_file(path) as file:
            return _restored(file, lr)
    except (MemoryError, ModuleNotFoundError):
        raise
    # Damage makes the readers raise nearly anything.
    except Exception as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} cannot be loaded: {what}") from error


def _load_folder(folder: Path, lr: Callable[[int], float] | None) -> tuple["Optimizer", Any]:
    """Read what each rank wrote to a file of its own."""
    from zdlfast import _pieces

    try:
        return _pieces.joined([load(path, lr=lr) for path in _pieces.files_of(folder)])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder} cannot be loaded: {error}") from error


def _restored(file: "_File", lr: Any) -> tuple["Optimizer", Any]:
    """What a file holds. Nothing is read that its manifest does not name."""
    import json

    if _MANIFEST not in file.strings:
        names = [*map(repr, sorted(file.names)[:3]), "..."][: len(file.names)]
        raise ValueError(
            f"it holds arrays ({', '.join(names)}) and no optimizer, expected a file that "
            "zdlfast.save wrote"
        )
    text = file.strings[_MANIFEST]
    manifest = json.loads(text)
    _state.check_format(manifest["format"])
    name = manifest["class"]
    if name not in RULES:
        raise ValueError(f"it is of {name!r}, expected one of {[*RULES]}")
    packed = [manifest["params"], *manifest["state"].values()]
    entries = [entry for held in packed if held is not None for entry in held["entries"]]
    views = manifest["views"]
    stored = {array for entry in entries for array in _arrays_of(entry)} - views.keys()
    stored |= {block for block, *_ in views.values()}
    for array in sorted(stored ^ file.names):
        found = "missing" if array in stored else "unknown to its manifest"
        raise ValueError(f"the array {array!r} is {found}")
    # All of these are copied: named often, a small file would take any amount of memory.
    encoded = [array for entry in entries if "encoded" in entry for array in _arrays_of(entry)]
    for array, count in Counter(encoded).items():
        if count > 1 or array in views:
            raise ValueError(f"the array {array!r} of encoded state belongs to something else too")
    arrays = {array: file.read(array) for array in file.names}
    for array, values in arrays.items():
        if values.dtype.kind not in _NUMBERS:
            raise ValueError(f"the array {array!r} has dtype {values.dtype}, expected numbers")
    if file.strings[_CHECKSUM] != _checksum(text, arrays):
        raise ValueError("its checksum differs: it is damaged")
    arrays |= _unpack_views(views, arrays)
    content = {k: v for k, v in manifest.items() if k not in ("params", "views")}
    content["state"] = {slot: _unpack(held, arrays) for slot, held in manifest["state"].items()}
    optimizer: Optimizer = RULES[name].fastest()
    if lr is not None:
        optimizer.lr = lr
    _state.restore(optimizer, content, copies=False)
    return optimizer, _unpack(manifest["params"], arrays)


def _checksum(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """A hash of all that a file holds, whatever the byte order and layout of its arrays."""
    import hashlib

    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        plain = np.asarray(array, array.dtype.newbyteorder("="), order="C")
        digest.update(f"{name} {plain.dtype.name} {plain.shape}".encode())
        digest.update(plain.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _pack(
    what: str, held: Any, arrays: dict[str, np.ndarray], names: dict[int, tuple[str, Any]]
) -> Any:
    """A container for the manifest, with its arrays put aside under names."""
    if held is None:
        return None
    if not isinstance(held, list) and not hasattr(held, "keys"):
        raise TypeError(f"{what} must be a mapping or a list, got {type(held).__name__}")
    keys = range(len(held)) if isinstance(held, list) else list(held.keys())
    pairs = [(key, held[key]) for key in keys]
    packed = []
    for i, (key, value) in enumerate(pairs):
        entry: dict[str, Any] = {"key": _pack_key(what, key)}
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{what}[{key!r}] is a masked array, whose mask would be lost")
        if isinstance(value, np.ndarray | np.generic):
            array = np.asarray(value)
            if is_bfloat16(array.dtype):
                array, entry["bfloat16"] = array.view(np.uint16), True
            if array.dtype.kind not in _NUMBERS:
                raise TypeError(f"{what}[{key!r}] has dtype {value.dtype}, expected numbers")
            name, _ = names.setdefault(id(value), (f"{what}.{i}", value))
            entry["array"] = name
            entry["scalar"] = isinstance(value, np.generic)
            arrays[name] = array
        elif isinstance(value, int | float):
            entry["number"] = value
        elif isinstance(value, dict) and what != "params":
            entry["encoded"] = _pack_encoded(f"{what}.{i}", value, arrays, names)
        else:
            raise TypeError(
                f"{what}[{key!r}] must be an array or a number, got {type(value).__name__}"
            )
        packed.append(entry)
    return {"kind": "list" if isinstance(held, list) else "dict", "entries": packed}


def _pack_encoded(
    name: str,
    parts: dict[str, Any],
    arrays: dict[str, np.ndarray],
    names: dict[int, tuple[str, Any]],
) -> dict[str, Any]:
    """Encoded state for the manifest: its arrays are put aside, and their names are in it."""
    packed = dict(parts)
    for part in _ENCODED:
        if (array := parts[part]) is not None:
            packed[part] = f"{name}.{part}"
            first, _ = names.setdefault(id(array), (packed[part], array))
            # Each has memory of its own when it is loaded.
            arrays[packed[part]] = array if first == packed[part] else array.copy()
    return packed


def _arrays_of(entry: Mapping[str, Any]) -> list[str]:
    """The names of the arrays that belong to an entry of a container."""
    if "encoded" in entry:
        names = [entry["encoded"][part] for part in _ENCODED]
        return [name for name in names if name is not None]
    return [entry["array"]] if "array" in entry else []


def _pack_views(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Put blocks of memory in the place of arrays that share it; tell where in them they lie."""
    views: dict[str, Any] = {}
    bounds = sorted(
        (*_bounds(array.ctypes.data, array.shape, array.strides, array.itemsize), name)
        for name, array in arrays.items()
        if array.size
    )
    group: list[str] = []
    start = end = 0
    for low, high, name in [*bounds, (_NOWHERE, _NOWHERE, "")]:
        if low >= end:
            if len(group) > 1:
                block = f"memory.{len(views)}"
                for member in group:
                    array = arrays.pop(member)
                    place = [
                        array.ctypes.data - start,
                        array.dtype.str,
                        array.shape,
                        array.strides,
                    ]
                    views[member] = [block, *place]
                # All of it belongs to the arrays, or lies between elements of one.
                memory = (ctypes.c_uint8 * (end - start)).from_address(start)
                arrays[block] = np.ctypeslib.as_array(memory)
            group, start, end = [], low, 0
        group.append(name)
        end = max(end, high)
    return views


def _unpack_views(
    views: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    unpacked = {}
    for name, (block, offset, dtype, shape, strides) in views.items():
        if not all(type(n) is int for n in (offset, *shape, *strides)):
            raise ValueError(f"the view {name!r} has numbers that are not whole")
        if not re.fullmatch(_DTYPE, dtype):  # bytes are no pointers to objects
            raise ValueError(f"the view {name!r} has dtype {dtype!r}, expected numbers")
        memory = arrays[block]
        low, high = _bounds(offset, shape, strides, np.dtype(dtype).itemsize)
        # NumPy checks this with numbers that overflow.
        if min(shape, default=1) < 1 or low < 0 or high > memory.nbytes:
            raise ValueError(f"the view {name!r} lies outside of {block!r}")
        unpacked[name] = np.ndarray(shape, dtype, memory, offset, strides)
    return unpacked


def _bounds(
    start: int, shape: Iterable[int], strides: Iterable[int], itemsize: int
) -> tuple[int, int]:
    """Where the memory of an array begins and ends, given its first element's place."""
    reaches = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    low = start + sum(reach for reach in reaches if reach < 0)
    return low, start + sum(reach for reach in reaches if reach > 0) + itemsize


def _pack_key(what: str, key: Any) -> Any:
    if isinstance(key, str):
        return key
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return int(key)
    if isinstance(key, tuple):
        return [_pack_key(what, part) for part in key]
    raise TypeError(
        f"{what} has the key {key!r}, expected a string, a whole number, or a tuple of these"
    )


def _unpack(packed: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if packed is None:
        return None
    kind, entries = packed["kind"], packed["entries"]
    pairs = {_unpack_key(entry["key"]): _unpack_value(entry, arrays) for entry in entries}
    if kind not in ("dict", "list") or len(pairs) < len(entries):
        raise ValueError(f"it has a {kind!r} of {len(pairs)} keys and {len(entries)} values")
    return list(pairs.values()) if kind == "list" else pairs


def _unpack_key(key: Any) -> Any:
    if isinstance(key, list):
        return tuple(map(_unpack_key, key))
    if not isinstance(key, str) and type(key) is not int:
        raise ValueError(f"it has the key {key!r}, expected a string, a whole number or a list")
    return key


def _unpack_value(entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    if "array" in entry:
        array = arrays[entry["array"]]
        if "bfloat16" in entry:
            if entry["bfloat16"] is not True or array.dtype != np.uint16:
                raise ValueError(f"it has bfloat16 in an array of {array.dtype}")
            array = array.view(bfloat16())
        return array.reshape(())[()] if entry["scalar"] else array
    if "encoded" in entry:
        parts = dict(entry["encoded"])
        return parts | {part: arrays[parts[part]] for part in _ENCODED if parts[part] is not None}
    number = entry["number"]
    if not isinstance(number, int | float):
        raise ValueError(f"it has the value {number!r}, expected a number")
    return number


@dataclass(frozen=True)
class _File:
    """A file that is open for reading, with the names of its arrays."""

    strings: Mapping[str, str]
    names: Set[str]
    read: Callable[[str], np.ndarray]


@dataclass(frozen=True)
class _Format:
    """How a file of some ending holds a few strings and arrays."""

    write: Callable[[BinaryIO, dict[str, str], dict[str, np.ndarray]], None]
    open: Callable[[Path], contextlib.AbstractContextManager[_File]]


def _format_of(path: Path) -> _Format:
    if path.suffix not in _FORMATS:
        raise ValueError(f"{path} must end in {' or '.join(_FORMATS)}")
    return _FORMATS[path.suffix]


def _write_npz(file: BinaryIO, strings: dict[str, str], arrays: dict[str, np.ndarray]) -> None:
    texts = {name: np.array(text) for name, text in strings.items()}
    np.savez(file, **texts, **arrays)  # type: ignore[arg-type]


@contextlib.contextmanager
def _open_npz(path: Path) -> Iterator[_File]:
    import zipfile

    with path.open("rb") as file, zipfile.ZipFile(file) as directory:
        found = directory.infolist()
        members = {member.filename.removesuffix(".npy"): member for member in found}
        # More names or bytes than there are: members that lie over each other.
        claimed = sum(member.compress_size for member in found)
        if len(members) < len(found) or claimed > os.fstat(file.fileno()).st_size:
            raise ValueError(f"it cannot hold {len(found)} members of {claimed} bytes")
        texts = [name for name in (_MANIFEST, _CHECKSUM) if name in members]
        strings = {name: str(_read_member(file, members.pop(name))) for name in texts}
        yield _File(strings, members.keys(), lambda name: _read_member(file, members[name]))


def _read_member(file: BinaryIO, member: "ZipInfo") -> np.ndarray:
    """An array as `numpy.savez` writes it; what it claims is checked before memory is taken."""
    file.seek(member.header_offset)
    file.read(sum(struct.unpack("<26x2H", file.read(30))))  # its name once more
    magic, length = struct.unpack("<8sH", file.read(10))
    header = re.fullmatch(_HEADER, file.read(length).decode("latin1"))
    if member.compress_type or magic != b"\x93NUMPY\1\0" or header is None:
        raise ValueError(f"{member.filename} is not stored as an array of numbers")
    dtype = np.dtype(header[1])
    shape = tuple(int(n) for n in header[3].split(",") if n)
    size = math.prod(shape) * dtype.itemsize
    if 10 + length + size != member.compress_size:
        raise ValueError(f"{member.filename} has another size than its shape {shape}")
    memory = np.empty(size, np.uint8)
    if file.readinto(memory) != size:  # type: ignore[attr-defined]
        raise ValueError(f"{member.filename} ends early")
    return np.ndarray(shape, dtype, memory, order="F" if header[2] == "True" else "C")


def _write_safetensors(
    file: BinaryIO, strings: dict[str, str], arrays: dict[str, np.ndarray]
) -> None:
    from safetensors.numpy import save as to_bytes

    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise TypeError(
                f"{name} has dtype {array.dtype}, which .safetensors cannot hold; .npz can"
            )
    # It stores bytes as they lie in memory.
    plain = {name: np.array(a, a.dtype.newbyteorder("="), order="C") for name, a in arrays.items()}
    file.write(to_bytes(plain, strings))


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[_File]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        yield _File(file.metadata() or {}, set(file.keys()), file.get_tensor)


_MANIFEST, _CHECKSUM = "zdlfast", "sha256"
_FORMATS = {
    ".npz": _Format(_write_npz, _open_npz),
    ".safetensors": _Format(_write_safetensors, _open_safetensors),
}
