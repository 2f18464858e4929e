"""Which of the user's pictures a model is calibrated on."""

from pathlib import Path

from conv_detector import pictures

from pipeline.quantize.pictures import pictures_of


def names(*named: Path, wanted: int, data_dir: Path, besides: list[Path]) -> list[str]:
    found = pictures_of([str(path) for path in named], wanted, data_dir, besides=besides)
    return [Path(str(frame.path)).name for frame in found]


def test_pictures_are_spread_over_those_that_are_not_left_out(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "photos", 12)
    left_out = [folder / f"{number:02}.png" for number in range(6)]
    assert names(folder, wanted=3, data_dir=tmp_path, besides=[]) == ["00.png", "04.png", "08.png"]
    assert names(folder, wanted=3, data_dir=tmp_path, besides=left_out) == ["06.png", "08.png", "10.png"]
    assert names(folder, wanted=9, data_dir=tmp_path, besides=left_out) == [
        f"{number:02}.png" for number in range(6, 12)
    ]


def test_what_is_left_out_elsewhere_does_not_crowd_them(tmp_path: Path) -> None:
    folder, labelled = pictures(tmp_path / "photos", 12), pictures(tmp_path / "labelled", 12)
    found = names(folder, wanted=3, data_dir=tmp_path, besides=list(labelled.iterdir()))
    assert found == ["00.png", "04.png", "08.png"]


def test_a_picture_is_left_out_by_whatever_name_it_is_known(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "photos", 3)
    (tmp_path / "link").symlink_to(folder)
    left_out = [tmp_path / "link" / "01.png"]
    assert names(folder, wanted=9, data_dir=tmp_path, besides=left_out) == ["00.png", "02.png"]
    single = [folder / "00.png", folder / "01.png"]
    assert names(*single, wanted=9, data_dir=tmp_path, besides=left_out) == ["00.png"]


def test_where_all_are_left_out_there_is_none(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "photos", 3)
    assert names(folder, wanted=9, data_dir=tmp_path, besides=list(folder.iterdir())) == []
