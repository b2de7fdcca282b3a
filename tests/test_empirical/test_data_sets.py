"""Data sets of the user's, each written here in its true format and read back through a stream.

The oracle is one for all: images and labels as they were made, chosen by NumPy's Philox, averaged by PyTorch's pooling,
and centred and scaled by their plain mean and variance over the training half.
"""

import copy
import gzip
import hashlib
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import richscape
from empirical.data import DATA_SETS, data_set, data_stream, prepare, source
from empirical.data.files import OPENERS
from empirical.data.image_stream import open_source
from empirical.shard import TrainingConfig, _stream
from theory.errors import InputError

COUNT = {"train": 400, "test": 60}
SIDES = {"mnist": 28, "fashion-mnist": 28, "mnist-1m": 28, "cifar-10": 32, "cifar-5m": 32, "tiny-imagenet": 64}
COLOURS = {"cifar-10": 3, "cifar-5m": 3, "tiny-imagenet": 3}


def made(name, half, classes=10):
    """Random images (n, channels, side, side), darker towards one corner, and labels, each class in turn."""
    rng = np.random.default_rng([len(name), COUNT[half]])
    side, channels, n = SIDES[name], COLOURS.get(name, 1), COUNT[half]
    images = rng.integers(0, 256, (n, channels, side, side)) * np.linspace(0.2, 1, side)[:, None]
    return images.astype(np.uint8), (np.arange(n) % classes).astype(np.uint8)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_idx(folder, name, zipped):
    folder.mkdir(parents=True)
    for prefix, half in (("train", "train"), ("t10k", "test")):
        images, labels = made(name, half)
        for kind, array in (("images-idx3", images[:, 0]), ("labels-idx1", labels)):
            path = folder / f"{prefix}-{kind}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))


def write_cifar_10(root):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images, labels = made("cifar-10", "train")
    fifths = zip(np.split(images, 5), np.split(labels, 5), strict=True)
    batches = {f"data_batch_{number}": batch for number, batch in enumerate(fifths, start=1)}
    for file, (x, y) in (batches | {"test_batch": made("cifar-10", "test")}).items():
        content = {b"data": x.reshape(len(x), -1), b"labels": y.tolist(), b"batch_label": b"one of them"}
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))


def write_cifar_5m(root):
    """Two parts; of the last one a tenth is held out, so it is ten times the test half."""
    folder = root / "cifar-5m"
    folder.mkdir(parents=True)
    (x, y), (x_test, y_test) = made("cifar-5m", "train"), made("cifar-5m", "test")
    rng = np.random.default_rng(0)
    more = 9 * len(x_test) - len(x[250:])
    x = np.concatenate([x, rng.integers(0, 256, (more, *x.shape[1:]), dtype=np.uint8)])
    y = np.concatenate([y, rng.integers(0, 10, more, dtype=np.uint8)])
    for part, (images, labels) in enumerate((
        (x[:250], y[:250]),
        (np.concatenate([x[250:], x_test]), np.concatenate([y[250:], y_test])),
    )):
        rows = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        np.savez(folder / f"part{part}.npz", X=rows, Y=labels.astype(np.int64))
    return x, y


def image_bytes(pixels, kind):
    """An encoded image; lossless for ``png``."""
    file = io.BytesIO()
    Image.fromarray(pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, kind)
    return file.getvalue()


def write_mnist_1m(root):
    """Each class a zip file: its training images, then, later in the order of names, those held out."""
    folder = root / "mnist-1m"
    folder.mkdir(parents=True)
    (x, y), (x_test, y_test) = made("mnist-1m", "train"), made("mnist-1m", "test")
    for label in range(10):
        rows = [*x[y == label][:36, 0], *x_test[y_test == label][:4, 0]]
        with zipfile.ZipFile(folder / f"class_{label}_images.zip", "w") as archive:
            archive.writestr("images/", "")
            for number, pixels in enumerate(rows):
                archive.writestr(f"images/{number:05d}.png", image_bytes(pixels, "png"))
    order = [np.flatnonzero(y == label)[:36] for label in range(10)]
    held = [np.flatnonzero(y_test == label)[:4] for label in range(10)]
    return {"train": (x, y, order), "test": (x_test, y_test, held)}


