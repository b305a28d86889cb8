"""Layouts of files: what is found, how masks are read, and what is said about what cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from trainers.config import DataConfig
from trainers.datasets import DataError, SegmentationData, open_dataset
from trainers.datasets.voc import CLASSES as VOC_CLASSES

CLASS_FILE = "name,red,green,blue\nground,10,20,30\ncar,200,0,0\nvoid,0,0,0\ntree,0,200,0\n"
COLORS = np.array([(10, 20, 30), (200, 0, 0), (0, 0, 0), (0, 200, 0)], np.uint8)
SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def labels(seed: int, height: int = 20, width: int = 24) -> NDArray[np.uint8]:
    """Mask values as stored, 2 being void: blocks, so that resizing keeps all of them."""
    blocks = np.random.default_rng(seed).integers(0, 4, (height // 4, width // 4))
    blocks.flat[:4] = range(4)
    return np.kron(blocks, np.ones((4, 4))).astype(np.uint8)


def write_pair(root: Path, name: str, mask: Image.Image, part: str = "", size: tuple[int, int] | None = None) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*(size or mask.size)[::-1], 3), np.uint8)
    for kind, picture in (("images", Image.fromarray(pixels)), ("masks", mask)):
        folder = root / kind / part
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{name}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten good pairs with index masks, and a class file whose third row is void."""
    folder = tmp_path / "set"
    for number in range(10):
        write_pair(folder, f"{number:02d}", Image.fromarray(labels(number)))
    (folder / "classes.csv").write_text(CLASS_FILE)
    return folder


def open_folder(root: Path, **settings: object) -> SegmentationData:
    values = {"name": "folder", "root": str(root), "height": 20, "width": 24, "cache": str(root.parent / "cache")}
    return open_dataset(DataConfig(**(values | settings)))  # type: ignore[arg-type]


def test_index_masks_become_classes_without_the_void_row(root: Path) -> None:
    data = open_folder(root)
    assert [entry.name for entry in data.classes] == ["ground", "car", "tree"]
    assert data.classes[2].color == (0, 200, 0)
    expected = np.array([0, 1, 255, 2], np.uint8)[labels(int(Path(data.train.names[0]).stem))]
    np.testing.assert_array_equal(data.train.masks[0], expected)
    counted = np.bincount(data.train.masks.ravel(), minlength=256)[:3]
    np.testing.assert_array_equal(data.class_counts().pixels, counted)


def test_images_are_rgb_of_the_asked_size(root: Path) -> None:
    red = np.zeros((40, 48, 3), np.uint8)
    red[..., 0] = 250
    Image.fromarray(red).save(root / "images" / "00.png")
    Image.fromarray(labels(0, 40, 48)).save(root / "masks" / "00.png")
    data = open_folder(root, max_images=None)
    split = data.train if "images/00.png" in data.train.names else data.val
    assert split.images.shape[1:] == (20, 24, 3)
    assert (split.images[split.names.index("images/00.png")] == (250, 0, 0)).all()


@pytest.mark.parametrize("coding", ["color", "palette", "shuffled palette", "rgba"])
def test_masks_in_colour_read_like_index_masks(root: Path, coding: str) -> None:
    expected = open_folder(root)
    for number in range(10):
        values = labels(number)
        if coding == "color":
            mask = Image.fromarray(COLORS[values])
        elif coding == "rgba":
            mask = Image.fromarray(COLORS[values]).convert("RGBA")
        else:
            order = [3, 1, 0, 2] if coding == "shuffled palette" else [0, 1, 2, 3]
            mask = Image.fromarray(np.argsort(order).astype(np.uint8)[values], mode="P")
            mask.putpalette(COLORS[order].ravel().tolist())
        mask.save(root / "masks" / f"{number:02d}.png")
    data = open_folder(root)
    assert data.train.names == expected.train.names
    np.testing.assert_array_equal(data.train.masks, expected.train.masks)
    np.testing.assert_array_equal(data.val.masks, expected.val.masks)


