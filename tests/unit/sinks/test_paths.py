import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline.contracts.errors import ConfigError, FatalError
from pipeline.testing import frame
from sinks._paths import PathTemplate, check_writable, event_path, fixed_root, known_path, path_for, safe_name

ADAPTER: TypeAdapter[str] = TypeAdapter(PathTemplate)

HOSTILE = st.one_of(
    st.text(max_size=300),
    st.lists(
        st.sampled_from(["..", "/", ".", "\\", "\0", "a", "~", "{source}", "\n", "%2e", "\udcff"]), max_size=30
    ).map("".join),
)


def template(text: str, base_dir: Path = Path("/srv")) -> str:
    return ADAPTER.validate_python(text, context={"base_dir": base_dir})


@given(source=HOSTILE, stem=HOSTILE)
@pytest.mark.parametrize("text", ["out/{source}.jsonl", "out/{stem}/{source}{stem}.jsonl", "out/x{stem}y/{hour}.jsonl"])
def test_no_name_leads_out_of_the_folder_of_the_template(text: str, source: str, stem: str) -> None:
    path = path_for(template(text), replace(frame(), source=source, path=stem or None))
    assert os.path.commonpath(["/srv/out", os.path.realpath(path)]) == "/srv/out"
    assert len(path.parts) == text.count("/") + 3  # no name made a folder of its own
    assert all(len(os.fsencode(part)) <= 255 and part.isprintable() and not part.startswith(".") for part in path.parts)


@given(source=HOSTILE, at=st.floats())
@pytest.mark.parametrize("text", ["out/{source}/{date}/{hour}.jsonl", "out/{date}{hour}{stem}.csv"])
def test_no_event_leads_out_of_the_folder_whenever_it_says_it_was(text: str, source: str, at: float) -> None:
    path = event_path(template(text), source, at)
    assert os.path.commonpath(["/srv/out", os.path.realpath(path)]) == "/srv/out"
    assert len(path.parts) == text.count("/") + 3
    assert all(len(os.fsencode(part)) <= 255 and part.isprintable() and not part.startswith(".") for part in path.parts)


@pytest.mark.parametrize("text", ["x" * 300, "\u732b" * 300])
def test_a_long_name_is_cut_to_what_a_file_system_takes(text: str) -> None:
    assert 97 <= len(safe_name(text).encode()) <= 100


@given(HOSTILE)
def test_a_safe_name_stays_as_it_is_when_made_safe_again(text: str) -> None:
    assert safe_name(safe_name(text)) == safe_name(text)


def test_placeholders_are_filled_in_from_the_frame() -> None:
    seen = replace(frame(source="gate"), path="/media/my film.mp4")
    assert path_for(template("{date}/{hour}-{source}-{stem}.mp4"), seen) == Path("/srv/2023-11-14/22-gate-my film.mp4")


def test_a_camera_has_its_own_name_for_a_stem() -> None:
    assert path_for(template("{stem}.mp4"), frame(source="gate")) == Path("/srv/gate.mp4")


@pytest.mark.parametrize(
    "text", ["{nmae}.jsonl", "{}.jsonl", "{source!r}.jsonl", "{source:>9}.jsonl", "{source.x}.jsonl"]
)
def test_an_unknown_placeholder_is_refused_with_those_that_exist(text: str) -> None:
    with pytest.raises(ValidationError, match=r"unknown placeholder.*\{source\}, \{stem\}, \{date\}, \{hour\}"):
        template(text)


@pytest.mark.parametrize("text", ["out/", "..", "a{", "a}b", "", "x\0y"])
def test_what_is_no_file_name_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        template(text)


def test_a_folder_with_braces_in_its_name_is_no_placeholder(tmp_path: Path) -> None:
    folder = tmp_path / "{x}"
    made = template("a{{b}}-{source}.jsonl", folder)
    assert known_path(made, "gate") == folder / "a{b}-gate.jsonl"
    assert fixed_root(made) == folder


def test_a_file_is_known_before_the_first_frame_only_where_nothing_depends_on_it() -> None:
    assert known_path(template("{source}.jsonl"), "gate") == Path("/srv/gate.jsonl")
    assert known_path(template("{source}-{stem}.jsonl"), "gate") is None


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gate").symlink_to(tmp_path)
    with pytest.raises(FatalError, match="leads out of"):
        path_for(template("out/{source}/x.jsonl", tmp_path), frame(source="gate"))


def test_checking_finds_what_cannot_be_written_and_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    check_writable(template("new/deep/{source}.jsonl", tmp_path))
    for text, message in [
        ("folder", "is a folder"),
        ("file/x.jsonl", "is a file"),
        ("/dev/null", "no regular file"),
        ("x" * 300 + "/y", "cannot be written"),
    ]:
        with pytest.raises(ConfigError, match=message) as caught:
            check_writable(template(text, tmp_path))
        assert caught.value.key == "path"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_found_before_the_start(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be written"):
        check_writable(template("x/{source}.jsonl", tmp_path))
