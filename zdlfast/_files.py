"""An optimizer and its parameters in a file: training goes on as if it had never stopped."""

# What only files need is imported where they are written: an import of zdlfast is to be short.

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from zdlfast import _state
from numpy.lib.array_utils import byte_bounds as extent

if TYPE_CHECKING:
    from zdlfast._optimizer import Optimizer

_NUMBERS = "biufc"  # kinds of dtypes

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
        The optimizer, a key or a value can be stored in no such file.
    ValueError
        The file's name has another ending.
    OSError
        The file cannot be written. What was there is untouched.

    See Also
    --------
    load
    """
    path = Path(path)
    _format_of(path)
    if type(optimizer).__module__ not in ("zdlfast.optimizers", "zdlfast.reference"):
        raise TypeError(
            f"a {type(optimizer).__qualname__} could not be loaded, expected an optimizer of "
            "zdlfast or zdlfast.reference itself: save its state_dict()"
        )
    optimizer._locked(False, _save, path, optimizer, params)


def _save(path: Path, optimizer: "Optimizer", params: Any) -> None:
    import json
    import shutil

    write = _format_of(path).write
    arrays: dict[str, np.ndarray] = {}
    # Of what is stored already, by id; it keeps the objects, and so their ids and their memory.
    names: dict[int, tuple[str, Any]] = {}
    content = _state.collect(optimizer, copy=False)
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


def load(path: str | os.PathLike[str]) -> tuple["Optimizer", Any]:
    """Read what `save` wrote.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    optimizer : Optimizer
        Of the class of `zdlfast` with the saved one's name.
    params : dict, list or None
        What was saved with it.

    Raises
    ------
    OSError
        There is no such file, or it may not be read.
    ValueError
        The file is damaged, of a newer zdlfast, or none that `save` wrote.
    """
    import json

    from zdlfast import optimizers

    path = Path(path)
    read = _format_of(path).read
    with path.open("rb"):
        pass  # what is wrong with the path is no damage of the file
    try:
        strings, arrays = read(path)
        if strings[_CHECKSUM] != _checksum(strings[_MANIFEST], arrays):
            raise ValueError("its checksum differs: it is damaged")
        manifest = json.loads(strings[_MANIFEST])
        name = manifest["class"]
        if name not in optimizers.__all__:
            raise ValueError(f"it is of {name!r}, expected one of {optimizers.__all__}")
        optimizer: Optimizer = getattr(optimizers, name)()
        _unpack_views(manifest["views"], arrays)
        content = {k: v for k, v in manifest.items() if k not in ("params", "views")}
        content["state"] = {
            slot: _unpack(packed, arrays) for slot, packed in manifest["state"].items()
        }
        _state.restore(optimizer, content)
        return optimizer, _unpack(manifest["params"], arrays)
    except (MemoryError, ModuleNotFoundError):
        raise
    # Damage makes the readers raise nearly anything.
    except Exception as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} cannot be loaded: {what}") from error


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
            if value.dtype.kind not in _NUMBERS:
                raise TypeError(f"{what}[{key!r}] has dtype {value.dtype}, expected numbers")
            name, _ = names.setdefault(id(value), (f"{what}.{i}", value))
            entry["array"] = name
            entry["scalar"] = isinstance(value, np.generic)
            arrays[name] = np.asarray(value)
        elif isinstance(value, int | float):
            entry["number"] = value
        else:
            raise TypeError(
                f"{what}[{key!r}] must be an array or a number, got {type(value).__name__}"
            )
        packed.append(entry)
    return {"kind": "list" if isinstance(held, list) else "dict", "entries": packed}


def _pack_views(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Put blocks of memory in the place of arrays that share it; tell where in them they lie."""
    views: dict[str, Any] = {}
    bounds = sorted((*extent(array), name) for name, array in arrays.items() if array.size)
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


def _unpack_views(views: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    for name, (block, offset, dtype, shape, strides) in views.items():
        if np.dtype(dtype).kind not in _NUMBERS:  # bytes are no pointers to objects
            raise ValueError(f"the view {name} has dtype {dtype}, expected numbers")
        arrays[name] = np.ndarray(shape, dtype, arrays[block], offset, strides)


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
    pairs = []
    for entry in packed["entries"]:
        value = arrays[entry["array"]] if "array" in entry else entry["number"]
        scalar = "array" in entry and entry["scalar"]
        pairs.append((_unpack_key(entry["key"]), value[()] if scalar else value))
    return [value for _, value in pairs] if packed["kind"] == "list" else dict(pairs)


def _unpack_key(key: Any) -> Any:
    return tuple(map(_unpack_key, key)) if isinstance(key, list) else key


@dataclass(frozen=True)
class _Format:
    """How a file of some ending holds a few strings and arrays."""

    write: Callable[[BinaryIO, dict[str, str], dict[str, np.ndarray]], None]
    read: Callable[[Path], tuple[dict[str, str], dict[str, np.ndarray]]]


def _format_of(path: Path) -> _Format:
    if path.suffix not in _FORMATS:
        raise ValueError(f"{path} must end in {' or '.join(_FORMATS)}")
    return _FORMATS[path.suffix]


def _write_npz(file: BinaryIO, strings: dict[str, str], arrays: dict[str, np.ndarray]) -> None:
    texts = {name: np.array(text) for name, text in strings.items()}
    np.savez(file, **texts, **arrays)  # type: ignore[arg-type]


def _read_npz(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    # Opened here, because np.load forgets to close what is damaged.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
        arrays = dict(data)
    return {name: str(arrays.pop(name)) for name in (_MANIFEST, _CHECKSUM)}, arrays


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


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


_MANIFEST, _CHECKSUM = "zdlfast", "sha256"
_FORMATS = {
    ".npz": _Format(_write_npz, _read_npz),
    ".safetensors": _Format(_write_safetensors, _read_safetensors),
}
