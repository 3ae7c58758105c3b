import gzip
import hashlib
import io
import re
import socket
import tarfile
import threading
from functools import partial

import numpy as np
import pytest
import torch
from torchvision.datasets.mnist import read_image_file, read_label_file

from densekit.classifier import Classifier
from densekit.data.archives import read_idx
from densekit.data.datasets import open_data
from densekit.data.downloads import SYSTEM_ROOT, Source, load_named, published_source
from densekit.data.preprocessing import Preprocessing
from densekit.data.settings import DataSettings
from densekit.download import download
from densekit.errors import DataError, UnknownNameError
from densekit.evaluation.own_data import OwnData, open_own_data

FASHION_FILES = [
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
]


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()


def mnist_files(train: int = 20, test: int = 10) -> dict[str, bytes]:
    random = np.random.default_rng(0)
    files = {}
    for part, count in (("train", train), ("t10k", test)):
        pictures = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(idx(pictures))
        files[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(idx(np.arange(count, dtype=np.uint8) % 10))
    return files


def cifar_archive(classes: int, label_bytes: int) -> tuple[bytes, np.ndarray, np.ndarray]:
    """An archive shaped like the published one, its pictures uint8 (6, 3, 32, 32) and its labels (6,)."""
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    labels = np.array([0, 1, 2, 3, classes - 1, 0], np.uint8)
    coarse = np.full((6, label_bytes - 1), 7, np.uint8)
    records = np.hstack([coarse, labels[:, None], pictures.reshape(6, -1)])
    names = "\n".join(f"class{i}" for i in range(classes)).encode() + b"\n\n"
    if label_bytes == 1:
        parts = {
            "data_batch_1.bin": records[:2],
            "data_batch_2.bin": records[2:4],
            "test_batch.bin": records[4:],
        }
        files = {**{name: part.tobytes() for name, part in parts.items()}, "batches.meta.txt": names}
    else:
        files = {
            "train.bin": records[:4].tobytes(),
            "test.bin": records[4:].tobytes(),
            "fine_label_names.txt": names,
        }
        files["coarse_label_names.txt"] = b"seven\n"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-binary/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue(), pictures, labels


def md5s(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.md5(content).hexdigest() for name, content in files.items()}


@pytest.fixture
def load(tmp_path, screen):
    """`load_named` that looks for files in places of this test only."""
    return partial(load_named, data_root=tmp_path / "root", system_root=tmp_path / "system", screen=screen)


def test_download_once(tmp_path, web, load):
    files = mnist_files()
    for name, content in files.items():
        (web.folder / name).write_bytes(content)
    source = Source(md5s(files), [web.url + "/"])
    arrays = load("mnist", source=source)
    assert len(web.requested) == 4
    assert arrays.classes == tuple("0123456789")
    assert arrays.train_labels.tolist() == [*range(10), *range(10)]
    np.testing.assert_array_equal(arrays.test_pictures, read_idx(web.folder / FASHION_FILES[2]))
    assert sorted(path.name for path in (tmp_path / "root/mnist").iterdir()) == sorted(files)
    load("mnist", source=source)
    assert len(web.requested) == 4  # everything was there


def test_files_in_the_system_place_are_used_and_only_others_downloaded(tmp_path, web, load):
    files = mnist_files()
    system = tmp_path / "system/fashion-mnist"
    system.mkdir(parents=True)
    for name in FASHION_FILES[:3]:
        (system / name.removesuffix(".gz")).write_bytes(gzip.decompress(files[name]))  # unpacked works too
    (web.folder / FASHION_FILES[3]).write_bytes(files[FASHION_FILES[3]])
    arrays = load("fashion-mnist", source=Source(md5s(files), [web.url]))
    assert web.requested == ["/" + FASHION_FILES[3]]
    assert arrays.classes[9] == "Ankle boot"
    assert len(arrays.train_pictures) == 20


@pytest.mark.parametrize("trouble", ["missing", "corrupt", "down"])
def test_the_next_mirror_is_tried(web, load, dead_url, trouble):
    files = mnist_files()
    (web.folder / "good").mkdir()
    for name, content in files.items():
        (web.folder / "good" / name).write_bytes(content)
        if trouble == "corrupt":
            (web.folder / name).write_bytes(content[:-1])
    first = dead_url if trouble == "down" else web.url
    arrays = load("mnist", source=Source(md5s(files), [first, f"{web.url}/good"]))
    assert len(arrays.train_pictures) == 20


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 10, "cut short: 10 of 100 bytes came"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
            "did not send a valid answer .*IncompleteRead",
        ),
        (b"220 ftp.example ready\r\n", "did not send a valid answer .*BadStatusLine"),
    ],
    ids=["length", "chunk", "no_http"],
)
def test_what_does_not_come_whole_is_not_kept(tmp_path, screen, answer, told):
    """Without a checksum, too; as OSError, after which the next mirror is tried."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(OSError, match=told):
            download(f"http://127.0.0.1:{server.getsockname()[1]}/file", tmp_path / "file", screen)
        thread.join()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("missing", "HTTP Error 404"),
        ("corrupt", "wrong checksum [0-9a-f]{32}, expected"),
        ("down", "refused"),
    ],
)
def test_failure_says_what_to_put_where(tmp_path, web, load, dead_url, trouble, reason):
    files = mnist_files()
    url = dead_url if trouble == "down" else web.url
    if trouble == "corrupt":
        (web.folder / FASHION_FILES[0]).write_bytes(b"not what it should be")
    with pytest.raises(DataError, match=reason) as caught:
        load("mnist", source=Source(md5s(files), [url]))
    message = str(caught.value)
    assert message.endswith(f"put {', '.join(FASHION_FILES)} from {url} into {tmp_path / 'root/mnist'}")
    assert message.startswith(f"cannot download mnist ({url}/{FASHION_FILES[0]}: ")
    assert "\n" not in message
    assert list((tmp_path / "root/mnist").iterdir()) == []  # no half a file is left


@pytest.mark.parametrize(("name", "classes", "label_bytes"), [("cifar10", 10, 1), ("cifar100", 100, 2)])
def test_cifar(web, load, name, classes, label_bytes):
    content, pictures, labels = cifar_archive(classes, label_bytes)
    (file,) = published_source(name).md5
    (web.folder / file).write_bytes(content)
    arrays = load(name, source=Source(md5s({file: content}), [web.url]))
    assert arrays.classes == tuple(f"class{i}" for i in range(classes))
    ours = np.concatenate([arrays.train_pictures, arrays.test_pictures])
    np.testing.assert_array_equal(ours, np.moveaxis(pictures, 1, -1))
    assert [*arrays.train_labels, *arrays.test_labels] == labels.tolist()
    assert len(arrays.train_labels) == 4


def test_open_data_uses_files_in_data_root(tmp_path, screen):
    folder = tmp_path / "cifar10"
    folder.mkdir()
    (folder / "cifar-10-binary.tar.gz").write_bytes(cifar_archive(10, 1)[0])
    data = open_data("cifar10", data_root=tmp_path, screen=screen)
    assert data.test is not None
    assert (len(data.train), len(data.test), data.channels, data.size) == (4, 2, 3, (32, 32))


def test_a_runs_own_data_is_looked_for_where_it_was(tmp_path, screen):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "cifar-10-binary.tar.gz").write_bytes(cifar_archive(10, 1)[0])
    own = OwnData(DataSettings(data="cifar10", data_root=str(tmp_path), val_fraction=0), None, None)
    classifier = Classifier(torch.nn.Identity(), tuple(f"class{i}" for i in range(10)), Preprocessing(size=(32, 32)))
    data = open_own_data(own, classifier, screen=screen)
    assert len(data.train) == 4


DAMAGED_IDX = {
    "empty": (b"", "not an idx file of bytes"),
    "other_magic": (b"\0\0\x0d\1" + b"\0" * 8, r"begins with 00000d01"),
    "too_few_values": (
        idx(np.zeros((3, 4), np.uint8))[:-1],
        r"11 bytes of data where its header \[3, 4\] means 12",
    ),
    "too_many_values": (idx(np.zeros(3, np.uint8)) + b"\0", "4 bytes of data"),
    "header_cut": (bytes([0, 0, 8, 3, 0, 0]), "damaged or unreadable"),
    "gzip_cut": (gzip.compress(idx(np.zeros(300, np.uint8)))[:-9], "damaged or unreadable"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED_IDX.values(), ids=DAMAGED_IDX)
def test_damaged_idx(tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(path)


def _place(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_sets_that_do_not_fit_together(tmp_path, load):
    files = mnist_files()
    files[FASHION_FILES[1]] = gzip.compress(idx(np.zeros(19, np.uint8)))
    _place(tmp_path / "root/mnist", files)
    with pytest.raises(DataError, match=r"pictures \(20, 28, 28\) and labels \(19,\) do not fit"):
        load("mnist")
    files[FASHION_FILES[1]] = gzip.compress(idx(np.full(20, 10, np.uint8)))
    _place(tmp_path / "root/fashion-mnist", files)
    with pytest.raises(DataError, match="label 10 where there are 10 classes"):
        load("fashion-mnist")


def test_damaged_cifar(tmp_path, load):
    content = cifar_archive(10, 1)[0]
    _place(tmp_path / "root/cifar10", {"cifar-10-binary.tar.gz": content[: len(content) // 2]})
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz: damaged or unreadable"):
        load("cifar10")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz"):
        pass
    _place(tmp_path / "root/cifar100", {"cifar-100-binary.tar.gz": out.getvalue()})
    with pytest.raises(DataError, match="not the binary version of CIFAR"):
        load("cifar100")


def test_unknown_name(load):
    with pytest.raises(UnknownNameError, match=r"'cifar-10'; did you mean: cifar10"):
        load("cifar-10")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_published_sources_are_complete(name):
    source = published_source(name)
    assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in source.md5.values())
    assert all(mirror.startswith("http") for mirror in source.mirrors)
    assert len(source.md5) == (4 if "mnist" in name else 1)


@pytest.mark.skipif(not (SYSTEM_ROOT / "fashion-mnist").is_dir(), reason="Debian's dataset-fashion-mnist is not here")
def test_fashion_mnist_of_the_system(tmp_path, screen):
    """Against torchvision's reader; both splits have as many pictures of each class as published."""
    data = open_data("fashion-mnist", data_root=tmp_path, val_fraction=0, screen=screen)
    assert data.test is not None
    assert data.train.counts(10).tolist() == [6000] * 10
    assert data.test.counts(10).tolist() == [1000] * 10
    for kind, read, ours in (
        ("images-idx3", read_image_file, "pictures"),
        ("labels-idx1", read_label_file, "labels"),
    ):
        packed = SYSTEM_ROOT / f"fashion-mnist/t10k-{kind}-ubyte.gz"
        plain = tmp_path / kind
        plain.write_bytes(gzip.decompress(packed.read_bytes()))
        torch.testing.assert_close(torch.from_numpy(getattr(data.test, ours).copy()), read(str(plain)))


def test_a_folder_that_is_called_like_a_set_is_told(tmp_path, monkeypatch, screen):
    monkeypatch.chdir(tmp_path)
    load_named("digits", screen=screen)
    (tmp_path / "digits").mkdir()
    load_named("digits", data_root=tmp_path, screen=screen)  # it is the set's own
    assert not screen.console.export_text()
    load_named("digits", screen=screen)
    assert "digits means the published data set; the folder of this name is ./digits" in screen.console.export_text()
