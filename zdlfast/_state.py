"""An optimizer's state as a dict, and in a file: training goes on as if it had never stopped."""

# What only files need is imported where they are written: an import of zdlfast is to be short.

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from zdlfast._engine import extent, in_turn

if TYPE_CHECKING:
    from zdlfast._contract import Optimizer

#: Of the dict and of the files. A larger one is of a newer zdlfast.
FORMAT = 1

_NOWHERE = 2**64  # an address behind all others


def collect(optimizer: "Optimizer", copy: bool) -> dict[str, Any]:
    """What `Optimizer.state_dict` returns, in the optimizer's turn."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "class": type(optimizer).__name__,
        "options": {name: getattr(optimizer, name) for name in _options(optimizer)},
    }
    if optimizer._counter:
        content[optimizer._counter] = getattr(optimizer, optimizer._counter)
    take = np.array if copy else np.asarray
    state: dict[str, Any] = {}
    for slot in optimizer._slots:
        held = getattr(optimizer, slot)
        if isinstance(held, dict):
            held = {key: take(value) for key, value in held.items()}
        elif held is not None:
            held = [take(value) for value in held]
        state[slot] = held
    content["state"] = state
    return content


def restore(optimizer: "Optimizer", content: Any) -> None:
    """What `Optimizer.load_state_dict` does, in the optimizer's turn."""
    name = type(optimizer).__name__
    if not isinstance(content, Mapping):
        raise TypeError(f"the state must be a dict, got {type(content).__name__}")
    version = content.get("format")
    if type(version) is not int or version < 1:
        raise ValueError(f"the state has format {version!r}, expected a number from 1 on")
    if version > FORMAT:
        raise ValueError(
            f"the state has format {version}, which is newer than this zdlfast reads ({FORMAT})"
        )
    if content.get("class") != name:
        raise ValueError(f"this is the state of {content.get('class')!r}, expected {name!r}")
    counter = [optimizer._counter] if optimizer._counter else []
    _compare_keys("the state", content, ["format", "class", "options", *counter, "state"])
    options = _options(optimizer)
    _compare_keys("the dict of options", content["options"], options)
    _compare_keys("the dict of arrays", content["state"], optimizer._slots)
    # A copy of the optimizer checks what is assigned to it.
    checked = object.__new__(type(optimizer))
    for option in options:
        setattr(checked, option, content["options"][option])
    for attribute in counter:
        setattr(checked, attribute, content[attribute])
    slots = {slot: _container(slot, content["state"][slot]) for slot in optimizer._slots}
    _check_slots_agree(slots)
    for slot, container in slots.items():
        _check_same(slot, container, getattr(optimizer, slot, None))
        setattr(checked, slot, container)
    # At once, whatever signals arrive.
    vars(optimizer).update(vars(checked))


def _options(optimizer: "Optimizer") -> list[str]:
    return [*optimizer._options, "nonfinite"]


def _compare_keys(what: str, found: Any, expected: Any) -> None:
    if not isinstance(found, Mapping):
        raise TypeError(f"{what} must be a dict, got {type(found).__name__}")
    for key in expected:
        if key not in found:
            raise ValueError(f"{what} has no {key!r}, expected {list(expected)}")
    for key in found:
        if key not in expected:
            raise ValueError(f"{what} has an unknown key {key!r}, expected {list(expected)}")


