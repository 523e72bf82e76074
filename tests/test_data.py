"""Pictures, batches, shapes and folders; downloads have a file of their own."""

import io
import logging
import math
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from gencourse import archive, data, pictures, shapes
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
        ("pictures.ZIP", "write 'folder:pictures.ZIP'"),
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


def said(caplog, name, *arguments, **options):
    """The pictures, and what `load` says of them in the log."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        images = data.load(name, *arguments, device="cpu", **options)
    return images, [record.getMessage() for record in caplog.records]


def test_broken_pictures_are_counted_and_left_out(tmp_path, caplog):
    folder = tmp_path / "pics"
    for i in range(6):
        save(folder / "ab"[i % 2] / f"{i}.jpg", (40 * i, 0, 0), size=(300, 300))
    cut = (folder / "a" / "2.jpg").read_bytes()
    (folder / "a" / "2.jpg").write_bytes(cut[: len(cut) // 2])
    (folder / "b" / "3.jpg").write_text("<html>")
    (folder / "b" / "5.jpg").write_bytes(b"")
    for _ in range(2):  # decoded, then from the cache
        images, lines = said(caplog, f"folder:{folder}", size=8)
        assert lines[0] == (
            "3 of 6 pictures in pics could not be read and are left out:\n"
            "  1 damaged or cut off, such as a/2.jpg\n"
            "  1 no picture of a kind that Pillow knows, such as b/3.jpg\n"
            "  1 an empty file, such as b/5.jpg"
        )
        assert images.labels.tolist() == [0, 0, 1]
        assert (images.x[:, 0, 0, 0].int() - torch.tensor([0, 160, 40])).abs().max() < 4


def test_each_reason_is_said_in_at_most_five_lines(tmp_path, caplog, monkeypatch):
    folder = tmp_path / "pics"
    save(folder / "good.png")
    save(folder / "large.png", size=(100, 100))
    (folder / "cut.png").write_bytes(save(folder / "cut.png").read_bytes()[:60])
    (folder / "empty.gif").touch()
    for i in range(3):
        (folder / f"nowhere{i}.jpg").symlink_to(tmp_path / "missing")
    os.mkfifo(folder / "pipe.png")
    (folder / "text.bmp").write_text("no")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000)  # twice as many are refused
    images, (line, *_) = said(caplog, f"folder:{folder}", size=8)
    assert len(images) == 1 and "8 of 9 pictures" in line and line.count("\n") == 4, line
    assert "4 a link to nowhere, or no plain file, such as nowhere0.jpg" in line
    assert line.endswith("\n  2 for other reasons, such as large.png"), line
    for error, reason in (
        (PermissionError(13, "Permission denied"), "permission denied"),
        (Image.DecompressionBombError(), "too many pixels"),
        (SyntaxError("broken PNG file"), "damaged or cut off"),
        (ValueError("no such mode"), "not understood (no such mode)"),
    ):
        assert pictures._reason(error) == reason


def test_linked_folders_are_followed_but_not_in_circles(tmp_path, caplog):
    save(tmp_path / "elsewhere" / "a.png")
    save(tmp_path / "pics" / "dog" / "b.png")
    (tmp_path / "pics" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pics" / "dog" / "round").symlink_to(tmp_path / "pics")
    images, _ = said(caplog, f"folder:{tmp_path / 'pics'}", size=8)
    assert images.classes == ["cat", "dog"] and len(images) == 2


def test_a_folder_that_can_not_be_opened_is_said(tmp_path, caplog, monkeypatch):
    save(tmp_path / "pics" / "cat" / "a.png")
    (tmp_path / "pics" / "dog").mkdir()
    scandir = os.scandir

    def closed(folder):
        if str(folder).endswith("dog"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    _, lines = said(caplog, f"folder:{tmp_path / 'pics'}", size=8)
    assert "1 of 2 pictures" in lines[0] and "such as dog/*" in lines[0], lines


@pytest.mark.parametrize(
    ("count", "words"),
    [(1, "Only 1 picture in pics to learn from, less than one batch"), (3, "Only 3 pictures"),
     (63, "less than one batch of 64"), (64, "Only 64 pictures in pics to learn from: a model"),
     (199, "chapters 05 and 07"), (200, None)],
)
def test_few_pictures_are_said_to_be_learnt_by_heart(tmp_path, caplog, count, words):
    first = save(tmp_path / "pics" / "train" / "0.png", size=(1, 1))
    save(tmp_path / "pics" / "test" / "0.png", size=(1, 1))
    for i in range(1, count):
        (first.parent / f"{i}.png").write_bytes(first.read_bytes())
    _, lines = said(caplog, f"folder:{tmp_path / 'pics'}", size=1)
    assert [words in line for line in lines if "Only" in line] == [True] * bool(words)
    _, lines = said(caplog, f"folder:{tmp_path / 'pics'}", "test", size=1)
    assert not any("Only" in line for line in lines), "nothing is learnt from test pictures"


def test_pictures_beside_train_and_test_are_said(tmp_path, caplog):
    for path in ("train/1.png", "test/1.png", "val/1.png", "val/2.png", "loose.png"):
        save(tmp_path / "pics" / path)
    images, lines = said(caplog, f"folder:{tmp_path / 'pics'}", size=8)
    assert len(images) == 1
    assert "Not used, since not in train or test: 3 pictures in pics." in lines


def test_pictures_of_one_colour_and_of_several_pages_are_counted(tmp_path, caplog):
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    save(tmp_path / "pics" / "a.png")
    save(tmp_path / "pics" / "b.png", (1, 1, 1))
    ramp.save(tmp_path / "pics" / "c.tif", save_all=True, append_images=[ramp.rotate(90)])
    ramp.save(tmp_path / "pics" / "d.gif", save_all=True, append_images=[ramp.rotate(90)])
    images, lines = said(caplog, f"folder:{tmp_path / 'pics'}", size=16)
    flat = "2 of 4 pictures in pics: almost a single colour as they come out, such as a.png."
    assert flat in lines
    assert [x for x in lines if x.startswith("2 of 4") and "the first is taken, such as c.tif" in x]
    assert torch.equal(images.x[2, 0], torch.arange(256, dtype=torch.uint8).reshape(16, 16))


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
    folder, cache = tmp_path / "pics", tmp_path / "cache" / "folders"
    first, decoded = save(folder / "a.png", (10, 10, 10)), []
    save(folder / "b.png", (20, 20, 20))
    read = pictures._read
    monkeypatch.setattr(pictures, "_read", lambda p, **kw: decoded.append(p) or read(p, **kw))

    def load(**options):
        decoded.clear()
        x = data.load(f"folder:{folder}", **{"size": 8} | options).x
        return x[:, 0, 0, 0].tolist(), len(decoded)

    assert load() == ([10, 20], 2)
    assert load() == ([10, 20], 0)
    assert load(size=4) == ([10, 20], 2), "another size is another cache"
    assert load() == ([10, 20], 0)
    assert len(list(cache.iterdir())) == 2

    save(first, (30, 30, 30))
    os.utime(first, ns=(1, 1))  # same name, same length, another time
    assert load() == ([30, 20], 2)
    save(folder / "c.png", (40, 40, 40))
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


def test_pictures_are_read_only_a_little_ahead(tmp_path):
    taken, done = [], []
    sources = (taken.append(i) or (str(i), lambda i=i: bytes([i])) for i in range(40))
    with ThreadPoolExecutor(2) as pool:
        for name, value in pictures._ahead(pool, lambda file: file.getvalue()[0], sources, most=8):
            done.append(value)
            assert name == str(value) and len(taken) - len(done) < 8
    assert done == list(range(40))


def test_a_cache_that_is_full_is_one_sentence(tmp_path):
    save(tmp_path / "pics" / "a.png")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(data.DataError, match="can't be kept in .* Make room there"):
        data.load(f"folder:{tmp_path / 'pics'}")


# More than 8 bits

RAMP = np.linspace(0, 1, 16)[None].repeat(16, 0)  # black at the left, white at the right


def png16(values):
    """A PNG of 16 bits with 1 to 4 channels (H, W, C), which Pillow can't write."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, [0, 4, 2, 6][channels - 1], 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        for kind, part in chunks
    )


