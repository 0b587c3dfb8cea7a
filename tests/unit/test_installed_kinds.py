"""sinks/installed.py: kinds that other distributions bring, and what is said about those that cannot be used."""

import sys
from pathlib import Path

import pytest

from tests.plugins import GOOD, install
from tests.unit.configurations import ENVIRON, WORKER, loaded, mistakes, write
from worker.cli import main
from worker.sinks.installed import find_kind, kind_names, origin_of
from worker.sinks.log import LogSettings, LogSink
from worker.sinks.table import KINDS

ROUTES = """
    sinks:
      - name: out
        kind: {kind}
        colour: blue
    routes:
      - {name: all, sinks: [out]}
    """


def routes(kind: str) -> str:
    return ROUTES.replace("{kind}", kind)


@pytest.fixture
def packages(tmp_path, monkeypatch) -> Path:
    """Where distributions are installed."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def check(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["worker", "check", "--config", "worker.yaml", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    out, err = capsys.readouterr()
    return stopped.value.code or 0, out, err  # type: ignore[return-value]  # never a text


# --- what can be used


def test_a_kind_of_an_installed_distribution_is_used_like_a_built_in_one(packages):
    install(packages, "pager")
    [sink] = loaded(routes=routes("pager")).sinks
    assert (sink.kind, sink.colour) == ("pager", "blue")  # type: ignore[attr-defined]  # of the plug-in
    assert isinstance(find_kind("pager").build(sink, None), LogSink)


def test_its_settings_are_as_strict_as_the_others(packages):
    install(packages, "pager")
    assert mistakes(routes=routes("pager").replace("colour", "color")) == [
        "routes.yaml:5:5: sinks[0].color: there is no such key; did you mean colour?"
    ]


def test_check_says_which_distribution_a_kind_came_from(packages, monkeypatch, capsys):
    install(packages, "pager")
    write(Path(), routes=routes("pager").replace("routes:", "  - {name: log, kind: log}\n    routes:"))
    code, out, err = check(monkeypatch, capsys)
    assert (code, "routes.yaml:6:5: warning: sinks[1]: no route names log" in err) == (0, True)
    assert "sinks           out (pager, from worker-pager 1.2), log (log)\n" in out
    assert '"out (pager, from worker-pager 1.2)"' in check(monkeypatch, capsys, "--json")[1]


def test_installed_kinds_are_among_the_suggestions(packages):
    install(packages, "pager")
    assert kind_names() == [*KINDS, "pager"]
    assert origin_of("log") is None
    assert "sinks[0].kind: there is no kind pagre; did you mean pager?" in mistakes(routes=routes("pagre"))[0]
    assert f"write one of {', '.join((*KINDS, 'pager'))}" in mistakes(routes=routes("pager").replace("kind", "kin"))[0]


def test_a_kind_that_nobody_brings_is_not_found(packages):
    with pytest.raises(KeyError):
        find_kind("pager")


def test_a_distribution_that_stands_on_the_path_twice_counts_once(packages, tmp_path, monkeypatch):
    install(packages, "pager")
    install(tmp_path / "older", "pager", distribution="Worker_Pager", version="0.9")
    monkeypatch.syspath_prepend(tmp_path / "older")
    monkeypatch.syspath_prepend(packages)
    assert origin_of("pager") == "worker-pager 1.2"
    find_kind("pager")


# --- what cannot, and is said where it is used


def refused(kind: str) -> str:
    """The one mistake, without its place."""
    place = f"routes.yaml:4:5: sinks[0].kind: {kind} "
    [mistake] = mistakes(routes=routes(kind))
    assert mistake.startswith(place)
    return mistake.removeprefix(place)


def test_a_built_in_kind_cannot_be_replaced(packages):
    install(packages, "log", distribution="better-log")
    assert refused("log") == (
        "is a kind of the worker itself, and better-log 1.2 brings another one; uninstall it, or let it give its kind "
        "another name"
    )


def test_two_distributions_cannot_bring_the_same_kind(packages):
    install(packages, "pager")
    install(packages, "pager", distribution="other-pager")
    said = refused("pager")
    assert "worker-pager 1.2" in said
    assert "other-pager 1.2" in said
    assert said.endswith("uninstall one")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import not_there_at_all", "cannot be imported (ModuleNotFoundError: No module named 'not_there_at_all')"),
        ("def KIND(:", "cannot be imported (SyntaxError: "),
        ("raise RuntimeError('password=hunter2 \\x1b[2J')", "cannot be imported (RuntimeError: password=*** [2J)"),
        ("raise SystemExit(3)", "cannot be imported (SystemExit: 3)"),
        ("OTHER = 1", "cannot be imported (AttributeError: "),
        ("KIND = 'pager'", "is no SinkKind but a str; "),
        ("class KIND: pass", "is no SinkKind but the class KIND; "),
        (
            "from worker.sinks.table import SinkKind\nKIND = SinkKind(dict, print)",
            "has the class dict for its settings, not a class derived from SinkSettings; ",
        ),
        (
            "from worker.sinks.table import SinkKind\nKIND = SinkKind(None, print)",
            "has a NoneType for its settings, not a class derived from SinkSettings; ",
        ),
        (
            GOOD.replace("SinkKind(Settings,", "SinkKind(SinkSettings,"),
            'has settings that do not know their kind (`kind: Literal["pager"] = "pager"` is missing); ',
        ),
        (GOOD.replace("{kind}", "beeper"), "has settings that do not know their kind"),
        (GOOD.replace('] = "{kind}"', '] = "beeper"'), "has settings that do not know their kind"),
        (
            GOOD.replace("lambda settings, _tokens: LogSink(settings)", "None"),
            "has a NoneType where it should have what builds the sink; ",
        ),
        (
            GOOD.replace("lambda settings, _tokens: LogSink(settings)", "LogSink"),
            "builds its sink from something else than (settings, tokens); ",
        ),
    ],
)
def test_a_kind_that_cannot_be_used_is_one_sentence_that_names_the_distribution(packages, source, said):
    module = install(packages, "pager", source)
    sentence = refused("pager")
    assert sentence.startswith(f"is brought by worker-pager 1.2, and {module}:KIND {said}")
    assert "uninstall it" in sentence
    assert "\n" not in sentence
    assert sentence.isprintable()


def test_all_other_mistakes_of_the_files_are_said_beside_it(packages):
    install(packages, "pager", "import not_there_at_all")
    found = mistakes(WORKER.replace("hub:", "hob:"), routes("pager").replace("[out]", "[oud]"))
    assert [mistake.split(" ")[0] for mistake in found] == [
        "worker.yaml:1:1:",
        "worker.yaml:3:3:",
        "routes.yaml:4:5:",
        "routes.yaml:7:25:",
    ]


def test_check_exits_2_without_a_traceback(packages, monkeypatch, capsys):
    install(packages, "pager", "import not_there_at_all")
    write(Path(), routes=routes("pager"))
    code, out, err = check(monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


def test_a_kind_that_nobody_uses_is_not_even_imported(packages):
    module = install(packages, "pager", "import not_there_at_all")
    install(packages, "beeper", entry_points="this is no entry point")
    assert isinstance(loaded(routes=routes("log").replace("colour: blue", "data: true")).sinks[0], LogSettings)
    assert module not in sys.modules
