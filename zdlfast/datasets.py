"""Handwritten digits to train on: a small set that scikit-learn ships, and MNIST."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import DTypeLike

from zdlfast.nn.initializers import float_dtype

#: Samples and labels, for training and for testing.
Split = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
#: The four files of MNIST, images and labels alternating, with the SHA-256 of each when gzipped.
MNIST = {
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
CLASSES = 10
# Of the 1,797 digits, so many are for testing; 1,500 are left for training.
DIGITS_TESTED = 297
# The first number of an IDX file: unsigned bytes, and the number of dimensions.
IMAGES_MAGIC, LABELS_MAGIC = 0x0803, 0x0801


def load_digits(*, size: int = 8, one_hot: bool = False, dtype: DTypeLike = np.float64) -> Split:
    """scikit-learn's handwritten digits: 1,500 for training, 297 for testing.

    Parameters
    ----------
    size : {8, 28}
        The edge of the images in pixels: as they are, or in MNIST's format: each pixel becomes a
        square of 3x3, within a black border of 2 pixels.
    one_hot : bool
        Whether labels are rows with a 1 at the label, instead of whole numbers.
    dtype : data-type
        float32 or float64, of the images and of one-hot labels.

    Returns
    -------
    (x_train, t_train), (x_test, t_test) : tuple of tuple of ndarray
        Images as rows of floats in [0, 1], and labels. The split is the same at every call.

    Raises
    ------
    ImportError
        scikit-learn is not installed.
    ValueError
        The size is another one.
    """
    if size not in (8, 28):
        raise ValueError(f"size must be 8 or 28, got {size!r}")
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise ImportError(
            "load_digits takes the images from scikit-learn: pip install scikit-learn"
        ) from error
    digits = load()
    images = digits.images / 16.0
    if size == 28:
        images = np.pad(np.kron(images, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))
    order = np.random.default_rng(8).permutation(len(images))
    test, train = order[:DIGITS_TESTED], order[DIGITS_TESTED:]
    return _split(images[train], digits.target[train], images[test], digits.target[test],
                  one_hot, dtype)  # fmt: skip


def load_mnist(
    folder: str | Path | None = None,
    *,
    download: bool = False,
    url: str = MIRROR,
    one_hot: bool = False,
    dtype: DTypeLike = np.float64,
) -> Split:
    """MNIST: 60,000 handwritten digits for training and 10,000 for testing, of 28x28 pixels.

    Parameters
    ----------
    folder : path, optional
        Where the four standard files are, gzipped or not: train-images-idx3-ubyte,
        train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte. With
        `download`, where they are put; the user's cache folder by default.
    download : bool
        Whether to fetch files that are not there. Takes the package pooch, which compares their
        checksums.
    url : str
        Where to fetch them from, up to the name of the file.
    one_hot, dtype
        As for `load_digits`.

    Returns
    -------
    (x_train, t_train), (x_test, t_test) : tuple of tuple of ndarray
        Images as rows of floats in [0, 1], and labels.

    Raises
    ------
    FileNotFoundError
        A file is not there.
    ValueError
        A file is truncated or is no such file, or no folder was given; with `download`, a
        checksum is wrong.
    """
    if download:
        paths = [
            _find(folder, name) or _fetch(name, folder, url) if folder else _fetch(name, None, url)
            for name in MNIST
        ]
    elif folder is None:
        raise ValueError("load_mnist: expected a folder with the four files, or download=True")
    else:
        paths = [_find(folder, name) or _missing(folder, name) for name in MNIST]
    x_train, t_train, x_test, t_test = (
        _read_images(path) if i % 2 == 0 else _read_labels(path) for i, path in enumerate(paths)
    )
    for images, labels, path in ((x_train, t_train, paths[1]), (x_test, t_test, paths[3])):
        if len(images) != len(labels):
            raise ValueError(
                f"{path} has {len(labels)} labels, but there are {len(images)} images"
            )
    return _split(x_train / 255.0, t_train, x_test / 255.0, t_test, one_hot, dtype)


def _split(
    x_train: np.ndarray,
    t_train: np.ndarray,
    x_test: np.ndarray,
    t_test: np.ndarray,
    one_hot: bool,
    dtype: DTypeLike,
) -> Split:
    dtype = float_dtype(dtype)

    def samples(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1).astype(dtype)

    def labels(t: np.ndarray) -> np.ndarray:
        return np.eye(CLASSES, dtype=dtype)[t] if one_hot else t.astype(np.int64)

    return (samples(x_train), labels(t_train)), (samples(x_test), labels(t_test))


def _find(folder: str | Path, name: str) -> Path | None:
    paths = (Path(folder) / name, Path(folder) / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def _missing(folder: str | Path, name: str) -> NoReturn:
    raise FileNotFoundError(
        f"{Path(folder) / name} is not there, nor is {name}.gz. load_mnist(download=True) fetches "
        f"it; by hand, get {MIRROR}{name}.gz"
    )


def _fetch(name: str, folder: str | Path | None, url: str) -> Path:
    try:
        import pooch
    except ImportError as error:
        raise ImportError("load_mnist(download=True) takes pooch: pip install pooch") from error
    path = pooch.retrieve(
        f"{url.rstrip('/')}/{name}.gz",
        known_hash=f"sha256:{MNIST[name]}",
        fname=f"{name}.gz",
        path=pooch.os_cache("zdlfast") / "mnist" if folder is None else folder,
    )
    return Path(path)


def _read_images(path: Path) -> np.ndarray:
    data = _read(path)
    header = struct.Struct(">4I")
    _, count, rows, columns = _header(header, data, path, "images", IMAGES_MAGIC)
    if (rows, columns) != (28, 28):
        raise ValueError(f"{path} has images of {rows}x{columns} pixels, expected 28x28")
    if count == 0:
        raise ValueError(f"{path} has no images")
    return _body(header, data, path, count * rows * columns).reshape(count, rows, columns)


def _read_labels(path: Path) -> np.ndarray:
    data = _read(path)
    header = struct.Struct(">2I")
    _, count = _header(header, data, path, "labels", LABELS_MAGIC)
    labels = _body(header, data, path, count)
    if labels.size and labels.max() >= CLASSES:
        raise ValueError(f"{path} has the label {labels.max()}, expected 0 to {CLASSES - 1}")
    return labels


def _read(path: Path) -> bytes:
    data = path.read_bytes()
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or truncated: {error}") from error


def _header(
    header: struct.Struct, data: bytes, path: Path, what: str, expected: int
) -> tuple[int, ...]:
    if len(data) < header.size:
        raise ValueError(f"{path} is truncated: it has {len(data)} bytes")
    numbers: tuple[int, ...] = header.unpack_from(data)
    if numbers[0] != expected:
        raise ValueError(
            f"{path} is no IDX file of {what}: it begins with {numbers[0]}, expected {expected}"
        )
    return numbers


def _body(header: struct.Struct, data: bytes, path: Path, size: int) -> np.ndarray:
    if len(data) != header.size + size:
        raise ValueError(
            f"{path} is truncated or too long: it has {len(data)} bytes, expected "
            f"{header.size + size}"
        )
    return np.frombuffer(data, np.uint8, offset=header.size)
