import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.sinks.markdown import escaped, link, usable


@pytest.mark.parametrize(
    "text",
    [
        "Run Failed: exp / run_1_a (3 of 5)",
        "C:\\models\\v1",
        "R&D, q=1&r=2",
        "-0.5",
        "2026-11-22T06:07:12Z",
        "/subscriptions/s/resourceGroups/ml-prod",
        "naïve_modèle ☃",
        "{a: {b}}",
        "",
    ],
)
def test_what_means_nothing_in_markdown_stays_as_it_is(text):
    assert escaped(text) == text


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("[click](https://evil.example)", "\\[click\\](https://evil.example)"),
        ("![x](y)", "!\\[x\\](y)"),
        ("**bold** _it_ __b__ ~~gone~~ `code`", "\\*\\*bold\\*\\* \\_it\\_ \\_\\_b\\_\\_ \\~\\~gone\\~\\~ \\`code\\`"),
        ("<script>x</script>", "&lt;script>x&lt;/script>"),
        ("<at>everyone</at>", "&lt;at>everyone&lt;/at>"),
        ("&lt;b&gt; &#42; &nope", "&amp;lt;b&amp;gt; &amp;#42; &nope"),
        ("{{DATE(2026-11-22T06:07:12Z, SHORT)}}", "{\\{DATE(2026-11-22T06:07:12Z, SHORT)}}"),
        ("\\[x\\](y)", "\\\\\\[x\\\\\\](y)"),
        ("ends with \\", "ends with \\\\"),
        ("- item", "\\- item"),
        ("+ item", "\\+ item"),
        ("* item", "\\* item"),
        ("12. item", "12\\. item"),
        ("1) item", "1\\) item"),
        ("# heading", "\\# heading"),
        ("### heading", "\\### heading"),
        (">quoted", "\\>quoted"),
        ("---", "\\---"),
        ("\u05d0\u05d1 - 12", "\u2068\u05d0\u05d1 - 12\u2069"),
    ],
)
def test_what_means_something_is_escaped(text, safe):
    assert escaped(text) == safe


LINE = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), max_size=200)
MARKUP = st.text("\\[]()*_~`<>&#;{}-+.1a /\u05d0é", max_size=40)


def read(markdown: str) -> str:
    """What CommonMark shows of escapes and references, given that nothing else is markup."""
    plain = markdown.strip("\u2068\u2069")
    plain = re.sub(r"\\([!-/:-@\[-`{-~])", lambda found: f"\ue000{ord(found[1])}\ue001", plain)
    plain = plain.replace("&lt;", "<").replace("&amp;", "&")
    return re.sub("\ue000(\\d+)\ue001", lambda found: chr(int(found[1])), plain)


@given(LINE | MARKUP)
@example("\\")
@example("_" * 5)
@example("{[{")
def test_any_text_reads_as_it_was_and_leaves_nothing_that_is_markup(text):
    safe = escaped(text)
    assert read(safe) == text
    bare = re.sub(r"\\[!-/:-@\[-`{-~]", "", safe)
    assert not set("[]*~`<") & set(bare)
    assert "{{" not in safe  # not `bare`: what stood between two braces is gone there
    for found in re.finditer("_+", re.sub(r"\\[!-/:-@\[-`{-~]", "\\\\", safe)):
        around = found.string[found.start() - 1 : found.start()], found.string[found.end() : found.end() + 1]
        assert all(each.isalnum() for each in around), safe


@pytest.mark.parametrize(
    ("url", "there"),
    [
        (
            "https://ml.azure.com/runs/run_1?wsid=/subscriptions/s",
            "https://ml.azure.com/runs/run_1?wsid=/subscriptions/s",
        ),
        ("https://a.example/x(1)*[2]`;~", "https://a.example/x%281%29%2A%5B2%5D%60%3B%7E"),
    ],
)
def test_a_link_leads_where_it_says(url, there):
    assert link("a ](b", url) == f"[a \\](b]({there})"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://a.example/",
        "javascript:alert(1)",
        "https://user@evil.example/",
        "https://ml.azure.com@evil.example/",
        "https://a.example/ x",
        "https://a.example/\n",
        "https://a.example/é",
        "https://",
        "https://a.example/" + "x" * 2000,
    ],
)
def test_a_url_that_is_not_surely_what_it_seems_is_not_linked(url):
    assert not usable(url)
    assert link("a", url) == "a"