def tiff(values, order="<", sample_format=1, packed=False):
    """A TIFF (H, W, C) of any bits, format (1 whole, 2 signed, 3 float) and order of bytes."""
    height, width, channels = values.shape
    pixels = values.astype(values.dtype.newbyteorder(order)).tobytes()
    pixels = zlib.compress(pixels) if packed else pixels
    bits = 8 * values.dtype.itemsize
    tags = {256: width, 257: height, 258: bits, 259: 8 if packed else 1,
            262: 2 if channels > 2 else 1, 273: 32, 277: channels, 278: height,
            279: len(pixels), 338: 2, 339: sample_format}
    if channels not in (2, 4):
        del tags[338]
    many = struct.pack(f"{order}4H", *4 * [bits]), struct.pack(f"{order}4H", *4 * [sample_format])
    table = struct.pack(f"{order}H", len(tags))
    for tag, value in tags.items():
        kind, count = (3, channels) if tag in (258, 339) else (4, 1)
        if count > 2:
            kept = struct.pack(f"{order}I", {258: 8, 339: 16}[tag])
        else:
            kept = struct.pack(order + ("I" if kind == 4 else "2H"), *[value] * (5 - kind or 1))
        table += struct.pack(f"{order}HHI", tag, kind, count) + kept
    start = struct.pack(f"{order}HI", 42, 32 + len(pixels))
    head = (b"II" if order == "<" else b"MM") + start + many[0] + many[1] + bytes(8)
    return head + pixels + table + bytes(4)


