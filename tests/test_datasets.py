"""Data: what the digits look like, and files that are right, wrong, damaged or not there."""

import gzip
import hashlib
import struct
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pooch
import pytest

from zdlfast import datasets
from zdlfast.datasets import MNIST, load_digits, load_mnist

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
COUNTS = {"train": 7, "t10k": 4}


@pytest.mark.parametrize("size", [8, 28])
@pytest.mark.parametrize("one_hot", [False, True])
def test_digits_are_split_and_scaled(size, one_hot, dtype):
    (x_train, t_train), (x_test, t_test) = load_digits(size=size, one_hot=one_hot, dtype=dtype)
    assert x_train.shape == (1500, size * size)
    assert x_test.shape == (297, size * size)
    for x in (x_train, x_test):
        assert x.dtype == dtype
        assert (x.min(), x.max()) == (0.0, 1.0)
    if one_hot:
        assert t_train.shape == (1500, 10)
        assert t_train.dtype == dtype
        assert np.all(t_test.sum(axis=1) == 1)
    else:
        assert t_train.shape == (1500,)
        assert set(t_test) == set(range(10))


def test_digits_are_the_same_at_every_call_and_size():
    (x8, t8), _ = load_digits()
    (x28, t28), _ = load_digits(size=28)
    assert np.array_equal(t8, t28)
    enlarged = x28.reshape(-1, 28, 28)
    assert np.array_equal(enlarged[:, 3:26:3, 3:26:3], x8.reshape(-1, 8, 8))
    assert not enlarged[:, :2].any()
    assert not enlarged[:, :, -2:].any()


@pytest.mark.parametrize("size", [7, "8", None])
def test_another_size_is_an_error(size):
    with pytest.raises(ValueError, match="size must be 8 or 28"):
        load_digits(size=size)


def test_another_dtype_is_an_error():
    with pytest.raises(TypeError, match="float32 or float64, got int64"):
        load_digits(dtype=int)


# ------------------------------------------------------------------ MNIST


def contents(rng):
    """Small files in MNIST's format, by name."""
    files = {}
    for name in MNIST:
        n = COUNTS[name.split("-")[0]]
        if "images" in name:
            data = rng.integers(0, 256, (n, 28, 28), np.uint8)
            files[name] = struct.pack(">4I", 2051, n, 28, 28) + data.tobytes()
        else:
            data = rng.integers(0, 10, n, np.uint8)
            files[name] = struct.pack(">2I", 2049, n) + data.tobytes()
    return files


def write(folder, files, zipped=False):
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(data) if zipped else data)
    return folder


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_is_read_from_its_files(tmp_path, rng, zipped, dtype):
    files = contents(rng)
    (x_train, t_train), (x_test, t_test) = load_mnist(write(tmp_path, files, zipped), dtype=dtype)
    assert x_train.shape == (7, 784)
    assert x_test.shape == (4, 784)
    assert x_train.dtype == dtype
    pixels = np.frombuffer(files[IMAGES][16:], np.uint8).reshape(7, 784)
    assert np.array_equal(x_train, (pixels / 255.0).astype(dtype))
    assert t_train.tolist() == list(files[LABELS][8:])
    assert t_test.shape == (4,)
    (_, one_hot), _ = load_mnist(str(tmp_path), one_hot=True, dtype=dtype)
    assert np.array_equal(one_hot, np.eye(10, dtype=dtype)[t_train])


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        (IMAGES, lambda d: d[:-1], "truncated or too long: it has 5503 bytes, expected 5504"),
        (IMAGES, lambda d: d + b"x", "truncated or too long"),
        (IMAGES, lambda d: d[:10], "truncated: it has 10 bytes"),
        (IMAGES, lambda d: b"", "truncated: it has 0 bytes"),
        (IMAGES, lambda d: struct.pack(">4I", 2051, 0, 28, 28), "has no images"),
        (LABELS, lambda d: d[:-3], "truncated or too long"),
        (IMAGES, lambda d: struct.pack(">I", 2049) + d[4:],
         "no IDX file of images: it begins with 2049, expected 2051"),
        (LABELS, lambda d: struct.pack(">I", 2051) + d[4:], "no IDX file of labels"),
        (IMAGES, lambda d: struct.pack(">4I", 2051, 28, 28, 7) + d[16:], "28x7 pixels, expected"),
        (LABELS, lambda d: d[:8] + b"\x0a" + d[9:], "has the label 10, expected 0 to 9"),
        (LABELS, lambda d: struct.pack(">2I", 2049, 6) + d[8:-1],
         "has 6 labels, but there are 7 images"),
        (IMAGES, lambda d: gzip.compress(d)[:-20], "damaged or truncated"),
        (IMAGES, lambda d: gzip.compress(d)[:300] + bytes(50) + gzip.compress(d)[350:],
         "damaged or truncated"),
    ],
)  # fmt: skip
def test_wrong_files_are_errors_that_name_them(tmp_path, rng, name, change, text):
    files = contents(rng)
    files[name] = change(files[name])
    with pytest.raises(ValueError, match=text) as caught:
        load_mnist(write(tmp_path, files))
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", MNIST)
def test_a_missing_file_is_an_error_that_says_where_to_get_it(tmp_path, rng, name):
    files = contents(rng)
    del files[name]
    with pytest.raises(FileNotFoundError, match="download=True") as caught:
        load_mnist(write(tmp_path, files))
    assert str(tmp_path / name) in str(caught.value)
    assert f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz" in str(caught.value)


def test_without_a_folder_it_has_to_be_downloaded():
    with pytest.raises(
        ValueError, match="expected a folder with the four files, or download=True"
    ):
        load_mnist()


@pytest.fixture
def server(tmp_path, rng, monkeypatch):
    """Serves small files in MNIST's format on the loopback address."""
    folder = write(tmp_path / "served", contents(rng), zipped=True)
    sums = {n: hashlib.sha256((folder / f"{n}.gz").read_bytes()).hexdigest() for n in MNIST}
    monkeypatch.setattr(datasets, "MNIST", sums)
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}", folder, asked
    http.shutdown()
    thread.join()
    http.server_close()


def test_mnist_is_downloaded_once_and_checked(tmp_path, server):
    url, _, asked = server
    cache = tmp_path / "cache"
    (x, t), _ = load_mnist(cache, download=True, url=url)
    assert x.shape == (7, 784)
    assert len(asked) == 4
    again = load_mnist(cache, download=True, url=f"{url}/")
    assert len(asked) == 4
    assert np.array_equal(again[0][1], t)
    assert np.array_equal(load_mnist(cache)[0][0], x)


def test_files_that_are_there_are_left_alone(tmp_path, server, rng):
    url, _, asked = server
    mine = write(tmp_path / "mine", contents(rng))
    (mine / IMAGES).unlink()
    labels = (mine / LABELS).read_bytes()
    load_mnist(mine, download=True, url=url)
    assert asked == [f"/{IMAGES}.gz"]
    assert (mine / LABELS).read_bytes() == labels


def test_a_wrong_checksum_is_an_error_and_nothing_is_kept(tmp_path, server):
    url, folder, _ = server
    (folder / f"{IMAGES}.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(ValueError, match="hash of downloaded file"):
        load_mnist(tmp_path / "cache", download=True, url=url)
    assert not (tmp_path / "cache" / f"{IMAGES}.gz").exists()


def test_the_default_folder_is_the_user_s_cache(tmp_path, server, monkeypatch):
    # Which folder that is on each system is pooch's business.
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "home" / name)
    load_mnist(download=True, url=server[0])
    assert list((tmp_path / "home").rglob(f"{LABELS}.gz"))
