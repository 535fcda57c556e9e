"""Values changed in a TOML text: the text reads as wanted, and all else in it is as it was."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelbake.lock.toml import Editor, Path

# A busy machine is no failure.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


HARD = """# first
name = "x" # [[files]]
text = \'\'\'
[[files]]
path = "not a file" \'\'\'\'\'
'quoted key' = 'it'
[model] # a table
"a.b".c = 1979-05-27 07:32:00Z # a date
  array = [ # of
    { path = "in an array", n = [1, 2] }, # comma
    "]", # mark
  ]
[[files]]
  path = "a" # the first
  sha256 = 'old'
[[files]]
path = "b"   # the second

# the last
[[files]] # nothing in it yet
[tail]
x.y = 15"""


def edited(text: str, *changes: tuple[Path, str | int | bool]) -> str:
    editor = Editor(text)
    for path, value in changes:
        editor.set(path, value)
    return editor.result()


def test_only_the_values_change() -> None:
    made = edited(
        HARD,
        (("name",), "y"),
        (("files", 0, "sha256"), "new"),
        (("files", 0, "size"), 5),
        (("files", 1, "sha256"), "s"),
        (("files", 1, "size"), 7),
        (("files", 2, "path"), "c"),
        (("model", "array", 0, "path"), "z"),
    )
    assert made == (
        HARD.replace('name = "x"', 'name = "y"')
        .replace("sha256 = 'old'", 'sha256 = "new"\n  size = 5')
        .replace("# the second", '# the second\nsha256 = "s"\nsize = 7')
        .replace("# nothing in it yet", '# nothing in it yet\npath = "c"')
        .replace('"in an array"', '"z"')
    )


def test_a_value_that_is_there_already_leaves_the_text_alone() -> None:
    assert edited(HARD, (("name",), "x"), (("files", 0, "sha256"), "old"), (("tail", "x", "y"), 15)) == HARD


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("files = [{ path = 'a' }]", "files = [{ path = 'a', sha256 = \"s\" }]"),
        ("files = [{path='a'}] # c", "files = [{path='a', sha256 = \"s\"}] # c"),
        ("files = [{}]", 'files = [{sha256 = "s"}]'),
        ("files = [ # c\n{ path = 'a' },\n]", "files = [ # c\n{ path = 'a', sha256 = \"s\" },\n]"),
        ("[[files]]\r\npath = 'a'\r\n", "[[files]]\r\npath = 'a'\r\nsha256 = \"s\"\r\n"),
        ("[[files]]\n\tpath = 'a' # c", "[[files]]\n\tpath = 'a' # c\n\tsha256 = \"s\""),
        ('[[ "files" ]]\npath = "a"', '[[ "files" ]]\npath = "a"\nsha256 = "s"'),
    ],
)
def test_a_new_key_stands_behind_its_table_s_own(text: str, expected: str) -> None:
    made = edited(text, (("files", 0, "sha256"), "s"))
    assert made == expected
    assert tomllib.loads(made)["files"][0]["sha256"] == "s"


def test_sub_tables_belong_to_the_latest_table_of_their_array() -> None:
    text = "[[a]]\n[a.b]\nx = 1\n[[a]]\n[a.b]\nx = 1\n[[a.c]]\nx = 1\n"
    assert edited(text, (("a", 1, "b", "x"), 2), (("a", 1, "c", 0, "x"), 3)) == (
        "[[a]]\n[a.b]\nx = 1\n[[a]]\n[a.b]\nx = 2\n[[a.c]]\nx = 3\n"
    )


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)
basic = words.map(lambda word: json.dumps(word, ensure_ascii=False))
literal = words.filter(lambda word: "'" not in word).map(lambda word: f"'{word}'")
long = words.filter(lambda word: '"' not in word and "\\" not in word).map(lambda word: f'"""\n[[files]]\n{word}\n"""')
scalars = st.one_of(basic, literal, long, st.sampled_from(["1", "-0.5", "true", "1979-05-27 07:32:00", "inf", "0xff"]))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[ {', '.join(items)} ]"),
        st.lists(scalars.filter(lambda one: "\n" not in one), max_size=2).map(
            lambda items: "{ " + ", ".join(f"k{n} = {item}" for n, item in enumerate(items)) + " }"
        ),
    ),
    max_leaves=4,
)
endings = st.sampled_from(["\n", " # why = [[files]]\n", "\n\n", '\n# path = "x"\n'])


@st.composite
def documents(draw: Any) -> str:
    """Documents with root keys, a table, and an array of tables, in all the ways of writing values."""
    text = "".join(f"root{n} = {draw(values)}{draw(endings)}" for n in range(draw(st.integers(0, 3))))
    text += f"[model]{draw(endings)}" + f"kind = {draw(values)}{draw(endings)}"
    for _ in range(draw(st.integers(1, 3))):
        text += f"[[files]]{draw(endings)}" + f"path = {draw(values)}{draw(endings)}"
        if draw(st.booleans()):
            text += f"  sha256 = {draw(scalars)}{draw(endings)}"
    return text


@patient
@given(documents(), words, st.integers(0, 2**60), st.data())
def test_whatever_the_form_the_text_reads_as_wanted_and_keeps_every_other_line(
    text: str, sha256: str, size: int, data: st.DataObject
) -> None:
    before = tomllib.loads(text)
    index = data.draw(st.integers(0, len(before["files"]) - 1))
    changes: list[tuple[Path, str | int | bool]] = [
        (("files", index, "sha256"), sha256),
        (("files", index, "size"), size),
    ]
    made = edited(text, *changes)
    wanted = tomllib.loads(text)
    wanted["files"][index] |= {"sha256": sha256, "size": size}
    # repr, since nan is equal to nothing.
    assert repr(tomllib.loads(made)) == repr(wanted)
    assert edited(made, *changes) == made
    if "sha256" not in before["files"][index]:
        assert made.replace(f"\nsha256 = {json.dumps(sha256, ensure_ascii=False)}\nsize = {size}", "", 1) == text
