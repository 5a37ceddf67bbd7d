"""What a download leaves where it was meant for."""

from pathlib import Path

import pytest

from efface.data.download import download_folder


def test_files_are_moved_to_their_places(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with download_folder(folder) as temporary:
        (temporary / "raw").mkdir()
        (temporary / "raw" / "images").write_text("new")
        assert list(tmp_path.iterdir()) == [temporary.parent]
    assert (folder / "raw" / "images").read_text() == "new"
    with download_folder(folder) as temporary:  # beside what is there already
        (temporary / "labels").write_text("new")
    assert sorted(path.name for path in folder.iterdir()) == ["labels", "raw"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_folder_appears_with_all_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    replace = Path.replace

    def spy(self: Path, target: Path) -> Path:
        moved.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", spy)

    def download(folder: Path, text: str) -> None:
        (folder / "MNIST" / "raw").mkdir(parents=True)
        for name in ("images", "labels"):
            (folder / "MNIST" / "raw" / name).write_text(text)

    with download_folder(tmp_path) as first:
        download(first, "of the first")
        with download_folder(tmp_path) as second:
            download(second, "of the second")
        assert moved == [tmp_path / "MNIST"]
    raw = tmp_path / "MNIST" / "raw"
    assert sorted(path.name for path in raw.iterdir()) == ["images", "labels"]
    assert {path.read_text() for path in raw.iterdir()} == {"of the first"}
    assert list(tmp_path.iterdir()) == [tmp_path / "MNIST"]


def test_download_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    abandoned = tmp_path / ".download-abandoned"
    abandoned.mkdir()
    (abandoned / ".locked").touch()
    with download_folder(tmp_path):
        assert not abandoned.exists()


def test_failed_download_leaves_nothing(tmp_path: Path) -> None:
    def download() -> None:
        with download_folder(tmp_path / "a" / "b") as temporary:
            (temporary / "half").write_text("half")
            raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        download()
    assert not list(tmp_path.iterdir())