def _container(slot: str, given: Any) -> dict[Any, np.ndarray] | list[np.ndarray] | None:
    """A copy of one slot's arrays, checked."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        return {key: _array(f"{slot}[{key!r}]", value) for key, value in given.items()}
    if isinstance(given, list | tuple):
        return [_array(f"{slot}[{i}]", value) for i, value in enumerate(given)]
    raise TypeError(f"the state {slot} must be a dict, a list or None, got {type(given).__name__}")


def _array(name: str, value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in "fcO":
        what = value.dtype if hasattr(value, "dtype") else type(value).__name__
        raise TypeError(f"the state {name} must be an array of floats, got {what}")
    return np.array(value)


def _items(container: Any) -> Iterator[tuple[Any, np.ndarray]]:
    yield from container.items() if isinstance(container, dict) else enumerate(container)


def _check_slots_agree(slots: dict[str, Any]) -> None:
    """All slots have the same keys, with arrays of the same shape."""
    held: Any
    container: Any
    (first, held), *others = slots.items() if slots else [("", None)]
    for slot, container in others:
        if type(container) is not type(held):
            raise ValueError(f"the state {first} and the state {slot} are no containers of a kind")
        if held is None:
            continue
        for key, array in _items(held):
            pair = dict(_items(container)).get(key)
            if pair is None or pair.shape != array.shape:
                shape = None if pair is None else pair.shape
                raise ValueError(
                    f"the state {first}[{key!r}] has shape {array.shape}, but {slot}[{key!r}] has "
                    f"{shape}"
                )
        if len(container) != len(held):
            raise ValueError(f"the state {slot} has more keys than the state {first}")


def _check_same(slot: str, container: Any, present: Any) -> None:
    """What is loaded fits what is there: containers, keys, shapes and dtypes."""
    if present is None or container is None:
        return
    if isinstance(container, dict) != isinstance(present, dict):
        raise ValueError(
            f"the state {slot} is a {type(container).__name__}, but this optimizer has a "
            f"{type(present).__name__}"
        )
    new, old = dict(_items(container)), dict(_items(present))
    for key in [*old, *new]:
        if key not in new or key not in old:
            where = "in it" if key not in new else "in this optimizer"
            raise ValueError(f"the state {slot} differs: there is no key {key!r} {where}")
        for what in ("shape", "dtype"):
            given, expected = getattr(new[key], what), getattr(np.asarray(old[key]), what)
            if given != expected:
                raise ValueError(
                    f"the state {slot}[{key!r}] has {what} {given}, but this optimizer's has "
                    f"{expected}"
                )


# ------------------------------------------------------------------ files


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
        that share memory (tied weights, a matrix and its transpose) come back so.

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
    in_turn(optimizer, False, _save, path, optimizer, params)


def _save(path: Path, optimizer: "Optimizer", params: Any) -> None:
    import json
    import shutil

    write = _format_of(path).write
    arrays: dict[str, np.ndarray] = {}
    names: dict[int, tuple[str, Any]] = {}  # of what is stored already
    content = collect(optimizer, copy=False)
    manifest = {name: value for name, value in content.items() if name != "state"}
    manifest["state"] = {
        slot: _pack(slot, held, arrays, names) for slot, held in content["state"].items()
    }
    manifest["params"] = _pack("params", params, arrays, names)
    manifest["views"] = _pack_views(arrays)
    text = json.dumps(manifest)
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no file that could be replaced")
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(f"{path} is read-only")
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
        _raise_interrupt_behind(error)
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


def _raise_interrupt_behind(error: BaseException) -> None:
    """Raise the KeyboardInterrupt that made another error, of zipfile, which would hide it."""
    behind = error.__context__
    while behind is not None:
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
        restore(optimizer, content)
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
    pairs = list(enumerate(held)) if isinstance(held, list) else [(k, held[k]) for k in held]
    packed = []
    for i, (key, value) in enumerate(pairs):
        entry: dict[str, Any] = {"key": _pack_key(what, key)}
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{what}[{key!r}] is a masked array, whose mask would be lost")
        if isinstance(value, np.ndarray | np.generic):
            if value.dtype.kind not in "biufc":
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
    group: list[tuple[int, int, str]] = []
    end = 0
    for low, high, name in [*bounds, (_NOWHERE, _NOWHERE, "")]:
        if low >= end:
            if len(group) > 1:
                _pack_block(f"memory.{len(views)}", group, end, arrays, views)
            group, end = [], 0
        group.append((low, high, name))
        end = max(end, high)
    return views


def _pack_block(
    block: str,
    group: list[tuple[int, int, str]],
    end: int,
    arrays: dict[str, np.ndarray],
    views: dict[str, Any],
) -> None:
    start = group[0][0]
    for low, _, name in group:
        array = arrays.pop(name)
        # From the array's first element, which negative strides leave behind.
        back = -sum(
            (n - 1) * stride
            for n, stride in zip(array.shape, array.strides, strict=True)
            if stride < 0
        )
        views[name] = [block, low - start + back, array.dtype.str, array.shape, array.strides]
    # All of it belongs to the arrays, or lies between elements of one.
    memory = (ctypes.c_uint8 * (end - start)).from_address(start)
    arrays[block] = np.ctypeslib.as_array(memory)


def _unpack_views(views: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    for name, (block, offset, dtype, shape, strides) in views.items():
        arrays[name] = np.ndarray(shape, dtype, arrays[block], offset, strides)


def _pack_key(what: str, key: Any) -> Any:
    if isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool)):
        return key
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
        pairs.append((_unpack_key(entry["key"]), value[()] if entry.get("scalar") else value))
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
