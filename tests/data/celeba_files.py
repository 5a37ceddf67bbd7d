"""A small CelebA of generated photographs, in the official layout or in that of Kaggle and group DRO."""

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("Bald", "Blond_Hair", "Male", "Smiling", "Young")


def people(n: int = 64) -> dict[str, np.ndarray]:
    """Attributes -1 or 1 `[n, 5]`, parts and identities `[n]`: half train, a quarter each of val and test."""
    rng = np.random.default_rng(0)
    part = np.repeat([0, 1, 2], [n // 2, n // 4, n // 4])
    # Four photographs in a row show one person, two show all combinations of the three attributes in the middle.
    i = np.arange(n)
    values = np.stack([np.zeros(n, int), i % 2, i // 2 % 2, (i + i // 4) % 2, rng.integers(0, 2, n)], 1)
    return {"values": 2 * values - 1, "part": part, "identity": 100 + i // 4}


def write(data_dir: Path, *, csv: bool = False, identities: bool = True, **changes: np.ndarray) -> Path:
    """Photographs and lists in `data_dir/celeba`, which is returned."""
    table = people() | changes
    folder = data_dir / "celeba"
    images = folder / "img_align_celeba" / ("img_align_celeba" if csv else "")
    images.mkdir(parents=True)
    names = [f"{i + 1:06d}.jpg" for i in range(len(table["part"]))]
    for i, name in enumerate(names):
        picture(i).save(images / name, quality=90)
    rows = {name: [str(v) for v in values] for name, values in zip(names, table["values"], strict=True)}
    parts = dict(zip(names, table["part"], strict=True))
    if csv:
        lines = [",".join(["image_id", *NAMES]), *(",".join([name, *values]) for name, values in rows.items())]
        (folder / "list_attr_celeba.csv").write_text("\n".join(lines) + "\n")
        lines = ["image_id,partition", *(f"{name},{part}" for name, part in parts.items())]
        (folder / "list_eval_partition.csv").write_text("\n".join(lines) + "\n")
    else:
        lines = [str(len(rows)), " ".join(NAMES) + " ", *(f"{name}  {'  '.join(v)}" for name, v in rows.items())]
        (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
        (folder / "list_eval_partition.txt").write_text("".join(f"{name} {part}\n" for name, part in parts.items()))
    if identities:
        lines = [f"{name} {who}\n" for name, who in zip(names, table["identity"], strict=True)]
        (folder / "identity_CelebA.txt").write_text("".join(lines))
    return folder


def picture(i: int) -> Image.Image:
    """178 × 218 pixels of smooth colour, another for every i."""
    rng = np.random.default_rng(i)
    return Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)).resize((178, 218))
