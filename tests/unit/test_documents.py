"""documents.py: YAML to plain values with lines, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.documents import MAX_BYTES, Document, read_document
from worker.mistakes import Mistakes

BILLION_LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2000))


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(content: str | bytes) -> Document:
        Path("f.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_document(Path("f.yaml"))

    return read


def refusal(read, content: str | bytes) -> str:
    with pytest.raises(Mistakes) as caught:
        read(content)
    assert len(caught.value.mistakes) == 1
    return caught.value.mistakes[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("010", 10),
        ("0.5", 0.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1e400", "1e400"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("10:30", "10:30"),
        ("2026-01-31T06:00:00Z", "2026-01-31T06:00:00Z"),
        ("2026-01-31", "2026-01-31"),
        ("1_000", "1_000"),
        (".nan", ".nan"),
        ("'5'", "5"),
        ('"true"', "true"),
        ("'<<'", "<<"),
        ("!!str 5", "5"),
        ("9" * 50, int("9" * 50)),
        ("[]", []),
        ("{}", {}),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_a_plain_scalar_is_only_a_number_a_boolean_or_null_when_it_looks_like_one_in_json(read, text, value):
    document = read(f"key: {text}\n")
    assert document.values == {"key": value}
    assert type(document.values["key"]) is type(value)
    assert document.mistakes == ()


def test_a_file_without_content_has_no_values(read):
    assert read("").values is None
    assert read("# only a comment\n").values is None


def test_a_byte_order_mark_and_windows_line_ends_are_fine(read):
    document = read(b"\xef\xbb\xbfa: 1\r\nb:\r\n  - 2\r\n")
    assert document.values == {"a": 1, "b": [2]}
    assert document.line(("b", 0)) == 3


def test_every_value_knows_the_line_of_its_key_or_of_its_first_word(read):
    document = read("a: 1\nb:\n  c:\n    - x\n    - d: 2\n  e: {f: 1,\n    g: 2}\n")
    places = [("a",), ("b",), ("b", "c"), ("b", "c", 0), ("b", "c", 1), ("b", "c", 1, "d"), ("b", "e", "g")]
    assert [document.line(place) for place in places] == [1, 2, 3, 4, 5, 5, 7]


def test_every_value_knows_the_column_of_the_same_in_characters(read):
    document = read("a: 1\nb:\n  ééé:\n    - x\n    -   d: 2\n  e: {ü: 1, g: [2, *x]}\n")
    places = [("a",), ("b", "ééé"), ("b", "ééé", 0), ("b", "ééé", 1, "d"), ("b", "e", "g"), ("b", "e", "g", 1)]
    assert [document.mark(place).column for place in places] == [1, 3, 7, 9, 13, 20]
    assert document.mark(("c",)) == (1, 1)


def test_a_value_that_is_missing_has_the_line_of_the_section_around_it(read):
    document = read("# comment\n\na:\n  b: 1\n")
    assert document.line(("a", "missing", 0)) == 3
    assert document.line(("missing",)) == 1
    assert document.line(("a", "b", "deeper")) == 4


def test_aliases_stand_for_what_their_anchor_holds(read):
    document = read("a: &x {k: [1, 2]}\nb: *x\nc:\n  - *x\n")
    assert document.values == {"a": {"k": [1, 2]}, "b": {"k": [1, 2]}, "c": [{"k": [1, 2]}]}
    assert document.line(("b",)) == 2
    assert document.line(("b", "k")) == 1, "where the text stands"


def test_a_merge_key_brings_in_what_is_not_said_here(read):
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: *a, x: 3}\nd:\n  <<: [*a, *b]\n  w: 4\n"
    values = read(text).values
    assert values["c"] == {"x": 3, "y": 1}
    assert values["d"] == {"x": 1, "y": 1, "z": 2, "w": 4}


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("a: 1\nb: 2\na: 3\n", ["f.yaml:3:1: a stands here again (first on line 1); keep one of the two"]),
        (
            "a:\n  b: 1\n  b: 2\nc: *x\n",
            [
                "f.yaml:3:3: b stands here again (first on line 2); keep one of the two",
                "f.yaml:4:4: the alias *x has no finished anchor & above it",
            ],
        ),
        ("a: &a [*a]\n", ["f.yaml:1:8: the alias *a has no finished anchor & above it"]),
        (
            "a: !!python/object:os.system x\n",
            ["f.yaml:1:4: tags (words that begin with !) are not supported; write the plain value, or quote it"],
        ),
        (
            "a: 1\n---\nb: 1\n",
            ["f.yaml:2:1: a second document begins; keep one, without a line ---"],
        ),
        ("? [a]\n: 1\n", ["f.yaml:1:3: a key must be plain text; quote a value that begins with [ { or *"]),
        ("a: &a 1\nb:\n  <<: *a\n", ["f.yaml:3:7: << takes an alias of a section, or a list of such aliases"]),
    ],
)
def test_what_is_misleading_in_yaml_is_a_mistake_and_reading_goes_on(read, text, mistakes):
    assert [str(mistake) for mistake in read(text).mistakes] == mistakes


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        ("a:\n\tb: 1\n", "f.yaml:2:1: a tab in the indentation; use spaces"),
        ("a:\n  b: 1\n \t c: 1\n", "f.yaml:3:2: a tab in the indentation; use spaces"),
        (
            "a: b: c\n",
            (
                "f.yaml:1:5: a second ': ' on one line, or a wrong indentation; put the value in quotes, or line the "
                "key up"
            ),
        ),
        ("a:\n  - b\n c: 1\n", "f.yaml:3:2: the indentation does not fit the lines above; line keys of one section up"),
        (b"a: 1\nb: caf\xe9\n", "f.yaml:2:7: a character is not UTF-8; save the file as UTF-8"),
        (b"a: 1\nb: \x00\n", "f.yaml:2:4: a control character (U+0000); remove it"),
        ("[" * 100_000, "f.yaml:1:1001: is nested more than 50 deep; is it the right file?"),
        (b"#" * (MAX_BYTES + 1), "f.yaml: is larger than 1,048,576 bytes; is it the right file?"),
        (BILLION_LAUGHS, "f.yaml:6:5: stands for more than 100,000 values; use fewer aliases"),
        (CHAIN, "f.yaml:51:6: is nested more than 50 deep; is it the right file?"),
    ],
    ids=["tab", "tab-later", "colon", "indent", "latin-1", "null", "deep", "large", "laughs", "chain"],
)
def test_what_cannot_be_read_is_refused_with_its_line(read, content, mistake):
    assert refusal(read, content) == mistake


@pytest.mark.parametrize("text", ["a: 'open\n", "a: [1,\n", "a: @x\n", "a: {b: 1\n", "%x\n", '"\\ud800": 1\n'])
def test_other_broken_yaml_is_refused_with_a_line_and_what_to_look_at(read, text):
    message = refusal(read, text)
    assert message.startswith("f.yaml:")
    assert "is not valid YAML" in message
    assert "\n" not in message


def test_a_file_that_is_not_there_or_no_file_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path, expected in {
        "none.yaml": "none.yaml: there is no such file; name another, or create it",
        ".": ".: cannot be read: Is a directory",
        "a\0b": "a\0b: cannot be read: its name is no path",
    }.items():
        with pytest.raises(Mistakes) as caught:
            read_document(Path(path))
        assert caught.value.mistakes == [expected]


@settings(deadline=None)  # the machine is shared
@given(st.one_of(st.binary(max_size=200), st.text(alphabet="ab:-[]{}&*<>|'\"#!%@,?\n\t 01~", max_size=60)))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        document = read_document(file)
    except Mistakes as refused:
        assert refused.mistakes  # noqa: PT017 - either end is fine, a crash is not
    else:
        assert document.file == file
