"""Arrays larger than memory: archives are mapped where they lie, and image files are decoded once, on demand.

That nothing is read whole is tested in a process that the kernel allows less memory of its own than the file is long;
mapped pages do not count against ``RLIMIT_DATA``, anything that is read does.
"""

import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from empirical.data import data_stream, prepare
from empirical.data.npz import map_npz, sidecar, unpack
from theory.errors import InputError

GIGABYTE = 2**30


def part(seed, n=40):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), np.arange(n) % 10


@pytest.fixture
def cifar_5m(tmp_path):
    folder = tmp_path / "cifar5m"
    folder.mkdir()
    for number in range(2):
        images, labels = part(number)
        np.savez(folder / f"cifar5m_part{number}.npz", X=images, Y=labels)
    return folder


# --- archives ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_mapped_member_is_the_array(tmp_path, dtype, order):
    path = tmp_path / "a.npz"
    first, second = np.arange(24).reshape(2, 3, 4).astype(dtype), np.ones(5)
    np.savez(path, first=np.asarray(first, order=order), second=second)
    for name, array in (("first", first), ("second", second)):
        mapped = map_npz(path, name, "prepare it")
        assert np.array_equal(mapped, array)
        assert mapped.dtype == array.dtype
        assert not mapped.flags.writeable
        assert isinstance(mapped.base, np.memmap)


def test_compressed_members_are_unpacked_on_demand_only(tmp_path):
    path = tmp_path / "a.npz"
    array = np.arange(1000).reshape(10, 100)
    np.savez_compressed(path, x=array)
    with pytest.raises(InputError, match=r"run `make it` once, which writes .*a\.npz\.x\.npy"):
        map_npz(path, "x", "make it")
    assert list(tmp_path.iterdir()) == [path]
    assert unpack(path, "x") == sidecar(path, "x")
    assert np.array_equal(map_npz(path, "x", "make it"), array)
    assert sorted(tmp_path.iterdir()) == sorted([path, sidecar(path, "x")])  # no partial file is left
    np.savez(path, x=array)
    assert unpack(path, "x") is None


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated", "no member", "objects", "local header"])
def test_damaged_archives_are_named(tmp_path, damage):
    path = tmp_path / "part0.npz"
    np.savez(path, X=np.zeros(100), Y=np.array([None, "text"], dtype=object))
    whole = path.read_bytes()
    member = {"no member": "Z", "objects": "Y"}.get(damage, "X")
    contents = {"empty": b"", "text": b"hello", "truncated": whole[:-30], "local header": b"XX" + whole[2:]}
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(contents.get(damage, whole))
    with pytest.raises(InputError, match=r"part0\.npz") as error:
        map_npz(path, member, "")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_archive_that_a_download_left_incomplete_is_not_unpacked(tmp_path):
    path = tmp_path / "part0.npz"
    np.savez_compressed(path, X=np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"part0\.npz"):
        unpack(path, "X")
    assert list(tmp_path.iterdir()) == [path]


