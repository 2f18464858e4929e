import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.locate import Key, locate_keys

FILE = """\
# a comment
top = 1

[sources.gate]   # the gate
url = "rtsp://x"
queue = { max_frames = 2, when_full = "block" }
crop = [1,
  # [not.a.header]
  2,
]
text = '''
[also.no.header]
a = 1
'''
"quoted.key" = 5
a.b.c = 3

[[zones]]
name = "one"
[zones.inner]
x = 1
[[zones]]
name = "two"
points = [[1, 2], [3, 4]]
[backends]
local.type = "x"
"""


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("top",), 2),
        (("sources",), 4),
        (("sources", "gate"), 4),
        (("sources", "gate", "url"), 5),
        (("sources", "gate", "queue", "when_full"), 6),
        (("sources", "gate", "crop"), 7),
        (("sources", "gate", "crop", "1"), 7),
        (("sources", "gate", "text"), 11),
        (("sources", "gate", "quoted.key"), 15),
        (("sources", "gate", "a", "b", "c"), 16),
        (("zones", "0"), 18),
        (("zones", "0", "name"), 19),
        (("zones", "0", "inner", "x"), 21),
        (("zones", "1"), 22),
        (("zones", "1", "name"), 23),
        (("zones", "1", "points", "1", "0"), 24),
        (("backends", "local", "type"), 26),
    ],
)
def test_a_key_is_found_on_the_line_on_which_its_statement_begins(key: Key, line: int) -> None:
    assert locate_keys(FILE)[key] == line


def test_what_only_looks_like_a_key_is_not_one() -> None:
    found = locate_keys(FILE)
    assert ("not",) not in found
    assert ("also",) not in found


def test_windows_line_ends_do_not_change_the_lines() -> None:
    assert locate_keys(FILE.replace("\n", "\r\n")) == locate_keys(FILE)


def test_a_unicode_line_separator_is_not_a_line_end() -> None:
    assert locate_keys('a = "x\u2028y"\nb = 1\n') == {("a",): 1, ("b",): 2}


NAMES = st.from_regex(r"[a-z]{1,3}", fullmatch=True)
VALUES = st.sampled_from(["1", "true", '"""\n]\n"""', "[\n1,\n[2,\n]]", "'[x]'", "{ u = 1, v = { w = [2] } }"])


@given(st.lists(st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=4)), unique_by=lambda table: table[0]))
def test_every_key_of_any_file_is_found_on_a_line_that_holds_its_name(tables: list[tuple[str, dict[str, str]]]) -> None:
    text = "".join(f"[{name}]\n" + "".join(f"{key} = {value}\n\n" for key, value in t.items()) for name, t in tables)
    lines = text.split("\n")
    found = locate_keys(text)
    for name, table in tomllib.loads(text).items():
        assert lines[found[(name,)] - 1] == f"[{name}]"
        for key in table:
            assert lines[found[(name, key)] - 1].startswith(f"{key} = ")
