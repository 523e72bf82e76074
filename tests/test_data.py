"""Pictures, batches, shapes and folders; downloads have a file of their own."""

import logging
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from gencourse import data, shapes
from gencourse.runtime import UserError


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GENCOURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GENCOURSE_DATA", raising=False)


# Batches


def numbered(count, seed=0):
    """Pictures whose pixels are their own number."""
    x = torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return data.Images(x, torch.arange(count), ["a"], "numbered", device="cpu", seed=seed)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 17, 45])
def test_each_epoch_uses_every_picture_once(batch_size):
    images, epochs = numbered(17), 5
    steps = math.ceil(17 * epochs / batch_size)
    parts = [images.indices(step, batch_size) for step in range(steps)]
    assert all(len(part) == batch_size for part in parts)
    whole = torch.cat(parts)[: 17 * epochs].reshape(epochs, 17)
    assert torch.equal(whole.sort(dim=1).values, torch.arange(17).expand(epochs, 17))
    assert len({tuple(row.tolist()) for row in whole}) == epochs, "two epochs in the same order"


def test_a_batch_is_a_pure_function_of_the_step():
    images = numbered(50)
    forwards = [images.indices(step, 7) for step in range(40)]
    for step in (39, 0, 21, 38, 3, 3):
        assert torch.equal(images.indices(step, 7), forwards[step])
        assert torch.equal(numbered(50).indices(step, 7), forwards[step])
    torch.manual_seed(1)
    assert torch.equal(numbered(50).indices(2, 7), forwards[2])
    before = torch.get_rng_state()
    numbered(50).batch(0, 7)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"


def test_seed_and_epoch_do_not_stand_in_for_each_other():
    orders = {
        tuple(numbered(20, seed).indices(epoch, 20).tolist())
        for seed in (-1, 0, 1, 2, 2**40)
        for epoch in range(4)
    }
    assert len(orders) == 20


def test_the_order_is_the_same_everywhere():
    """A run that moves to another machine continues with the same batches."""
    first, second = [7, 4, 8, 6, 3, 5, 0, 1, 9, 2], [6, 9, 4, 5, 7, 1, 2, 8, 3, 0]
    assert numbered(10).indices(0, 20).tolist() == first + second


def test_batches_are_the_pictures_in_minus_one_to_one():
    images = numbered(256)
    indices, batch = images.indices(5, 32), images.batch(5, 32)
    assert batch.shape == (32, 1, 2, 2) and batch.dtype == torch.float32
    torch.testing.assert_close(batch[:, 0, 0, 0], indices / 255 * 2 - 1)
    assert images.images([0, 255]).flatten(1).unique().tolist() == [-1.0, 1.0]
    assert torch.equal(images.images(indices), batch)


def test_pictures_that_are_too_many_for_the_device_stay_in_memory(monkeypatch):
    x, labels = torch.zeros(8, 1, 4, 4, dtype=torch.uint8), torch.arange(8)
    for limit, home in ((8 * 16, "meta"), (8 * 16 - 1, "cpu")):
        monkeypatch.setattr(data, "ON_DEVICE_BYTES", limit)
        images = data.Images(x, labels, ["a"], "many", device="meta")
        assert images.x.device.type == images.labels.device.type == home
        assert images.indices(0, 3).device.type == home and images.device.type == "meta"


@pytest.mark.parametrize(("step", "batch_size"), [(-1, 4), (0, 0), (3, -2)])
def test_impossible_batches(step, batch_size):
    with pytest.raises(ValueError, match=f"no batch {step} of size {batch_size}"):
        numbered(10).indices(step, batch_size)


# Names, splits and sizes


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mnsit", "Did you mean 'mnist'"),
        ("Fashion-MNIST", "Did you mean 'fashion_mnist'"),
        ("qqq", "Choose one of digits, shapes, mnist, fashion_mnist, cifar10, or folder:PATH"),
        ("folder:", "There is no folder"),
        ("folder:nowhere/at/all", "There is no folder 'nowhere/at/all'"),
        (r"folder:C:\my pictures", r"There is no folder 'C:\\\\my pictures'"),
    ],
)
def test_bad_names(name, says):
    with pytest.raises(data.DataError, match=says):
        data.load(name)


def test_a_folder_without_the_prefix_is_recognised(tmp_path):
    with pytest.raises(UserError, match="write 'folder:"):
        data.load(str(tmp_path))


