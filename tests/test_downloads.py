"""Downloads that go wrong end in one sentence, or are mended; nothing half-written stays."""

import gzip
import hashlib
import io
import logging
import os
import pickle
import shutil
import tarfile
import time

import numpy as np
import pytest
import torch
from faulty_server import WAYS, FaultyServer
from torchvision.datasets import CIFAR10, MNIST, FashionMNIST

from gencourse import data, fetch

SAYS = {
    "down": "could not be reached",
    "503": "answered 503",
    "html": "sent another file (its MD5 sum is wrong)",
    "cut": "broke off in the middle",
    "wrong": "sent another file (its MD5 sum is wrong)",
    "silent": "sent next to nothing",
    "trickle": "sent next to nothing",
    "trickling-head": "sent next to nothing",
}


def md5(content):
    return hashlib.md5(content).hexdigest()


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


@pytest.fixture
def raw():
    """Small files of MNIST's form, as they are once unpacked."""
    rng, files = np.random.default_rng(0), {}
    for split, count in (("train", 200), ("t10k", 20)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files[f"{split}-images-idx3-ubyte"] = idx(pixels)
        files[f"{split}-labels-idx1-ubyte"] = idx(rng.integers(0, 10, count, dtype=np.uint8))
    return files


@pytest.fixture
def server(raw, monkeypatch, tmp_path):
    """A server with the files packed, for a MNIST that consists of them, and an empty cache."""
    packed = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in raw.items()}
    monkeypatch.setattr(MNIST, "resources", [(name, md5(body)) for name, body in packed.items()])
    monkeypatch.setenv("GENCOURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GENCOURSE_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(fetch, "STALL_SECONDS", 0.6)
    with FaultyServer(packed) as server:
        yield server


def mirrors(monkeypatch, server, *ways):
    monkeypatch.setattr(MNIST, "mirrors", [server.mirror(way) for way in ways])


def everything(folder):
    """Every file, and every folder for unfinished ones, by its path relative to the folder."""
    paths = [p for p in folder.rglob("*") if p.is_file() or p.name.startswith("unfinished")]
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def whole(raw):
    return sorted(f"MNIST/raw/{name}" for name in raw)


def put(folder, files):
    (folder / "MNIST" / "raw").mkdir(parents=True)
    for name, content in files.items():
        (folder / "MNIST" / "raw" / name).write_bytes(content)
    return folder


def check(images, raw, split="train"):
    """The pictures and labels are those of the raw files."""
    pixels = np.frombuffer(raw[f"{split}-images-idx3-ubyte"], np.uint8, offset=16)
    labels = np.frombuffer(raw[f"{split}-labels-idx1-ubyte"], np.uint8, offset=8)
    np.testing.assert_array_equal(images.x.numpy().ravel(), pixels)
    np.testing.assert_array_equal(images.labels.numpy(), labels)


def test_a_good_mirror_is_read_once_and_kept(server, raw, monkeypatch, tmp_path):
    mirrors(monkeypatch, server, "good")
    check(data.load("mnist"), raw)
    assert everything(tmp_path / "cache") == whole(raw)
    check(data.load("mnist", split="test"), raw, "t10k")
    assert len(server.requests) == 4


@pytest.mark.parametrize("way", ["down", *WAYS])
def test_when_every_mirror_fails_one_sentence_says_so(way, server, monkeypatch, tmp_path):
    mirrors(monkeypatch, server, way, "down")
    start = time.monotonic()
    with pytest.raises(data.DataError) as caught:
        data.load("mnist")
    assert time.monotonic() - start < 4
    message = str(caught.value)
    assert f"{MNIST.mirrors[0]} {SAYS[way]}" in message
    assert f"{MNIST.mirrors[1]} could not be reached" in message
    here = tmp_path / "cache" / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    for thing_to_do in ("Try another network", f"put the file here: {here}", "use `digits`"):
        assert thing_to_do in message
    assert "\n" not in message
    assert everything(tmp_path / "cache") == []


@pytest.mark.parametrize("way", ["down", *WAYS])
def test_the_next_mirror_mends_it(way, server, raw, monkeypatch, tmp_path):
    mirrors(monkeypatch, server, way, "good")
    check(data.load("mnist"), raw)
    assert everything(tmp_path / "cache") == whole(raw)
    failed = [name for asked, name in server.requests if asked == way]
    assert len(failed) == (way != "down"), "a mirror that failed was asked again"


def test_a_slow_mirror_is_waited_for(server, raw, monkeypatch):
    monkeypatch.setattr(fetch, "STALL_BYTES", 10_000)
    mirrors(monkeypatch, server, "slow")
    start = time.monotonic()
    check(data.load("mnist"), raw)
    assert time.monotonic() - start > fetch.STALL_SECONDS


def test_the_real_mirrors_give_up_within_a_minute():
    for dataset in (MNIST, FashionMNIST):
        assert len(dataset.mirrors) * fetch.STALL_SECONDS < 60
    assert CIFAR10.url.endswith(CIFAR10.filename)


def test_what_is_half_there_is_continued(server, raw, monkeypatch, tmp_path):
    mirrors(monkeypatch, server, "good")
    missing = "t10k-labels-idx1-ubyte"
    put(tmp_path / "cache", {name: body for name, body in raw.items() if name != missing})
    check(data.load("mnist"), raw)
    assert server.requests == [("good", f"{missing}.gz")]


@pytest.mark.parametrize("damage", ["truncated", "longer", "empty", "html"])
def test_a_damaged_file_in_the_cache_is_mended(damage, server, raw, monkeypatch, tmp_path):
    mirrors(monkeypatch, server, "good")
    name = "train-images-idx3-ubyte"
    changed = {
        "truncated": raw[name][:-1],
        "longer": raw[name] + b"\0",
        "empty": b"",
        "html": b"<html>" * 100,
    }[damage]
    put(tmp_path / "cache", raw | {name: changed})
    check(data.load("mnist"), raw)
    assert server.requests == [("good", f"{name}.gz")]
    assert everything(tmp_path / "cache") == whole(raw)


def test_a_damaged_file_in_the_cache_stays_when_nothing_better_can_be_had(
    server, raw, monkeypatch, tmp_path
):
    mirrors(monkeypatch, server, "cut")
    name = "train-labels-idx1-ubyte"
    put(tmp_path / "cache", raw | {name: raw[name][:-5]})
    with pytest.raises(data.DataError, match=f"{name}.gz is not in"):
        data.load("mnist")
    assert everything(tmp_path / "cache") == whole(raw)


def test_a_damaged_file_of_the_readers_is_named_and_left_alone(
    server, raw, monkeypatch, tmp_path, caplog
):
    mirrors(monkeypatch, server, "good")
    name = "train-images-idx3-ubyte"
    mine = put(tmp_path / "mine", raw | {name: raw[name][:1_000]})
    monkeypatch.setenv("GENCOURSE_DATA", str(mine))
    with caplog.at_level(logging.WARNING):
        check(data.load("mnist"), raw)
    assert (mine / "MNIST" / "raw" / name).read_bytes() == raw[name][:1_000]
    assert everything(mine) == whole(raw)
    assert everything(tmp_path / "cache") == whole(raw)
    (record,) = caplog.records
    told = record.getMessage()
    assert str(mine / "MNIST" / "raw" / name) in told
    assert f"1,000 bytes instead of {len(raw[name]):,}" in told


def test_whole_files_of_the_readers_are_read_where_they_are(server, raw, monkeypatch, tmp_path):
    mirrors(monkeypatch, server, "good")
    monkeypatch.setenv("GENCOURSE_DATA", str(put(tmp_path / "mine", raw)))
    check(data.load("mnist"), raw)
    assert server.requests == []
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("where", ["mine", "cache"])
def test_packed_files_put_there_by_hand_are_taken(where, server, raw, monkeypatch, tmp_path):
    mirrors(monkeypatch, server, "down")
    monkeypatch.setenv("GENCOURSE_DATA", str(tmp_path / "mine"))
    put(tmp_path / where, server.files)
    before = everything(tmp_path / "mine")
    check(data.load("mnist"), raw)
    assert everything(tmp_path / "mine") == before, "$GENCOURSE_DATA was written to"


def test_a_packed_file_that_is_damaged_is_named(server, monkeypatch, tmp_path):
    mirrors(monkeypatch, server, "down")
    name = "train-images-idx3-ubyte.gz"
    put(tmp_path / "cache", {name: server.files[name][:-10]})
    with pytest.raises(data.DataError, match=f"{name} has a wrong MD5 sum"):
        data.load("mnist")


def test_a_folder_that_is_not_there_is_said(server, raw, monkeypatch, tmp_path, caplog):
    mirrors(monkeypatch, server, "good")
    monkeypatch.setenv("GENCOURSE_DATA", str(tmp_path / "nowhere"))
    check(data.load("mnist"), raw)
    assert f"there is no folder {tmp_path / 'nowhere'}" in caplog.text


def test_a_full_disk_is_one_sentence(server, monkeypatch, tmp_path):
    def full(source, target):
        target.write(b"half")
        raise OSError(28, "No space left on device")

    mirrors(monkeypatch, server, "good")
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(data.DataError, match="No space left on device. Make room"):
        data.load("mnist")
    assert everything(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written_is_one_sentence(server, monkeypatch, tmp_path):
    mirrors(monkeypatch, server, "good")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(data.DataError, match="can't be kept in .* GENCOURSE_CACHE"):
        data.load("mnist")


def test_what_a_killed_process_left_is_swept_after_a_day(server, raw, monkeypatch, tmp_path):
    mirrors(monkeypatch, server, "good")
    for name, hours in (("unfinished-old", 25), ("unfinished-at-work", 1)):
        (tmp_path / "cache" / name).mkdir(parents=True)
        (tmp_path / "cache" / name / "half").write_text("half")
        then = time.time() - hours * 3600
        os.utime(tmp_path / "cache" / name, (then, then))
    data.load("mnist")
    left = {path.name for path in (tmp_path / "cache").iterdir()}
    assert left == {"MNIST", "unfinished-at-work"}


@pytest.fixture
def cifar(server, monkeypatch):
    """A CIFAR-10 with ten pictures per batch, on the server; returns the pixels and labels."""
    rng, parts = np.random.default_rng(0), {}
    x = rng.integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, 60).tolist()
    names = [name for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]]
    for i, name in enumerate(names):
        rows = slice(10 * i, 10 * i + 10)
        entry = {"data": x[rows].reshape(10, -1), "labels": labels[rows]}
        parts[name] = pickle.dumps(entry)
    parts["batches.meta"] = pickle.dumps({"label_names": [f"class {i}" for i in range(10)]})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in parts.items():
            member = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    server.files[CIFAR10.filename] = buffer.getvalue()
    listed = [[name, md5(parts[name])] for name in names]
    monkeypatch.setattr(CIFAR10, "train_list", listed[:5])
    monkeypatch.setattr(CIFAR10, "test_list", listed[5:])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5(parts["batches.meta"])})
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(buffer.getvalue()))
    monkeypatch.setattr(CIFAR10, "url", server.mirror("good") + CIFAR10.filename)
    return torch.from_numpy(x), torch.tensor(labels)


def test_cifar10_is_fetched_and_mended(cifar, server, tmp_path):
    x, labels = cifar
    train, test = data.load("cifar10"), data.load("cifar10", split="test")
    assert torch.equal(train.x, x[:50]) and torch.equal(train.labels, labels[:50])
    assert torch.equal(test.x, x[50:]) and torch.equal(test.labels, labels[50:])
    assert train.classes[3] == "class 3"
    assert len(server.requests) == 1
    whole = everything(tmp_path / "cache")
    assert len(whole) == 7 and CIFAR10.filename not in whole

    damaged = tmp_path / "cache" / CIFAR10.base_folder / "data_batch_2"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert torch.equal(data.load("cifar10").x, x[:50])
    assert len(server.requests) == 2
    assert everything(tmp_path / "cache") == whole


def test_cifar10_that_cannot_be_had_is_one_sentence(cifar, server, monkeypatch, tmp_path):
    monkeypatch.setattr(CIFAR10, "url", server.mirror("cut") + CIFAR10.filename)
    with pytest.raises(data.DataError, match="CIFAR10 can't be had.*broke off.*use `digits`"):
        data.load("cifar10")
    assert everything(tmp_path / "cache") == []