def test_a_palette_of_other_colours_is_read_by_index(root: Path) -> None:
    expected = open_folder(root).train.masks
    for number in range(10):
        mask = Image.fromarray(labels(number), mode="P")
        mask.putpalette([1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13])
        mask.save(root / "masks" / f"{number:02d}.png")
    np.testing.assert_array_equal(open_folder(root).train.masks, expected)


def test_black_and_white_masks_are_read_by_the_greys_of_the_class_file(root: Path) -> None:
    (root / "classes.csv").write_text("name,red,green,blue\nground,0,0,0\nobject,255,255,255\n")
    for number in range(10):
        Image.fromarray((labels(number) > 1).astype(np.uint8) * 255).save(root / "masks" / f"{number:02d}.png")
    data = open_folder(root)
    assert set(np.unique(data.train.masks)) == {0, 1}


def test_the_index_column_decides_what_mask_values_mean(root: Path) -> None:
    (root / "classes.csv").write_text(
        "name,red,green,blue,index\ncar,200,0,0,1\nground,10,20,30,0\ntree,0,200,0,3\nother,1,1,1,2\n"
    )
    data = open_folder(root)
    expected = np.array([1, 0, 3, 2], np.uint8)[labels(int(Path(data.train.names[0]).stem))]
    np.testing.assert_array_equal(data.train.masks[0], expected)
    swapped = (root / "classes.csv").read_text().replace("0,200,0,3", "0,200,0,2").replace("1,1,1,2", "1,1,1,3")
    (root / "classes.csv").write_text(swapped)
    np.testing.assert_array_equal(open_folder(root).train.masks[0], np.array([0, 1, 3, 2], np.uint8)[expected])


def test_held_out_images_are_disjoint_and_decided_by_the_seed(root: Path) -> None:
    first, again, other = (open_folder(root, split_seed=seed) for seed in (0, 0, 1))
    assert len(first.train) == 8
    assert len(first.val) == 2
    assert not set(first.train.names) & set(first.val.names)
    assert first.val.names == again.val.names
    assert first.val.names != other.val.names
    assert first.notes == ("validation: 2 of 10 training images held out (seed 0)",)


def test_a_val_folder_is_used_unless_a_fraction_is_asked_for(root: Path) -> None:
    split = root.parent / "split"
    for number in range(6):
        write_pair(split, f"{number}", Image.fromarray(labels(number)), "train" if number < 4 else "val")
    (split / "classes.csv").write_text(CLASS_FILE)
    data = open_folder(split)
    assert data.val.names == ("images/val/4.png", "images/val/5.png")
    assert data.notes == ("validation: the val folder",)
    held_out = open_folder(split, val_fraction=0.5)
    assert len(held_out.train) == len(held_out.val) == 2
    assert all(name.startswith("images/train/") for name in held_out.val.names)


def test_max_images_keeps_the_first_of_each_split(root: Path) -> None:
    full, limited = open_folder(root, val_fraction=0.4), open_folder(root, val_fraction=0.4, max_images=3)
    assert limited.train.names == full.train.names[:3]
    assert limited.val.names == full.val.names[:3]


def break_missing_mask(root: Path) -> str:
    (root / "masks" / "03.png").unlink()
    return "images/03.png: no mask of that name in masks"


def break_missing_image(root: Path) -> str:
    (root / "images" / "03.png").unlink()
    return "masks/03.png: no image of that name in images"


def break_size(root: Path) -> str:
    Image.fromarray(labels(3, 12, 24)).save(root / "masks" / "03.png")
    return "images/03.png: mask is 24 x 12 pixels, image is 24 x 20"


def break_unreadable_image(root: Path) -> str:
    (root / "images" / "03.png").write_bytes(b"not a picture")
    return "images/03.png: 03.png cannot be read (cannot identify image file)"


def break_truncated_image(root: Path) -> str:
    path = root / "images" / "03.png"
    path.write_bytes(path.read_bytes()[:-200])
    return "images/03.png: 03.png cannot be read ("


def break_label(root: Path) -> str:
    values = labels(3)
    values[0, 0] = 9
    Image.fromarray(values).save(root / "masks" / "03.png")
    return "images/03.png: label 9 outside the classes (0, 1, 2, 3; 255 is ignored)"