def test_cifar_5m_compressed(cifar_5m, capsys):
    before = data_stream("cifar-5m", 16, root=cifar_5m.parent)(3)[0]
    other = cifar_5m.parent / "other"
    (other / "cifar-5m").mkdir(parents=True)
    for number in range(2):
        images, labels = part(number)
        np.savez_compressed(other / "cifar-5m" / f"part{number}.npz", X=images, Y=labels)
    with pytest.raises(InputError, match=f"prepare cifar-5m --root {other}"):
        data_stream("cifar-5m", root=other)
    assert prepare.main(["cifar-5m", "--root", str(other)]) == 0
    assert capsys.readouterr().out.count("written: ") == 4
    assert (data_stream("cifar-5m", 16, root=other)(3)[0] == before).all()
    assert prepare.main(["cifar-5m", "--root", str(cifar_5m.parent)]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_parts_are_taken_by_number_and_the_last_is_held_out(cifar_5m):
    images, labels = part(9, 400)
    np.savez(cifar_5m / "cifar5m_part10.npz", X=images, Y=labels[:, None])
    (cifar_5m / "notes.txt").write_text("not a part")
    x, y = data_stream("cifar-5m", root=cifar_5m.parent).test_set()
    assert len(x) == 40  # a tenth of part 10, which is behind part 1
    assert y.argmax(1).tolist() == labels[-40:].tolist()


@pytest.mark.parametrize("wrong", ["shape", "type", "count", "labels", "fractions", "no parts"])
def test_wrong_parts_are_refused(cifar_5m, wrong):
    images, labels = part(1)
    new = {
        "shape": (images.transpose(0, 3, 1, 2), labels),
        "type": (images.astype(np.int16), labels),
        "count": (images, labels[1:]),
        "labels": (images, labels + 1),
        "fractions": (images, labels / 2),
    }
    path = cifar_5m / "cifar5m_part1.npz"
    if wrong == "no parts":
        for file in cifar_5m.iterdir():
            file.unlink()
    else:
        np.savez(path, X=new[wrong][0], Y=new[wrong][1])
    with pytest.raises(InputError, match=r"part|cifar-5m"):
        data_stream("cifar-5m", root=cifar_5m.parent)


def write_sparse_part(path, rows):
    """A part of zeros with holes in place of them, and noise in every thousandth image; its labels are all 3."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (rows, 32, 32, 3)})
    size = len(header.getvalue()) + rows * 3072
    labels = io.BytesIO()
    np.save(labels, np.full(rows, 3, np.uint8))
    directory = b""
    with path.open("wb") as file:
        for name, content, length, crc in (
            (b"X.npy", header.getvalue(), size, 0),  # the checksum of what is never read
            (b"Y.npy", labels.getvalue(), len(labels.getvalue()), zlib.crc32(labels.getvalue())),
        ):
            offset, entry = file.tell(), struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, crc, length, length, len(name), 0)
            file.write(b"PK\x03\x04" + entry + name + content)
            if name == b"X.npy":
                first = file.tell()
                for row in range(0, rows, 1000):
                    file.seek(first + 3072 * row)
                    file.write(np.random.default_rng(row).bytes(3072))
            file.seek(offset + 30 + len(name) + length)
            directory += (
                b"PK\x01\x02" + struct.pack("<H", 20) + entry + struct.pack("<HHHII", 0, 0, 0, 0, offset) + name
            )
        start = file.tell()
        file.write(directory)
        file.write(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 2, 2, len(directory), start, 0))


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA means this on Linux only")
def test_a_part_larger_than_the_memory_allowed_is_used(tmp_path):
    folder = tmp_path / "cifar-5m"
    folder.mkdir()
    write_sparse_part(folder / "part0.npz", rows=1_000_000)
    path = folder / "part0.npz"
    assert path.stat().st_size > 2.8 * GIGABYTE
    if path.stat().st_blocks * 512 > GIGABYTE:
        pytest.skip("no sparse files here")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["X.npy", "Y.npy"]  # an archive for others too
    program = (
        "import resource, sys\n"
        "import numpy as np\n"
        "from empirical.data import data_stream\n"
        "used = int(open('/proc/self/statm').read().split()[5]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (used + 600 * 2**20,) * 2)\n"
        "try:\n"
        "    np.ones(700 * 2**20, dtype=np.uint8)\n"
        "except MemoryError:\n"
        "    print('limited')\n"
        "stream = data_stream('cifar-5m', 64, root=sys.argv[1])\n"
        "for step in range(50):\n"
        "    x, y = stream(step)\n"
        "x, y = stream.test_set()\n"
        "print(len(x), int(y.argmax(1).unique()))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, str(tmp_path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["limited", "10000", "3"]


# --- MNIST-1M as one archive ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(28, 28), (784,), (28, 28, 1), (1, 28, 28)], ids=str)
def test_mnist_1m_as_an_archive(tmp_path, shape):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (50, 784), dtype=np.uint8), rng.integers(0, 10, 50)
    (tmp_path / "mnist-1m").mkdir()
    arrays = {"X_train": images[:40], "y_train": labels[:40], "X_test": images[40:], "y_test": labels[40:]}
    arrays = {key: a.reshape(-1, *shape) if key.startswith("X") else a for key, a in arrays.items()}
    np.savez(tmp_path / "mnist-1m" / "anything.npz", **arrays)
    x, y = data_stream("mnist-1m", root=tmp_path).test_set()
    mean, deviation = images[:40].mean(0), images[:40].std(0)
    np.testing.assert_allclose(x, (images[40:] - mean) / np.sqrt(np.mean(deviation**2)), atol=1e-5)  # float32
    assert y.argmax(1).tolist() == labels[40:].tolist()
    np.savez(tmp_path / "mnist-1m" / "another.npz", **arrays)
    with pytest.raises(InputError, match="single npz file"):
        data_stream("mnist-1m", size=14, root=str(tmp_path / "mnist-1m" / ".."))


# --- image files ------------------------------------------------------------------------------------------------------


def encoded(pixels, kind="png"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture
def mnist_1m(tmp_path):
    folder = tmp_path / "mnist-1m"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for label in range(10):
        with zipfile.ZipFile(folder / f"class_{label}_images.zip", "w") as archive:
            for number in range(3):
                archive.writestr(f"{number}.png", encoded(rng.integers(0, 256, (28, 28), dtype=np.uint8)))
    return folder


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        prepare.main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_preparing_is_asked_for_and_done_in_one_step(mnist_1m, capsys):
    with pytest.raises(InputError, match=r"prepare mnist-1m --root .* once, which writes .*prepared"):
        data_stream("mnist-1m", root=mnist_1m.parent)
    assert not (mnist_1m / "prepared").exists()
    prepare.main(["mnist-1m", "--root", str(mnist_1m.parent)])
    y = data_stream("mnist-1m", root=mnist_1m.parent).test_set()[1]
    assert y.argmax(1).tolist() == list(range(10))
    assert len(list(mnist_1m.iterdir())) == 11  # ten archives and one folder
    assert "prepared" in refused(["mnist-1m", "--root", str(mnist_1m.parent)], capsys)  # not written over


@pytest.mark.parametrize("damage", ["missing", "not a zip", "cut image", "not an image", "size", "too few"])
def test_damaged_image_archives_are_named(mnist_1m, damage, capsys):
    path = mnist_1m / "class_7_images.zip"
    path.unlink()
    good = encoded(np.zeros((28, 28), np.uint8))
    bad = {"cut image": good[:-20], "not an image": b"x", "size": encoded(np.zeros((28, 27), np.uint8))}
    if damage == "not a zip":
        path.write_bytes(b"x")
    elif damage != "missing":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("0.png", good)
            if damage in bad:
                archive.writestr("1.png", bad[damage])
    message = refused(["mnist-1m", "--root", str(mnist_1m.parent)], capsys)
    assert "class_7_images.zip" in message
    assert not [p for p in mnist_1m.iterdir() if p.is_dir()]  # nothing half made


@pytest.mark.parametrize("damage", ["train_images", "test_labels"])
def test_damaged_prepared_arrays_are_named(mnist_1m, damage):
    prepare.main(["mnist-1m", "--root", str(mnist_1m.parent)])
    path = mnist_1m / "prepared" / f"{damage}.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"{damage}.npy"):
        data_stream("mnist-1m", root=mnist_1m.parent)


@pytest.mark.parametrize("damage", ["annotations", "class", "image", "no images"])
def test_damaged_tiny_imagenet_is_named(tmp_path, damage, capsys):
    folder = tmp_path / "tiny-imagenet-200"
    images, held_out = folder / "train" / "n01" / "images", folder / "val" / "images"
    for place in (images, held_out):
        place.mkdir(parents=True)
        (place / "a.JPEG").write_bytes(encoded(np.full((64, 64, 3), 9, np.uint8), "jpeg"))
    annotations = Path(folder / "val" / "val_annotations.txt")
    if damage != "annotations":
        annotations.write_text(f"a.JPEG\t{'n02' if damage == 'class' else 'n01'}\t0\t0\t62\t62\n")
    if damage == "image":
        (held_out / "a.JPEG").unlink()
    if damage == "no images":
        (images / "a.JPEG").unlink()
    message = refused(["tiny-imagenet", "--root", str(tmp_path)], capsys)
    expected = {"annotations": "val_annotations.txt", "class": "n02", "image": "a.JPEG", "no images": "no train images"}
    assert expected[damage] in message
    assert not (folder / "prepared").exists()