def write_tiny_imagenet(root):
    """Five classes; JPEG loses detail, so what is expected is what Pillow reads back."""
    folder, classes, halves = root / "tiny-imagenet-200", [f"n0{9 - k}" for k in range(5)], {}
    for half in ("train", "test"):
        x, y = made("tiny-imagenet", half, classes=5)
        decoded, lines = [], []
        for number, (pixels, label) in enumerate(zip(x, y, strict=True)):
            grey = number == 3  # a few images of the original are grey
            content = image_bytes(pixels[0] if grey else pixels, "jpeg")
            wnid = classes[label]
            place = folder / ("val/images" if half == "test" else f"train/{wnid}/images")
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{wnid}_{number:04d}.JPEG").write_bytes(content)
            lines.append(f"{wnid}_{number:04d}.JPEG\t{wnid}\t0\t0\t62\t62")
            with Image.open(io.BytesIO(content)) as image:
                decoded.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
        if half == "test":
            (folder / "val/val_annotations.txt").write_text("\n".join(lines) + "\n")
        labels = 4 - y  # names in alphabetical order
        order = np.argsort(labels, kind="stable") if half == "train" else np.arange(len(y))
        halves[half] = np.stack(decoded)[order], labels[order]
    return halves


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A root with every data set, and what each holds: name → half → (images, labels)."""
    root = tmp_path_factory.mktemp("data")
    write_idx(root / "mnist", "mnist", zipped=False)
    write_idx(root / "FashionMNIST/raw", "fashion-mnist", zipped=True)
    write_cifar_10(root)
    holds = {n: {half: made(n, half) for half in COUNT} for n in ("mnist", "fashion-mnist", "cifar-10", "cifar-5m")}
    holds["cifar-5m"]["train"] = write_cifar_5m(root)
    ordered = write_mnist_1m(root)
    holds["mnist-1m"] = {h: (x[np.concatenate(o)], y[np.concatenate(o)]) for h, (x, y, o) in ordered.items()}
    holds["tiny-imagenet"] = write_tiny_imagenet(root)
    for name in ("mnist-1m", "tiny-imagenet"):
        assert prepare.main([name, "--root", str(root)]) == 0
    return root, holds


def pooled(images, size):
    grey = torch.from_numpy(images.astype(np.float64))
    return torch.nn.functional.avg_pool2d(grey, images.shape[-1] // size).flatten(1).numpy()


@pytest.mark.parametrize("shrink", [1, 2])
@pytest.mark.parametrize("name", OPENERS)
def test_batches_are_the_images_that_were_written(everything, name, shrink):
    root, holds = everything
    size, (images, labels) = SIDES[name] // shrink, holds[name]["train"]
    stream = data_stream(name, 32, seed=5, size=size, root=root, dtype=torch.float64)
    assert stream.example_shape == (images.shape[1], size, size)
    grey = pooled(images, size)
    mean, deviation = grey.mean(0), grey.std(0)
    scale = 1 / np.sqrt(np.mean(deviation**2))
    for step in (0, 7, 2**50):
        philox = np.random.Philox(key=np.array([5, 0], np.uint64), counter=np.array([0, 0, step, 0], np.uint64))
        index = [int((int(word) >> 11) / 2**53 * len(images)) for word in philox.random_raw(32)]
        x, y = stream(step)
        # sums of up to 1,000 grey levels, in two orders
        np.testing.assert_allclose(x.numpy(), (grey[index] - mean) * scale, rtol=0, atol=1e-12)
        assert (y.argmax(1).numpy() == labels[index]).all()
        assert (y.sum(1) == 1).all()
        assert y.shape == (32, stream.num_classes)
    x, y = stream.test_set()
    np.testing.assert_allclose(x.numpy(), (pooled(holds[name]["test"][0], size) - mean) * scale, rtol=0, atol=1e-12)
    assert (y.argmax(1).numpy() == holds[name]["test"][1]).all()


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_stream_is_a_pure_function_of_its_settings(everything, name):
    """In any order, in pieces, through a copy: the same numbers; and what the rest of the toolkit asks for is there."""
    stream = data_stream(name, 6, seed=3, root=everything[0])
    x, y = stream.batches(10, 14)
    assert x.shape == (4, 6, stream.input_dim)
    assert y.shape == (4, 6, stream.num_classes)
    assert stream.input_dim == np.prod(stream.example_shape)
    again = copy.deepcopy(stream)
    assert again == stream
    assert hash(again) == hash(stream)
    for step in (13, 11, 10, 12):
        for one, chunk in zip(again(step), (x[step - 10], y[step - 10]), strict=True):
            assert torch.equal(one, chunk)
    double = data_stream(name, 6, seed=3, root=everything[0], dtype=torch.float64)
    assert torch.equal(double(12)[0].float(), x[2])
    small = data_stream(name, 2, seed=3, root=everything[0])(12)
    assert torch.equal(small[0], x[2, :2])
    assert not torch.equal(data_stream(name, 6, seed=4, root=everything[0])(10)[0], x[0])
    x_test, y_test = stream.test_set()
    assert x_test.shape[1:] == x.shape[2:]
    assert y_test.shape == (len(x_test), stream.num_classes)
    before = x_test.clone()
    x_test.zero_()
    assert torch.equal(stream.test_set()[0], before)


def test_another_process_draws_the_same(everything):
    names = [*OPENERS, "teacher-mlp", "mnist-deformed"]
    program = (
        "import hashlib, sys\nfrom empirical.data import data_stream\nfor name in sys.argv[2:]:\n"
        "    x, y = data_stream(name, 5, 9, root=sys.argv[1])(77)\n"
        "    print(hashlib.sha256(x.numpy().tobytes() + y.numpy().tobytes()).hexdigest())\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, str(everything[0]), *names]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)

    def digest(name):
        x, y = data_stream(name, 5, 9, root=everything[0])(77)
        return hashlib.sha256(x.numpy().tobytes() + y.numpy().tobytes()).hexdigest()

    assert run.stdout.split() == [digest(name) for name in names]


def test_the_folder_is_the_argument_then_the_variable_then_data(everything, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RICHSCAPE_DATA", str(everything[0]))
    assert data_stream("mnist").root == str(everything[0])
    with pytest.raises(InputError, match="elsewhere/mnist"):
        data_stream("mnist", root="elsewhere")
    monkeypatch.delenv("RICHSCAPE_DATA")
    (tmp_path / "data").symlink_to(everything[0])
    assert torch.equal(data_stream("mnist")(3)[0], data_stream("mnist", root=everything[0])(3)[0])
    assert data_stream().root is None  # what ships depends on no folder


@pytest.mark.parametrize("name", [name for name, what in DATA_SETS.items() if what.on_disk and name != "fashion-mnist"])
def test_a_missing_set_says_where_to_get_it_and_where_to_put_it(tmp_path, name):
    if name == "fashion-mnist-full-deformed" and Path("/usr/share/datasets/fashion-mnist").exists():
        pytest.skip("this machine has the Debian package")
    with pytest.raises(InputError) as error:
        data_stream(name, root=tmp_path)
    message = str(error.value)
    assert str(tmp_path) in message
    assert "get it from" in message
    assert "\n" not in message


def test_training_takes_every_set_and_remembers_small_ones(everything):
    config = TrainingConfig(3, data="cifar-10", image_size=16, data_root=str(everything[0]), steps=50)
    assert config.spec().input_dim == 3 * 16 * 16
    remembered = _stream(config, 1)
    assert remembered(4)[0] is remembered(4)[0]
    assert torch.equal(remembered(4)[0], config.stream(1)(4)[0])
    with pytest.raises(InputError, match=r"^size = 14: must be one of 8, 16, 32"):
        TrainingConfig(3, data="cifar-10", image_size=14, data_root=str(everything[0]))
    with pytest.raises(InputError, match=r"^data = 'cifar'"):
        TrainingConfig(3, data="cifar")


def test_names_and_options(everything):
    text = Path(richscape.__file__).read_text()
    page = Path(richscape.__file__).with_name("docs") / "data.md"
    for name, what in DATA_SETS.items():
        assert name in text, "the help of --data lists it"
        assert f"`{name}" in page.read_text()
        assert data_set(name) is what
        assert bool(what.option) == (name in {"teacher-single-index", "teacher-mlp"})
        if not what.option:
            with pytest.raises(InputError, match=r"^name = "):
                data_stream(f"{name}:3", root=everything[0])


def test_large_sets_are_measured_on_a_sample(everything, monkeypatch):
    """Beyond the limit the moments come from a sample; they agree within the error of a sample of that size."""
    images = open_source("mnist", str(everything[0]))
    whole = source.normalise(images, 14)
    monkeypatch.setattr(source, "MEASURED_WHOLE", 300)
    mean, scale = source.normalise(images, 14)
    assert not np.array_equal(mean, whole[0])
    deviation = pooled(made("mnist", "train")[0], 14).std(0)
    assert (np.abs(mean - whole[0]) < 5 * deviation / 300**0.5).all()
    assert scale == pytest.approx(whole[1], rel=0.02)


# --- damage -----------------------------------------------------------------------------------------------------------


def test_constant_images_cannot_be_normalised(tmp_path):
    write_idx(tmp_path / "mnist", "mnist", zipped=False)
    flat = np.full((COUNT["train"], 28, 28), 7, np.uint8)
    (tmp_path / "mnist/train-images-idx3-ubyte").write_bytes(idx(flat))
    with pytest.raises(InputError, match="different from each other"):
        data_stream("mnist", root=tmp_path)(0)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("damage", ["missing", "short", "long", "magic", "empty", "header", "labels", "side", "class"])
def test_damaged_idx_files_are_named(tmp_path, damage, zipped):
    folder = tmp_path / "mnist"
    write_idx(folder, "mnist", zipped)
    images, labels = made("mnist", "train")
    kind = {"labels": "labels-idx1", "class": "labels-idx1"}.get(damage, "images-idx3")
    path = folder / f"train-{kind}-ubyte{'.gz' * zipped}"
    whole = idx(images[:, 0])
    content = {
        "short": whole[:-1],
        "long": whole + b"x",
        "magic": b"\0\0\x0d" + whole[3:],
        "empty": b"",
        "header": whole[:9],
        "labels": idx(labels[:-1]),
        "side": idx(images[:, 0, :27]),
        "class": idx(np.full_like(labels, 10)),
    }
    if damage == "missing":
        path = folder / f"t10k-labels-idx1-ubyte{'.gz' * zipped}"
        path.unlink()
    else:
        path.write_bytes(gzip.compress(content[damage]) if zipped else content[damage])
    with pytest.raises(InputError) as error:
        data_stream("mnist", root=tmp_path)
    assert str(folder) in str(error.value)
    assert path.name.removesuffix(".gz").split("-")[0] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [10, -10])
def test_a_cut_gzip_file_is_named(tmp_path, cut):
    write_idx(tmp_path / "mnist", "mnist", zipped=True)
    path = tmp_path / "mnist/train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=path.name):
        data_stream("mnist", root=tmp_path)