def write(folder, **files):
    """Files {name: bytes or array, the array as grey TIFF}; 'a_png' is a.png."""
    for name, content in files.items():
        path = folder / name.replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, np.ndarray):
            kinds = {"u": 1, "i": 2, "f": 3}
            content = tiff(content[..., None], sample_format=kinds[content.dtype.kind])
        path.write_bytes(content)
    return f"folder:{folder}"


def brightness(x):
    """0 to 1 along the ramp, of the first row."""
    return x[0, 0].double() / 255


@pytest.mark.parametrize(
    ("values", "black", "white", "words"),
    [
        ((RAMP * 255).astype("u2"), 0, 255, "(8 bits;"),
        ((RAMP * 1_000).astype("u2"), 0, 1_023, "from 0 to 1,000: 0 becomes black and 1,023 white"),
        ((RAMP * 4_095).astype("u2"), 0, 4_095, "(12 bits;"),
        ((RAMP * 4_096).astype("u2"), 0, 16_383, "(14 bits;"),
        ((RAMP * 65_535).astype("u2"), 0, 65_535, "(16 bits;"),
        ((RAMP * 2_500).astype("i2"), 0, 4_095, "(12 bits;"),
        ((RAMP * 4_095).astype("i4"), 0, 4_095, "(12 bits;"),
        ((RAMP * 4e9).astype("u4"), 0, 4e9, "middle 99 %"),
        ((RAMP * 4_000 - 1_000).astype("i2"), -1_000, 3_000, "from -1,000 to 3,000"),
        (RAMP.astype("f4"), 0, 1, "are floats"),
        ((RAMP * 0.5).astype("f4"), 0, 1, "the usual range"),
        ((RAMP * 255).astype("f4"), 0, 255, "the usual range"),
        ((RAMP * 0.01).astype("f4"), 0, 0.01, "middle 99 %"),
        ((RAMP * 2 - 1).astype("f4"), -1, 1, "-1 becomes black and 1 white"),
        ((RAMP * 1e6).astype("f4"), 0, 1e6, "1,000,000 white"),
        (np.where(RAMP > 0.5, 1, 0).astype("u2"), 0, 1, "(1 bits;"),
        (np.full((16, 16), -7, "f4"), -7, -6, "(all values;"),
    ],
)
def test_the_range_is_found_and_said(tmp_path, caplog, values, black, white, words):
    images, lines = said(caplog, write(tmp_path / "pics", a_tif=values), size=16)
    expected = torch.from_numpy((values[0].astype(float) - black) / (white - black))
    assert (brightness(images.x[0]) - expected).abs().max() < 0.004
    assert words in lines[0] and "levels=(low, high) sets it" in lines[0], lines


def test_one_range_for_the_whole_folder_and_both_splits(tmp_path, caplog):
    bright, dark = ((RAMP * top).astype("u2")[..., None] for top in (4_095, 300))
    write(tmp_path / "pics" / "train", a_png=png16(dark), b_png=png16(bright))
    name = write(tmp_path / "pics" / "test", a_png=png16(dark))
    name = f"folder:{tmp_path / 'pics'}"
    (train, lines), (test, _) = said(caplog, name, size=16), said(caplog, name, "test", size=16)
    assert "3 of 3 pictures in pics are of more than 8 bits" in lines[0]
    assert train.x[1].max() == 255 and 17 <= train.x[0].max() <= 19
    assert torch.equal(train.x[0], test.x[0])


