"""CIFAR-10's pickles are read as data, never run.

What is expected comes from NumPy and from the pickles' own contents; what is refused is written by ``pickle`` itself,
opcode by opcode where it would not write such a thing. Every hostile file would leave a mark if it were executed.
"""

import os
import pickle
import pickletools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical.data import data_stream
from empirical.data.unpickle import read_plain_pickle
from theory.errors import InputError

BATCHES = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]


def batch(seed, n=12):
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
    return {b"batch_label": b"a batch", b"labels": rng.integers(0, 10, n).tolist(), b"data": data}


def python_2_pickle(content):
    """Protocol 2 as Python 2 wrote it, and as CIFAR-10 comes: text is bytes, arrays are ``numpy.core`` ones."""

    def string(value):
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    data = content[b"data"]
    dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R(K\x03" + string(b"|") + b"NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"".join(b"M" + struct.pack("<H", n) for n in data.shape) + b"\x86"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
    array += b"(K\x01" + shape + dtype + b"\x89" + string(data.tobytes()) + b"tb"
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in content[b"labels"]) + b"e"
    out = b"\x80\x02}(" + string(b"data") + array + string(b"labels") + labels
    out += string(b"batch_label") + string(content[b"batch_label"]) + b"u."
    pickletools.dis(out, out=open(os.devnull, "w"))  # noqa: SIM115 (it is a well-formed pickle)
    return out


def write_set(folder, dump):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(BATCHES):
        (folder / name).write_bytes(dump(batch(number)))


@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("text", [False, True], ids=["bytes", "text"])
@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_gives_what_was_pickled(tmp_path, protocol, text, fortran):
    content = batch(0)
    if text:
        content = {key.decode(): value for key, value in content.items()}
    key = "data" if text else b"data"
    if fortran:
        content[key] = np.asfortranarray(content[key])
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    got = read_plain_pickle(path)
    assert np.array_equal(got["data"], content[key])
    assert got["data"].dtype == np.uint8
    assert got["labels"] == content["labels" if text else b"labels"]
    assert got["batch_label"] == b"a batch"


def test_python_2_pickles_are_read(tmp_path):
    write_set(tmp_path / "cifar-10-batches-py", python_2_pickle)
    # Python's own reader agrees that this is what was meant
    ours = read_plain_pickle(tmp_path / "cifar-10-batches-py" / "data_batch_1")
    assert np.array_equal(ours["data"], batch(0)[b"data"])
    assert ours["labels"] == batch(0)[b"labels"]
    stream = data_stream("cifar-10", 8, root=tmp_path)
    assert stream(0)[0].shape == (8, 3072)
    assert stream.test_set()[1].argmax(1).tolist() == batch(5)[b"labels"]


@pytest.mark.parametrize("dtype", ["<i4", ">i4", "<f8", ">f8", "|b1", "<u2"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_numbers_of_either_byte_order(tmp_path, dtype, protocol):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    (tmp_path / "a").write_bytes(pickle.dumps({"a": array}, protocol=protocol))
    got = read_plain_pickle(tmp_path / "a")["a"]
    assert np.array_equal(got, array)
    assert got.dtype == array.dtype


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments, state=None):
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self):
        return self.function, self.arguments, self.state


class Mark(dict):
    """A class of this file: looking it up is already too much."""