def break_color(root: Path) -> str:
    shown = COLORS[labels(3)]
    shown[0, 0] = (7, 8, 9)
    Image.fromarray(shown).save(root / "masks" / "03.png")
    return "images/03.png: colour (7, 8, 9) (red, green, blue) not in the class list"


def break_mask_type(root: Path) -> str:
    Image.fromarray(labels(3).astype(np.float32)).save(root / "masks" / "03.tif")
    (root / "masks" / "03.png").unlink()
    return "images/03.png: mask has pixel type F; 8-bit index, palette and RGB masks can be read"


def break_image_type(root: Path) -> str:
    Image.fromarray(labels(3).astype(np.uint16) * 300).save(root / "images" / "03.png")
    return "images/03.png: image has pixel type I;16; 8-bit grey and colour images can be read"


def break_double_image(root: Path) -> str:
    Image.open(root / "images" / "03.png").save(root / "images" / "03.bmp")
    return "images/03: several files of one name (03.bmp, 03.png)"


def break_link(root: Path) -> str:
    (root / "images" / "03.png").unlink()
    (root / "images" / "03.png").symlink_to(root / "gone.png")
    return "images/03.png: 03.png cannot be read ([Errno 2] No such file or directory"


BREAKS = [value for name, value in sorted(globals().items()) if name.startswith("break_")]


@pytest.mark.parametrize("damage", BREAKS, ids=lambda damage: damage.__name__.removeprefix("break_"))
def test_a_bad_pair_fails_with_its_name_and_can_be_skipped(root: Path, damage: object) -> None:
    expected = damage(root)  # type: ignore[operator]
    with pytest.raises(DataError) as caught:
        open_folder(root)
    assert expected in str(caught.value)
    assert "1 of 10 pairs" in str(caught.value)
    assert "data.on_error=skip" in str(caught.value)
    data = open_folder(root, on_error="skip")
    assert len(data.train) + len(data.val) == 9
    assert any("left out 1 of 10 pairs: " in note and expected in note for note in data.notes)
    assert "images/03.png" not in data.train.names + data.val.names
    images = np.load(next((root.parent / "cache" / "packed").glob("*/train_images.npy")))
    assert len(images) == len(data.train)


def test_all_bad_pairs_are_listed_up_to_twenty(root: Path) -> None:
    for number in range(10, 40):
        write_pair(root, f"{number}", Image.fromarray(np.full((8, 8), 77, np.uint8)))
    with pytest.raises(DataError) as caught:
        open_folder(root)
    message = str(caught.value)
    assert message.startswith("30 of 40 pairs")
    assert message.count("label 77") == 20
    assert "and 10 more" in message


def test_small_images_are_enlarged_and_noted(root: Path) -> None:
    data = open_folder(root, height=32, width=32)
    assert data.train.images.shape == (8, 32, 32, 3)
    assert "train: 8 images smaller than the packed size and enlarged" in data.notes


def test_one_class_only_is_refused(root: Path) -> None:
    for number in range(10):
        Image.fromarray(np.full((20, 24), 1, np.uint8)).save(root / "masks" / f"{number:02d}.png")
    with pytest.raises(DataError, match=r"hold only the class 'car'; segmentation needs at least two"):
        open_folder(root)


def test_only_ignored_pixels_are_refused(root: Path) -> None:
    for number in range(10):
        Image.fromarray(np.full((20, 24), 255, np.uint8)).save(root / "masks" / f"{number:02d}.png")
    with pytest.raises(DataError, match="hold no class, only ignored pixels"):
        open_folder(root)


def test_missing_and_empty_folders_are_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root=.*/nowhere is not a folder"):
        open_folder(root.parent / "nowhere")
    for path in (root / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"/images holds no image file \(\.png, "):
        open_folder(root)
    (root / "images").rmdir()
    with pytest.raises(DataError, match="/images is missing"):
        open_folder(root)