@pytest.mark.parametrize(
    "wrong",
    [{"split": "valid"}, {"size": 0}, {"size": -3}, {"size": 2.5}, {"size": True}, {"colour": 1}],
)
def test_senseless_arguments(wrong):
    with pytest.raises(data.DataError, match=next(iter(wrong))):
        data.load("digits", **wrong)


def test_the_module_is_light():
    """What is needed for some data only is imported where it is used."""
    code = "import sys, gencourse.data; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torchvision", "sklearn", "PIL", "pooch", "requests"} & set(loaded)


# Digits


def test_digits_are_scikit_learns_scans():
    scans = load_digits()
    train, test = data.load("digits", size=8), data.load("digits", "test", size=8)
    assert (len(train), len(test)) == (1_500, 297)
    x = torch.cat([train.x, test.x])[:, 0].double() * 16 / 255
    np.testing.assert_allclose(x, scans.images, atol=0.04)
    assert torch.cat([train.labels, test.labels]).tolist() == scans.target.tolist()
    assert train.classes == [str(digit) for digit in range(10)]


@pytest.mark.parametrize(("size", "shape"), [(None, 16), (16, 16), (28, 28), (5, 5)])
def test_sizes_keep_the_brightness(size, shape):
    images = data.load("digits", size=size)
    assert images.shape == (1, shape, shape) and images.x.dtype == torch.uint8
    small = data.load("digits", size=8)
    means = [i.x.double().mean((1, 2, 3)) for i in (images, small)]
    assert (means[0] - means[1]).abs().mean() < 3, "resizing changed the pictures' mean"


def test_28_to_32_is_padding():
    x = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    padded = data._resize(x, 32)
    assert torch.equal(padded[..., 2:-2, 2:-2], x)
    assert padded.sum() == x.sum()


# Shapes


def test_pictures_depend_on_their_number_alone():
    x, factors, captions = shapes.render(0, 60, pixels=16)
    y, others, words = shapes.render(37, 52, pixels=16)
    assert torch.equal(x[37:52], y) and captions[37:52] == words
    assert all(torch.equal(factors[name][37:52], others[name]) for name in factors)
    assert not torch.equal(shapes.render(0, 60, pixels=16, seed=1)[0], x)
    chunked = shapes.render(0, 2 * shapes.CHUNK + 5, pixels=8)[0]
    assert torch.equal(chunked[-10:], shapes.render(len(chunked) - 10, len(chunked), pixels=8)[0])


def test_factors_are_uniform_and_independent():
    factors = shapes.factors(0, 20_000, rotate=True)
    for name, count in (("shape", len(shapes.SHAPES)), ("colour", len(shapes.COLOURS))):
        share = factors[name].bincount(minlength=count) / 20_000
        assert len(share) == count
        torch.testing.assert_close(share, torch.full((count,), 1 / count), atol=0.015, rtol=0)
    limits = {"size": shapes.SIZE, "x": shapes.PLACE, "y": shapes.PLACE, "angle": (0, 360)}
    for name, (low, high) in limits.items():
        unit = (factors[name] - low) / (high - low)
        assert 0 <= unit.min() < 0.01 and 0.99 < unit.max() <= 1
        assert unit.mean().item() == pytest.approx(0.5, abs=0.01)
    table = torch.stack([value.double() for value in factors.values()])
    assert (table.corrcoef() - torch.eye(len(table))).abs().max() < 0.03
    assert shapes.factors(0, 10)["angle"].eq(0).all()


@pytest.mark.parametrize("pixels", [16, 32, 64])
@pytest.mark.parametrize("rotate", [False, True])
def test_the_pixels_show_the_factors(pixels, rotate):
    x, factors, captions = shapes.render(100, 500, pixels=pixels, rotate=rotate)
    assert x.shape == (400, 3, pixels, pixels) and x.dtype == torch.uint8
    colours = torch.tensor(list(shapes.COLOURS.values()))[factors["colour"]]
    # Where the shape covers a pixel, it has the colour; elsewhere it is black.
    weight = x.double().sum(1) / colours.sum(1)[:, None, None]  # (N, H, W), 0 to 1
    expected = weight[:, None] * colours[:, :, None, None]
    assert (x.double() - expected).abs().max() < 1.5
    assert weight.amax((1, 2)).min() > (0.8 if pixels == 16 else 0.98)  # a thin cross
    # The centre of mass is the place, the mass is the area: nothing is cut off either.
    mass = weight.sum((1, 2))
    centres = (torch.arange(pixels) + 0.5) / pixels
    found_x = (weight.sum(1) * centres).sum(1) / mass
    found_y = (weight.sum(2) * centres).sum(1) / mass
    assert (found_x - factors["x"]).abs().max() < 0.3 / pixels
    assert (found_y - factors["y"]).abs().max() < 0.3 / pixels
    cross = 4 * 0.33 * (2 * 0.95 - 0.33)
    areas = torch.tensor([math.pi, 1.6**2, 3 * math.sqrt(3) * 0.56**2, cross])
    area = areas[factors["shape"]] * factors["size"] ** 2 * pixels**2
    assert (mass / area - 1).abs().max() < (0.12 if pixels == 16 else 0.06)