def test_one_bright_spot_does_not_blacken_floats(tmp_path, caplog):
    values, none = (RAMP * 3).astype("f4"), np.full((16, 16), np.nan, "f4")
    odd = values.copy()
    odd[8, 8], odd[0, 0], odd[0, 1] = 1e9, np.nan, -np.inf
    name = write(tmp_path / "pics", a_tif=odd, b_tif=values, c_tif=values, d_tif=none)
    images, lines = said(caplog, name, size=16)
    assert (images.x.float().std((1, 2, 3)) > 60).all()
    assert "1 without a single finite number, such as d.tif" in lines[0]
    assert any("NaN or infinity" in line and "such as a.tif" in line for line in lines)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("form", "bands"),  # Pillow knows no TIFF with two
    [("png", 1), ("png", 2), ("png", 3), ("png", 4)]
    + [(f"tif {form}", bands) for form in ("little", "big", "packed") for bands in (1, 3, 4)],
)
def test_colours_of_16_bits(tmp_path, form, bands, channels):
    values = np.stack([RAMP, RAMP.T, RAMP[:, ::-1]], 2) if bands > 2 else RAMP[..., None]
    expected = values
    values = (4_095 * values).round()
    if bands in (2, 4):  # the upper half is opaque, the lower transparent: white
        opacity = np.where(np.arange(16) < 8, 65_535, 0)[:, None, None].repeat(16, 1)
        values, expected = np.concatenate([values, opacity], 2), np.where(opacity, expected, 1)
    order = ">" if form == "tif big" else "<"
    values = values.astype("u2")
    file = png16(values) if form == "png" else tiff(values, order, packed="packed" in form)
    name = write(tmp_path / "pics", **{"a_png" if form == "png" else "a_tif": file})
    x = data.load(name, size=16, channels=channels, device="cpu").x[0].permute(1, 2, 0) / 255
    if channels == 1 and bands > 2:
        expected = (expected @ [0.299, 0.587, 0.114])[..., None]
    assert np.abs(x.numpy() - expected).max() < 0.003


def test_a_deep_picture_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "pics").mkdir()
    Image.fromarray((RAMP * 4_095).astype("u2")).save(tmp_path / "pics" / "a.png", exif=exif)
    x = data.load(f"folder:{tmp_path / 'pics'}", size=16, device="cpu").x[0]
    assert (brightness(x.rot90(1, (1, 2))) - torch.from_numpy(RAMP[0])).abs().max() < 0.004


def test_a_mixed_folder_keeps_each_kind_in_its_own_range(tmp_path, caplog):
    save(tmp_path / "pics" / "a.jpg", (255, 255, 255))
    values = (RAMP * 4_095).astype("u2")
    name = write(tmp_path / "pics", b_tif=values, c_tif=RAMP.astype("f4"))
    images, lines = said(caplog, name, size=16)
    assert images.x[0].min() == 255 and torch.equal(images.x[1], images.x[2])
    assert "1 of 3 pictures in pics are of more than 8 bits" in lines[0]
    assert "1 of 3 pictures in pics are floats" in lines[1]
    assert all("Those of 8 bits stay as they are (1)." in line for line in lines[:2])


def test_levels_can_be_given(tmp_path, caplog):
    name = write(tmp_path / "pics", a_tif=(RAMP * 4_095).astype("u2"))
    images, lines = said(caplog, name, size=16)  # and the cache tells the two apart
    images, lines = said(caplog, name, size=16, levels=(1_000, 2_000))
    expected = torch.from_numpy((RAMP[0] * 4_095 - 1_000) / 1_000).clamp(0, 1)
    assert (brightness(images.x[0]) - expected).abs().max() < 0.004
    assert "1,000 becomes black and 2,000 white (as given;" in lines[0]
    save(tmp_path / "small" / "a.png", (50, 100, 200))
    images, lines = said(caplog, f"folder:{tmp_path / 'small'}", size=1, levels=[0, 100])
    assert images.x.flatten().tolist() == [128, 255, 255]
    assert "In small, 0 becomes black and 100 white." in lines


@pytest.mark.parametrize("levels", [(1, 1), (2, 1), 5, "ab", (0, float("nan")), (0, 1, 2), ()])
def test_senseless_levels(tmp_path, levels):
    with pytest.raises(data.DataError, match="the values of black and of white"):
        data.load(f"folder:{tmp_path}", levels=levels)


# Archives