def test_one_pair_cannot_be_split(root: Path) -> None:
    for number in range(1, 10):
        for kind in ("images", "masks"):
            (root / kind / f"{number:02d}.png").unlink()
    with pytest.raises(DataError, match="1 pair of image and mask cannot be split"):
        open_folder(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"The class file .*classes\.csv is missing.*name,red,green,blue"),
        ("", r"has no rows with the columns name, red, green, blue"),
        ("name,red,green\na,1,2\n", r"has no rows with the column blue"),
        ("name,red,green,blue\na,1,2,x\nb,1,2,3\n", r"row 1: red, green, blue and index must be whole numbers"),
        ("name,red,green,blue\na,1,2,3\nb,1,2,300\n", r"row 2: .* must lie in 0 to 255"),
        ("name,red,green,blue\na,1,2,3\na,4,5,6\n", r"the name a stands in several rows"),
        ("name,red,green,blue\na,1,2,3\nb,1,2,3\n", r"the colour \(1, 2, 3\) stands in several rows"),
        ("name,red,green,blue,index\na,1,2,3,1\nb,4,5,6,1\n", r"the index 1 stands in several rows"),
        ("name,red,green,blue\na,1,2,3\nvoid,4,5,6\n", r"names 1 class; segmentation needs at least two"),
    ],
)
def test_class_file_mistakes_are_explained(root: Path, content: str | None, message: str) -> None:
    path = root / "classes.csv"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        open_folder(root)


def write_voc(root: Path) -> None:
    sets = root / "ImageSets" / "Segmentation"
    for folder in (sets, root / "JPEGImages", root / "SegmentationClass"):
        folder.mkdir(parents=True)
    palette = [part for entry in VOC_CLASSES for part in entry.color] + [0] * (255 - 21) * 3 + [224, 224, 192]
    for number in range(4):
        values = np.full((20, 24), 255, np.uint8)
        values[:, :10], values[:, 10:20] = 0, 20 - number
        mask = Image.fromarray(values, mode="P")
        mask.putpalette(palette)
        mask.save(root / "SegmentationClass" / f"2007_{number}.png")
        Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(root / "JPEGImages" / f"2007_{number}.jpg")
    (sets / "train.txt").write_text("2007_0\n2007_1\n2007_2\n")
    (sets / "val.txt").write_text("2007_3\n")


@pytest.mark.parametrize("inside", [".", "VOCdevkit/VOC2012"])
def test_voc_follows_its_lists(tmp_path: Path, inside: str) -> None:
    write_voc(tmp_path / "voc" / inside)
    data = open_folder(tmp_path / "voc", name="voc")
    assert data.num_classes == 21
    assert data.classes[1].color == (128, 0, 0)
    assert data.classes[20].color == (0, 64, 128)
    assert data.train.names == tuple(f"JPEGImages/2007_{number}.jpg" for number in range(3))
    assert data.val.names == ("JPEGImages/2007_3.jpg",)
    assert set(np.unique(data.train.masks[1])) == {0, 19, 255}


def test_voc_mistakes_are_explained(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no ImageSets/Segmentation, nor VOCdevkit/VOC2012"):
        open_folder(tmp_path / "empty", name="voc")
    write_voc(tmp_path / "voc")
    (tmp_path / "voc" / "SegmentationClass" / "2007_1.png").unlink()
    with pytest.raises(DataError, match=r"2007_1: named in train\.txt, but SegmentationClass/2007_1\.png missing"):
        open_folder(tmp_path / "voc", name="voc")
    (tmp_path / "voc" / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(DataError, match=r"val\.txt is missing"):
        open_folder(tmp_path / "voc", name="voc")


@pytest.mark.parametrize(
    ("name", "counts", "note"),
    [
        ("floodnet", (40, 24), "validation: the test folder, as the set has no validation part of its own"),
        ("camvid", (40, 30), "validation: the val folder, a clip close to the training clips"),
    ],
)
def test_real_photographs_pack(tmp_path: Path, name: str, counts: tuple[int, int], note: str) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"the real images are not at ../shared/data/{name}")
    data = open_folder(SHARED / name, name=name, height=24, width=32, max_images=40, cache=str(tmp_path))
    assert (len(data.train), len(data.val)) == counts
    assert data.notes == (note,)
    assert (data.class_counts().pixels > 0).all()
    assert (255 in np.unique(data.train.masks)) == (name == "camvid")