def hostile(mark):
    """Name → (pickle that leaves ``mark`` when executed, what the error names)."""
    command, code = f"touch {mark}", f"open({str(mark)!r}, 'w').close()"
    here = os.system.__module__
    objects = np.empty(1, dtype=object)
    objects[0] = Call(os.system, command)
    record = np.zeros(2, dtype=[("a", "u1"), ("b", "O")])
    things = {
        "os.system": (Call(os.system, command), f"{here}.system"),
        "eval": (Call(eval, code), ".eval"),
        "exec": (Call(exec, code), ".exec"),
        "open": (Call(open, str(mark), "w"), ".open"),
        "class": (Mark(), None),
        "object array": (objects, "object"),
        "record with objects": (record, "array"),
        "state on a function": (Call(np.dtype, "u1", state=({}, {"dtype": Call(os.system, command)})), "system"),
        "numpy.load": (Call(np.load, str(mark)), "load"),
        "set": ({1, 2}, "set"),
        "getattr": (Call(getattr, "", "join"), "getattr"),
    }
    out = {}
    for name, (thing, asked) in things.items():
        for protocol in (0, 2, 4, 5):
            try:
                out[f"{name}, protocol {protocol}"] = pickle.dumps({"data": thing, "labels": [0]}, protocol), asked
            except (TypeError, pickle.PicklingError):
                continue
    text = b"\x8c" + bytes([len(command)]) + command.encode()
    raw = {
        "stack global": (b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text + b"\x85R.", "os.system"),
        "dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x10load.__globals__\x93.", "__globals__"),
        "instance": (b"(cos\nsystem\nS'" + command.encode() + b"'\no.", "os.system"),
        "inst opcode": (b"(S'" + command.encode() + b"'\nios\nsystem\n.", "os.system"),
        "persistent": (b"\x80\x02X\x01\x00\x00\x00aQ.", "persistent"),
        "extension": (b"\x80\x02\x82\x01.", None),
        "attribute of an allowed function": (b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb.", "state"),
        "slot of an allowed function": (b"\x80\x02cnumpy\ndtype\nN}X\x09\x00\x00\x00_functionK\x01s\x86b.", "state"),
        "instance of an allowed function": (b"\x80\x02cnumpy\ndtype\n)\x81.", None),
        "an array of objects by hand": (
            b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87R.", "object"
        ),
        "array from text": (
            (b"\x80\x04cnumpy._core.numeric\n_frombuffer\n(X\x01\x00\x00\x00a"
            b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85RK\x01\x85X\x01\x00\x00\x00CtR."), "bytes"
        ),
        "encoding": (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x06\x00\x00\x00base64\x86R.", "base64"),
        "a function is all": (b"\x80\x02cnumpy\ndtype\n.", "Allowed"),
    }  # fmt: skip
    return out | raw


HOSTILE = sorted(hostile("MARK"))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_unexecuted(tmp_path, name):
    mark = tmp_path / "mark"
    content, asked = hostile(mark)[name]
    folder = tmp_path / "cifar-10-batches-py"
    write_set(folder, pickle.dumps)
    (folder / "data_batch_3").write_bytes(content)
    with pytest.raises(InputError) as error:
        data_stream("cifar-10", root=tmp_path)
    assert not mark.exists()
    assert "data_batch_3" in str(error.value)
    assert "\n" not in str(error.value)
    if asked is not None:
        assert asked in str(error.value)


def test_the_hostile_pickles_are_armed(tmp_path):
    """The mark is really made by an unguarded reader: else the test above would show nothing."""
    for name in ("os.system, protocol 2", "eval, protocol 4", "object array, protocol 5", "stack global"):
        mark = tmp_path / name.replace(" ", "")
        pickle.loads(hostile(mark)[name][0])
        assert mark.exists()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_does_worse_than_an_input_error(tmp_path_factory, data):
    whole = bytearray(pickle.dumps({b"data": np.arange(8, dtype=np.uint8), b"labels": [1, 2]}, protocol=2))
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        # opcodes with sizes would only ask for memory: change one byte to another opcode or number
        whole[data.draw(st.integers(2, len(whole) - 1))] = data.draw(st.sampled_from(b"NK)}]tbRc.0q(|\x81\x89"))
    path = tmp_path_factory.mktemp("damage") / "data_batch_1"
    path.write_bytes(bytes(whole))
    try:
        assert isinstance(read_plain_pickle(path), dict)
    except InputError as error:
        assert "data_batch_1" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "wrong",
    [
        {b"data": np.zeros((3, 3072), np.uint8)},
        {b"labels": [0, 1, 2]},
        {b"data": np.zeros((3, 3071), np.uint8), b"labels": [0, 1, 2]},
        {b"data": np.zeros((3, 3072), np.int64), b"labels": [0, 1, 2]},
        {b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1]},
        {b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1, 10]},
        {b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1, [2]]},
        {b"data": np.zeros((0, 3072), np.uint8), b"labels": []},
        [1, 2],
        None,
    ],
    ids=str,
)
def test_pickles_of_something_else_are_refused(tmp_path, wrong):
    folder = tmp_path / "cifar-10-batches-py"
    write_set(folder, pickle.dumps)
    (folder / "test_batch").write_bytes(b"" if wrong is None else pickle.dumps(wrong))
    with pytest.raises(InputError, match=r"test_batch|cifar-10"):
        data_stream("cifar-10", root=tmp_path)


def test_a_missing_batch_is_named(tmp_path):
    write_set(tmp_path / "cifar-10-batches-py", pickle.dumps)
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(InputError, match="data_batch_4"):
        data_stream("cifar-10", root=tmp_path)