def test_the_angle_turns_anticlockwise():
    up, left, down = (
        shapes.draw("triangle", (255, 255, 255), 0.3, 0.5, 0.5, angle, pixels=64)[0, 0].double()
        for angle in (0, 90, 180)
    )
    assert torch.allclose(up.rot90(1), left, atol=2)
    assert torch.allclose(up.rot90(2), down, atol=2)
    assert up[20:24].sum() < up[36:40].sum(), "the tip of an upright triangle is at the top"
    assert torch.equal(up, up.flip(1))


def test_edges_are_smooth_and_the_size_is_free():
    disc = shapes.draw("circle", (255, 0, 0), 0.3, 0.5, 0.5, pixels=48)
    assert disc.shape == (1, 3, 48, 48) and disc[:, 1:].sum() == 0
    assert ((disc > 0) & (disc < 255)).sum() > 60
    assert disc[0, 0].sum().item() / 255 == pytest.approx(math.pi * (0.3 * 48) ** 2, rel=0.005)
    with pytest.raises(ValueError, match="no shape 'blob'"):
        shapes.draw("blob", (1, 1, 1), 0.3, 0.5, 0.5)


def test_captions_tell_the_factors():
    factors = shapes.factors(0, 2_000)
    for i, caption in enumerate(shapes.captions(factors)):
        what, _, where = caption.partition(", ")
        _, extent, colour, shape = what.split()
        assert shape == shapes.SHAPES[factors["shape"][i]]
        assert colour == list(shapes.COLOURS)[factors["colour"][i]]
        assert ("top" in where, "bottom" in where) == thirds(factors["y"][i], shapes.PLACE)
        assert ("left" in where, "right" in where) == thirds(factors["x"][i], shapes.PLACE)
        assert (extent == "small", extent == "large") == thirds(factors["size"][i], shapes.SIZE)
        assert where and where == where.strip()


def thirds(value, limits):
    """Whether the value is in the lower third of the limits, and whether in the upper."""
    edges = np.linspace(*limits, 4)
    return bool(value < edges[1] - 1e-6), bool(value > edges[2] + 1e-6)


def test_shapes_load_as_images():
    train, test = (data.load("shapes", split, count=300) for split in ("train", "test"))
    assert len(data.load("shapes", "test")) == 2_000 and train.shape == (3, 32, 32)
    assert len(train.captions) == len(train) == 300
    assert torch.equal(train.labels, train.factors["shape"])
    assert train.classes == list(shapes.SHAPES)
    assert not torch.equal(train.x, test.x)
    assert torch.equal(train.x, data.load("shapes", count=300, seed=5).x), "seed is for batches"
    assert data.load("shapes", size=64, count=2, rotate=True).factors["angle"].gt(0).all()


# A folder of pictures


