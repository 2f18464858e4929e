from pathlib import Path

import pytest

from pipeline.config.interpolate import Interpolation


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("${A}", "one"),
        ("x${A}y${A}", "xoneyone"),
        ("${EMPTY}", ""),
        ("${EMPTY:-other}", "other"),
        ("${NONE:-}", ""),
        ("${NONE:-a:-b c}", "a:-b c"),
        ("${A:-other}", "one"),
        ("${A:?must be set}", "one"),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("$A costs 5$", "$A costs 5$"),
        ("${TRICKY}", "${A} $$"),
    ],
)
def test_variables_are_replaced_once(written: str, expected: str) -> None:
    found = Interpolation({"A": "one", "EMPTY": "", "TRICKY": "${A} $$"})
    assert found.tree({"k": [written]}) == {"k": [expected]}
    assert not found.problems


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("${NONE}", "the variable NONE is not set"),
        ("${NONE:?set it in the unit file}", "the variable NONE is not set: set it in the unit file"),
        ("${EMPTY:?set it}", "the variable EMPTY is empty: set it"),
        ("${A", "${ begins no variable here; write ${VAR}, or $$ for a dollar"),
        ("${A-b}", "${ begins no variable here; write ${VAR}, or $$ for a dollar"),
        ("${../../etc/passwd}", "${ begins no variable here; write ${VAR}, or $$ for a dollar"),
    ],
)
def test_what_cannot_be_replaced_is_a_problem_of_its_key(written: str, message: str) -> None:
    found = Interpolation({"A": "one", "EMPTY": ""})
    found.tree({"table": {"key": [0, written]}})
    assert found.problems == [(("table", "key", "1"), message)]


def test_a_systemd_credential_is_used_where_no_variable_is_set(tmp_path: Path) -> None:
    (tmp_path / "CAM_PASS").write_text("from file\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert Interpolation(environ).tree("${CAM_PASS}") == "from file"
    assert Interpolation({**environ, "CAM_PASS": "set"}).tree("${CAM_PASS}") == "set"


def test_a_credential_that_is_no_text_is_a_problem_without_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "KEY").write_bytes(b"\xff\xfehidden")
    found = Interpolation({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    found.tree("${KEY}")
    assert found.problems == [((), "the credential KEY cannot be read: it is no text")]


def test_what_systemd_handed_over_is_secret_under_any_name_and_a_variable_under_a_secret_one(tmp_path: Path) -> None:
    (tmp_path / "HARMLESS").write_text("from-systemd")
    found = Interpolation({"CREDENTIALS_DIRECTORY": str(tmp_path), "CAM_PASS": "a%40b", "FOLDER": "/videos"})
    found.tree("${HARMLESS} ${CAM_PASS} ${FOLDER}")
    assert found.secrets == {"from-systemd": "${HARMLESS}", "a%40b": "${CAM_PASS}", "a@b": "${CAM_PASS}"}
