"""The images that ship, the script that makes them, and what is said when the file is damaged."""

import gzip
import hashlib

import numpy as np
import pytest

from empirical.data import data_stream, fashion_mnist, images
from empirical.data.fashion_mnist import make_subset
from theory.errors import InputError

NAME = "fashion-mnist-deformed"


@pytest.fixture(scope="module")
def image_set():
    return images.IMAGE_SETS[NAME](None)


def test_the_file_is_the_one_that_make_subset_made(image_set):
    assert hashlib.sha256(fashion_mnist.FILE.read_bytes()).hexdigest() == fashion_mnist.SHA256
    assert fashion_mnist.FILE.stat().st_size < 4 * 2**20
    assert fashion_mnist.FILE.with_name("LICENSE").read_text().startswith("The MIT License (MIT)\n\nCopyright (c) 2017")
    assert np.bincount(image_set.train_labels).tolist() == [make_subset.TRAIN_PER_CLASS] * 10
    assert np.bincount(image_set.test_labels).tolist() == [make_subset.TEST_PER_CLASS] * 10
    assert image_set.train_images.shape == (5000, 28, 28)
    assert image_set.test_images.shape == (1000, 28, 28)


def test_no_image_is_in_both_halves(image_set):
    train = {image.tobytes() for image in image_set.train_images}
    assert not any(image.tobytes() in train for image in image_set.test_images)


def test_packing_the_shipped_arrays_gives_arrays_back(image_set, tmp_path):
    arrays = {key: getattr(image_set, key) for key in ("train_images", "train_labels", "test_images", "test_labels")}
    path = tmp_path / "again.npz"
    path.write_bytes(make_subset.pack(arrays))
    again = images.read_image_set(path, hashlib.sha256(path.read_bytes()).hexdigest(), 10)
    for key, array in arrays.items():
        assert np.array_equal(getattr(again, key), array)
        with pytest.raises(ValueError, match="read-only"):
            getattr(again, key)[0] = 0


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def idx_folder(tmp_path):
    rng = np.random.default_rng(0)
    for prefix, n in (("train", 6000), ("t10k", 1500)):
        labels = rng.permutation(np.arange(n) % 10).astype(np.uint8)
        made = np.zeros((n, 28, 28), np.uint8)
        made[:, 0, 0], made[:, 0, 1], made[:, 0, 2] = labels, np.arange(n) // 256, np.arange(n) % 256
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", made)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return tmp_path


def test_make_subset_is_reproducible_and_balanced(idx_folder, capsys):
    outputs = [idx_folder / "a.npz", idx_folder / "b.npz"]
    for out in outputs:
        assert make_subset.main([str(idx_folder), str(out)]) == 1  # another source, so not the file that ships
    assert "NOT the file that ships" in capsys.readouterr().out
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    with np.load(outputs[0], allow_pickle=False) as made:
        for part, per_class in (("train", 500), ("test", 100)):
            chosen, labels = made[f"{part}_images"], made[f"{part}_labels"]
            assert np.bincount(labels).tolist() == [per_class] * 10
            assert (chosen[:, 0, 0] == labels).all()
            number = chosen[:, 0, 1].astype(int) * 256 + chosen[:, 0, 2]
            assert (np.diff(number) > 0).all()  # the original order, and none twice


@pytest.mark.parametrize("damage", ["missing", "not gzip", "wrong type", "short", "too few"])
def test_make_subset_refuses_other_files(idx_folder, damage, capsys):
    path = idx_folder / "train-labels-idx1-ubyte.gz"
    content = gzip.decompress(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({
            "not gzip": content,
            "wrong type": gzip.compress(b"\0\0\x09" + content[3:]),
            "short": gzip.compress(content[:-1]),
            "too few": gzip.compress(content[:8] + bytes(6000)),  # all of class 0
        }[damage])  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        make_subset.main([str(idx_folder), str(idx_folder / "out.npz")])
    assert stop.value.code == 2
    assert ("images of class 1 = 0" if damage == "too few" else path.name) in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["missing", "truncated", "one bit", "empty"])
def test_a_damaged_file_is_named(tmp_path, monkeypatch, damage):
    path = tmp_path / fashion_mnist.FILE.name
    content = bytearray(fashion_mnist.FILE.read_bytes())
    content[1000] ^= 1
    whole = fashion_mnist.FILE.read_bytes()
    if damage != "missing":
        path.write_bytes({"truncated": whole[:-100], "one bit": bytes(content), "empty": b""}[damage])
    monkeypatch.setattr(fashion_mnist, "FILE", path)
    monkeypatch.setitem(images.IMAGE_SETS, NAME, images._fashion_mnist.__wrapped__)
    with pytest.raises(InputError, match=f"data file = '{path.name}'") as error:
        data_stream()
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.npz"
    objects = np.array([None, {}], dtype=object)
    np.savez(path, train_images=objects, train_labels=objects, test_images=objects, test_labels=objects)
    for content in (path.read_bytes(), b"not an archive"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"data file = 'other.npz'"):  # never unpickled
            images.read_image_set(path, hashlib.sha256(content).hexdigest(), 10)
