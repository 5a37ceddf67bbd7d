"""What a download leaves where it was meant for."""

from pathlib import Path

import pytest

from efface.data.download import download_folder


def test_files_are_moved_to_their_places(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with download_folder(folder) as temporary:
        (temporary / "raw").mkdir()
        (temporary / "raw" / "images").write_text("new")
        assert list(tmp_path.iterdir()) == [temporary]
    assert (folder / "raw" / "images").read_text() == "new"
    with download_folder(folder) as temporary:  # beside what is there already
        (temporary / "labels").write_text("new")
    assert sorted(path.name for path in folder.iterdir()) == ["labels", "raw"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_failed_download_leaves_nothing(tmp_path: Path) -> None:
    def download() -> None:
        with download_folder(tmp_path / "a" / "b") as temporary:
            (temporary / "half").write_text("half")
            raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        download()
    assert not list(tmp_path.iterdir())