def save(path, colour=(200, 30, 90), size=(40, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def test_classes_are_the_subfolders(tmp_path):
    pictures = tmp_path / "pics"
    save(pictures / "red" / "a.png", (255, 0, 0))
    save(pictures / "red" / "deep" / "er" / "b.bmp", (255, 0, 0))
    save(pictures / "blue" / "c.PNG", (0, 0, 255))
    (pictures / "red" / "notes.txt").write_text("no picture")
    save(pictures / ".hidden" / "d.png")
    save(pictures / "blue" / "._c.png")
    images = data.load(f"folder:{pictures}")
    assert images.classes == ["blue", "red"] and images.labels.tolist() == [0, 1, 1]
    assert images.shape == (3, 64, 64) and images.x.dtype == torch.uint8
    assert images.x.amax((2, 3)).tolist() == [[0, 0, 255], [255, 0, 0], [255, 0, 0]]
    with pytest.raises(data.DataError, match="no test pictures.*train and test"):
        data.load(f"folder:{pictures}", split="test")


def test_loose_pictures_are_one_class(tmp_path):
    save(tmp_path / "pics" / "a.png")
    save(tmp_path / "pics" / "b.png")
    images = data.load(f"folder:{tmp_path / 'pics'}", size=8)
    assert images.classes == ["pics"] and images.labels.tolist() == [0, 0]


def test_train_and_test_subfolders_are_splits_with_the_same_labels(tmp_path):
    for path in ("train/cat/1.png", "train/dog/1.png", "train/dog/2.png", "test/dog/1.png"):
        save(tmp_path / "pics" / path)
    name = f"folder:{tmp_path / 'pics'}"
    train, test = data.load(name), data.load(name, "test")
    assert train.classes == test.classes == ["cat", "dog"]
    assert train.labels.tolist() == [0, 1, 1] and test.labels.tolist() == [1]


def test_a_relative_path_and_the_home_folder(tmp_path, monkeypatch):
    save(tmp_path / "pics" / "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert len(data.load("folder:pics")) == len(data.load("folder:~/pics")) == 1


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "ppm"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_formats(suffix, mode, tmp_path):
    save(tmp_path / "pics" / f"a.{suffix}", 200 if mode == "L" else (200, 30, 90), mode=mode)
    x = data.load(f"folder:{tmp_path / 'pics'}", size=16).x.double()
    expected = torch.tensor([200, 200, 200] if mode == "L" else [200, 30, 90]).double()
    assert (x - expected.reshape(1, 3, 1, 1)).abs().max() < 8


def test_unusual_pictures_come_out_as_they_look(tmp_path):
    pictures = tmp_path / "pics"
    save(pictures / "1.png", (200, 30, 90, 0), mode="RGBA")  # wholly transparent: white
    save(pictures / "2.png", (200, 30, 90, 255), mode="RGBA")
    wide = np.linspace(0, 65_535, 32)[None].repeat(32, 0).astype(np.uint16)  # 16 bits
    Image.fromarray(wide).save(pictures / "3.png")
    save(pictures / "4.jpg", (0, 255, 255, 0), mode="CMYK")
    save(pictures / "5.gif", 0, mode="P", transparency=0)
    x = data.load(f"folder:{pictures}", size=32).x.int()
    assert x[0].min() == 255
    assert x[1, :, 0, 0].tolist() == [200, 30, 90]
    assert (x[2, 0, 0] - torch.linspace(0, 255, 32)).abs().max() <= 1.5
    assert x[3, 0].min() > 200 and x[3, 1:].max() < 60
    assert x[4].min() == 255


def test_the_square_in_the_middle_is_shown_upright(tmp_path):
    band = np.zeros((20, 60, 3), np.uint8)
    band[:, :20, 0] = band[:, 20:40, 1] = band[:, 40:, 2] = 255  # red, green, blue
    band[:10, 20:40] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the right way up is a quarter turn clockwise
    for name, options in (("1.png", {}), ("2.png", {"exif": exif})):
        (tmp_path / "pics").mkdir(exist_ok=True)
        Image.fromarray(band).save(tmp_path / "pics" / name, **options)
    x = data.load(f"folder:{tmp_path / 'pics'}", size=20).x
    middle = torch.from_numpy(band[:, 20:40].copy()).permute(2, 0, 1)
    assert torch.equal(x[0], middle)
    assert torch.equal(x[1], middle.rot90(-1, (1, 2)))


def test_grey_on_request(tmp_path):
    save(tmp_path / "pics" / "a.png", (255, 255, 255))
    images = data.load(f"folder:{tmp_path / 'pics'}", size=8, channels=1)
    assert images.shape == (1, 8, 8) and images.x.min() == 255
    with pytest.raises(data.DataError, match="3 channels, or 1"):
        data.load(f"folder:{tmp_path / 'pics'}", channels=4)


def test_broken_pictures_are_counted_and_left_out(tmp_path, caplog):
    pictures = tmp_path / "pics"
    for i in range(6):
        save(pictures / "ab"[i % 2] / f"{i}.jpg", (40 * i, 0, 0), size=(300, 300))
    cut = (pictures / "a" / "2.jpg").read_bytes()
    (pictures / "a" / "2.jpg").write_bytes(cut[: len(cut) // 2])
    (pictures / "b" / "3.jpg").write_text("<html>")
    (pictures / "b" / "5.jpg").write_bytes(b"")
    for _ in range(2):  # decoded, then from the cache
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            images = data.load(f"folder:{pictures}", size=8)
        (record,) = caplog.records
        expected = os.path.join("a", "2.jpg")
        assert "3 of 6 pictures" in record.getMessage() and expected in record.getMessage()
        assert images.labels.tolist() == [0, 0, 1]
        assert (images.x[:, 0, 0, 0].int() - torch.tensor([0, 160, 40])).abs().max() < 4


def test_folders_without_a_readable_picture(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(data.DataError, match="holds no pictures: files that end in .jpg"):
        data.load(f"folder:{tmp_path / 'empty'}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_text("no")
    with pytest.raises(data.DataError, match="None of the 1 pictures"):
        data.load(f"folder:{tmp_path / 'broken'}")
    assert list((tmp_path / "cache" / "folders").iterdir()) == []


def test_the_cache_is_used_until_the_folder_changes(tmp_path, monkeypatch):
    pictures, cache = tmp_path / "pics", tmp_path / "cache" / "folders"
    first, decoded = save(pictures / "a.png", (10, 10, 10)), []
    save(pictures / "b.png", (20, 20, 20))
    read = data._read_picture
    monkeypatch.setattr(data, "_read_picture", lambda p, *rest: decoded.append(p) or read(p, *rest))

    def load(**options):
        decoded.clear()
        x = data.load(f"folder:{pictures}", **{"size": 8} | options).x
        return x[:, 0, 0, 0].tolist(), len(decoded)

    assert load() == ([10, 20], 2)
    assert load() == ([10, 20], 0)
    assert load(size=4) == ([10, 20], 2), "another size is another cache"
    assert load() == ([10, 20], 0)
    assert len(list(cache.iterdir())) == 2

    save(first, (30, 30, 30))
    os.utime(first, ns=(1, 1))  # same name, same length, another time
    assert load() == ([30, 20], 2)
    save(pictures / "c.png", (40, 40, 40))
    assert load() == ([30, 20, 40], 3)
    first.unlink()
    assert load() == ([20, 40], 2)
    assert len(list(cache.iterdir())) == 2, "the caches of earlier states were kept"

    (pixels,) = [p for p in cache.glob("*/pixels") if p.stat().st_size == 2 * 3 * 64]
    pixels.write_bytes(pixels.read_bytes()[:-1])
    assert load() == ([20, 40], 2), "a truncated cache was believed"
    assert load() == ([20, 40], 0)


def test_writing_to_the_pictures_does_not_change_the_cache(tmp_path):
    save(tmp_path / "pics" / "a.png", (9, 9, 9))
    data.load(f"folder:{tmp_path / 'pics'}", size=4).x.fill_(0)
    assert data.load(f"folder:{tmp_path / 'pics'}", size=4).x.unique().tolist() == [9]


def test_many_pictures_are_decoded_in_blocks(tmp_path):
    pictures = tmp_path / "pics"
    for i in range(40):  # a block holds 2²⁵ bytes: at 1024 pixels 16 pictures, the least there is
        save(pictures / "ab"[i // 20] / f"{i:02}.png", (5 * i, 0, 0), size=(4, 4))
    images = data.load(f"folder:{pictures}", size=1024)
    assert images.labels.tolist() == 20 * [0] + 20 * [1]
    assert images.x[:, 0, 0, 0].tolist() == [5 * i for i in range(40)]


def test_a_cache_that_is_full_is_one_sentence(tmp_path):
    save(tmp_path / "pics" / "a.png")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(data.DataError, match="can't be kept in .* Make room there"):
        data.load(f"folder:{tmp_path / 'pics'}")


# Real data, where it is


def test_real_mnist(real_data):
    images = data.load("mnist")
    x = images.x.double() / 255
    assert len(images) == 60_000 and len(data.load("mnist", "test")) == 10_000
    assert x.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert x.std().item() == pytest.approx(0.3081, abs=5e-5)
    assert images.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.load("mnist", "test", size=32).shape == (1, 32, 32)


def test_real_fashion_mnist(real_data):
    images = data.load("fashion_mnist")
    assert (images.x.double() / 255).mean().item() == pytest.approx(0.2860, abs=5e-5)
    assert images.classes[9] == "Ankle boot" and images.labels.bincount().tolist() == [6_000] * 10


def test_real_folder(real_data):
    images = data.load(f"folder:{real_data / 'cifar10-folder'}", "test", size=32)
    assert images.shape == (3, 32, 32) and images.labels.bincount().tolist() == [100] * 10
    path = real_data / "cifar10-folder" / "test" / "airplane"
    with Image.open(sorted(path.iterdir())[0]) as picture:
        first = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
    assert torch.equal(images.x[0], first)