def packed(path, files, links=()):
    """An archive of {name: bytes}, in this order; links: tar members that are no files."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in files.items():
                file.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as file:
        for member in links:
            file.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def some_pictures(count=6):
    """{name: bytes} of JPEGs in train and test with two classes, not in the order of names."""
    files, rng = {}, np.random.default_rng(0)
    for i in reversed(range(count)):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(file, "jpeg")
        files[f"{['train', 'test'][i % 3 == 2]}/{'ba'[i % 2]}/{i}.jpg"] = file.getvalue()
    return files


@pytest.mark.parametrize("top", ["", "./", "around/", "/around/", "../../around/"])
@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz", "tgz"])
def test_an_archive_is_read_like_the_folder(tmp_path, monkeypatch, ending, top):
    files = some_pictures()
    for name, content in files.items():
        path = tmp_path / "pics" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    more = {"around/.hidden.jpg": b"", "__MACOSX/around/._1.jpg": b"no", "notes.txt": b"text",
            "inside.zip": b"PK", **{top + name: content for name, content in files.items()}}
    path = packed(tmp_path / f"own.{ending}", more)
    before = sorted(tmp_path.rglob("*"))
    for split in ("train", "test"):
        own = data.load(f"folder:{path}", split, size=16, device="cpu")
        folder = data.load(f"folder:{tmp_path / 'pics'}", split, size=16, device="cpu")
        assert torch.equal(own.x, folder.x) and torch.equal(own.labels, folder.labels)
        assert own.classes == folder.classes == ["a", "b"]
    after = [p for p in sorted(tmp_path.rglob("*")) if tmp_path / "cache" not in p.parents]
    assert [p for p in after if p.name != "cache"] == before, "something was unpacked"
    monkeypatch.setattr(archive, "opened", None)
    assert torch.equal(data.load(f"folder:{path}", "test", size=16, device="cpu").x, own.x)


def test_one_folder_around_everything_is_looked_through_in_folders_too(tmp_path):
    for path in ("cat/1.png", "dog/1.png", "dog/deep/2.png"):
        save(tmp_path / "pics" / "inner" / path)
    assert data.load(f"folder:{tmp_path / 'pics'}", size=8).classes == ["cat", "dog"]
    path = packed(tmp_path / "own.tar.gz", {"1.jpg": some_pictures(1)["train/b/0.jpg"]})
    assert data.load(f"folder:{path}", size=8).classes == ["own"]


def test_what_is_odd_in_an_archive_is_said(tmp_path, caplog):
    (first, second), links = some_pictures(2).values(), []
    for kind, name in ((tarfile.SYMTYPE, "s"), (tarfile.LNKTYPE, "h"), (tarfile.FIFOTYPE, "f"),
                       (tarfile.CHRTYPE, "c"), (tarfile.SYMTYPE, "folder")):
        links.append(tarfile.TarInfo(name + ".png" * (name != "folder")))
        links[-1].type, links[-1].linkname = kind, "/etc/passwd"
    path = packed(tmp_path / "own.tar", {"a.jpg": first, "./b.jpg": second, "b.jpg": first}, links)
    images, lines = said(caplog, f"folder:{path}", size=8)
    assert torch.equal(images.x[0], images.x[1]), "of two with one name the later counts"
    assert "4 of 6 pictures in own.tar" in lines[0]
    assert "4 a link, which is not followed in an archive, such as c.png" in lines[0]
    assert any("twice in the archive, of which the later counts, such as b.jpg" in x for x in lines)

    with zipfile.ZipFile(tmp_path / "own.zip", "w") as file:
        link = zipfile.ZipInfo("a/link.png")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/passwd")
        file.writestr("kätzchen/1.jpg", first)
        file.writestr("a\\2.jpg", first)
        file.writestr("a/zip.png", b"PK\3\4")
        file.writestr("a/empty.png", b"")
    content = (tmp_path / "own.zip").read_bytes()
    # macOS writes UTF-8 and does not say so: bit 11 of the flags.
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.index("kätzchen".encode(), content.index(b"PK\1\2") if place == 8 else 0)
        at = content.rindex(mark, 0, at) + place
        content = content[:at] + b"\0\0" + content[at + 2 :]
    (tmp_path / "own.zip").write_bytes(content)
    images, lines = said(caplog, f"folder:{tmp_path / 'own.zip'}", size=8)
    assert images.classes == ["a", "kätzchen"] and len(images) == 2
    for words in ("1 a link, which", "1 no picture of a kind", "1 an empty file"):
        assert words in lines[0], lines


def patched(content, mark, place, value):
    """The bytes with a field of the first record that begins with mark overwritten."""
    at = content.index(mark) + place
    return content[:at] + value + content[at + len(value) :]


def test_a_bomb_is_refused_by_what_it_declares(tmp_path, monkeypatch):
    content = packed(tmp_path / "own.zip", {"a.png": b"x" * 100}).read_bytes()
    content = patched(content, b"PK\1\2", 24, struct.pack("<I", 2**31))
    (tmp_path / "own.zip").write_bytes(content)
    huge, named = tarfile.TarInfo("a.png"), tarfile.TarInfo("././@LongLink")
    huge.size, named.size, named.type = 2**40, 2**33, tarfile.GNUTYPE_LONGNAME
    (tmp_path / "huge.tar").write_bytes(huge.tobuf() + bytes(1_024))
    (tmp_path / "named.tar").write_bytes(named.tobuf(tarfile.GNU_FORMAT) + bytes(1_024))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was read"))
    for name, words in (("own.zip", "declares more than"), ("huge.tar", "declares more than"),
                        ("named.tar", "a name in it is too long")):
        with pytest.raises(data.DataError, match=words):
            data.load(f"folder:{tmp_path / name}")


def test_no_more_is_read_than_declared(tmp_path, caplog):
    good = some_pictures(1)["train/b/0.jpg"]
    path = packed(tmp_path / "own.zip", {"a.png": bytes(10**6), "b.jpg": good})
    content = path.read_bytes()
    path.write_bytes(patched(content, b"PK\1\2", 24, struct.pack("<I", 1_000)))
    with archive.opened(path, pictures._counts) as (files, _), pytest.raises(zipfile.BadZipFile):
        files["a.png"]()
    images, lines = said(caplog, f"folder:{path}", size=8)
    assert len(images) == 1 and "1 damaged or cut off, such as a.png" in lines[0]


def test_an_encrypted_archive_is_a_sentence(tmp_path):
    content = packed(tmp_path / "own.zip", {"a.png": b"x"}).read_bytes()
    (tmp_path / "own.zip").write_bytes(patched(content, b"PK\1\2", 8, b"\1\0"))
    with pytest.raises(data.DataError, match="own.zip is encrypted: pack it without a password"):
        data.load(f"folder:{tmp_path / 'own.zip'}")


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
def test_a_damaged_archive_is_a_sentence_and_never_fewer_pictures(tmp_path, ending):
    path = packed(tmp_path / f"own.{ending}", some_pictures(3))
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0")) if ending == "tar" else len(whole)
    harms = [whole[: end * i // 12] for i in range(12)]
    if ending == "tar":  # a header in the middle, at its name
        at = whole.index(b"train/b/0.jpg")
        harms.append(whole[:at] + b"T" + whole[at + 1 :])
    if ending == "tar.gz":  # a picture, found out by the checksum behind the end
        harms.append(whole[: end // 2] + bytes([whole[end // 2] ^ 1]) + whole[end // 2 + 1 :])
    for i, harmed in enumerate(harms):
        path.write_bytes(harmed)
        with pytest.raises(data.DataError, match="no zip or tar archive, or it is damaged"):
            data.load(f"folder:{path}", size=8), i
    path.write_text("no archive at all")
    with pytest.raises(data.DataError, match="no zip or tar archive"):
        data.load(f"folder:{path}")


def test_an_archive_without_pictures(tmp_path):
    for ending in ("zip", "tar"):
        with pytest.raises(data.DataError, match="holds no pictures: files that end in"):
            data.load(f"folder:{packed(tmp_path / f'own.{ending}', {'a.txt': b'no'})}")


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


def test_cifar10_is_read_from_an_archive_that_says_so(tmp_path, monkeypatch):
    """Where the official files are missing and their pictures lie beside in one archive."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "cifar10-pictures.zip", "w") as archive:
        for split in ("train", "test"):
            for name in ("bird", "ship"):
                for i in range(12):
                    buffer = io.BytesIO()
                    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(buffer, "png")
                    archive.writestr(f"{split}/{name}/{i}.png", buffer.getvalue())
    monkeypatch.setenv("GENCOURSE_DATA", str(tmp_path))
    monkeypatch.setenv("GENCOURSE_CACHE", str(tmp_path / "cache"))
    images = data.load("cifar10")
    mine = data.load(f"folder:{tmp_path / 'cifar10-pictures.zip'}", size=32)
    assert images.name == "cifar10 (JPEG copies)" and images.classes == ["bird", "ship"]
    assert mine.labels.tolist() == [0] * 12 + [1] * 12 != images.labels.tolist()
    pictures_of = [sorted(x.sum().item() for x in some.x.long()) for some in (images, mine)]
    assert pictures_of[0] == pictures_of[1]
    assert len(data.load("cifar10", split="test", size=28)) == 24
