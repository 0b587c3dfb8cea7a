"""loading.py, crosschecks.py, mistakes.py: every mistake in both files, with its line and what to write instead."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.bad_configurations import BAD, LIST, Bad
from tests.unit.configurations import CONNECTION, ENVIRON, ROUTES, WORKER, loaded, mistakes, write
from worker.config import Config
from worker.errors import ConfigError
from worker.loading import load
from worker.mistakes import Mistakes


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def changed(*changes: Bad) -> dict[str, str]:
    files = {"worker": WORKER, "routes": ROUTES}
    for bad in changes:
        assert bad.old in files[bad.file]
        files[bad.file] = files[bad.file].replace(bad.old, bad.new, 1)
    return files


@pytest.mark.parametrize("bad", BAD, ids=[bad.mistake[:60] for bad in BAD])
def test_a_mistake_is_said_with_its_line_and_what_to_write(bad):
    found = mistakes(**changed(bad))
    assert any(mistake.startswith(bad.mistake) for mistake in found), found
    assert "hunter2" not in "\n".join(found)


def test_an_entry_that_is_no_section_is_one_mistake():
    routes = f"{ROUTES}expect:\n  -\n"
    said = ["routes.yaml:17:4: expect[0]: must be a section: keys and values, indented below it"]
    assert mistakes(routes=routes) == said


FREE_OF_EACH_OTHER = [
    ("worker", "hub: ml-events", "hub: ml-events\n  start: never", "source.start"),
    ("worker", "hub: ml-events", "hub: ml-events\n  prefetch: many", "source.prefetch"),
    ("worker", "hub: ml-events", "hub: ml-events\n  ownership_expiry_seconds: 3", "source.ownership_expiry_seconds"),
    ("worker", "connection_string_env: HUB", "connection_string_env: NOT_SET", "source.connection_string_env"),
    ("worker", "path: data", "paht: 1\n  path: data", "store.paht"),
    ("worker", "store:", "http: {port: '1'}\nstore:", "http.port"),
    ("worker", "store:", "limits: {hand_over_seconds: 0.1}\nstore:", "limits.hand_over_seconds"),
    ("routes", "url_env: OUT", "url_env: NOT_SET", "sinks[0].url_env"),
    ("routes", "path: audit.jsonl", "path: audit.jsonl\n    rate: fast", "sinks[1].rate"),
    ("routes", "includedEventTypes", "includedTypes", "routes[0].filter.includedTypes"),
    ("routes", "sinks: [out]", "sinks: [ouut]", "routes[0].sinks[0]"),
    ("routes", "late: drop", "late: drip", "routes[1].late"),
]


@settings(deadline=None)  # the machine is shared
@given(st.sets(st.sampled_from(FREE_OF_EACH_OTHER), min_size=1))
def test_all_mistakes_of_both_files_are_found_at_once(changes):
    in_file_order = [change for change in FREE_OF_EACH_OTHER if change in changes]
    found = mistakes(**changed(*(Bad(*change) for change in in_file_order)))
    said = [mistake.split(": ")[1] for mistake in found]
    assert sorted(said) == sorted(place for *_, place in in_file_order)
    places = [mistake.split(": ")[0].split(":") for mistake in found]
    assert places == sorted(places, key=lambda place: (place[0] != "worker.yaml", int(place[1])))


def test_a_routes_file_is_looked_at_although_worker_yaml_is_wrong():
    found = mistakes("source: 5\n", ROUTES.replace("[out]", "[oud]"))
    assert found[:3] == [
        "worker.yaml:1:1: source: must be a section: keys and values, indented below it",
        "worker.yaml:1:1: store: is missing; add it",
        "routes.yaml:12:13: routes[0].sinks[0]: there is no sink oud; did you mean out?",
    ]


@pytest.mark.parametrize(
    ("worker", "routes", "expected"),
    [
        ("", ROUTES, ["worker.yaml: is empty; write its sections as in the example configuration"]),
        ("- a\n", ROUTES, ["worker.yaml: is no list of sections (`key: value`); write its sections"]),
        (WORKER, "# nothing\n", ["routes.yaml: is empty; write its sections as in the example configuration"]),
        (WORKER, "sinks: []\nroutes: []\n", ["routes.yaml:2:1: routes: has too few entries; write at least 1"]),
        (WORKER, "routes: {}\n", ["routes.yaml:1:1: sinks: is missing", f"routes.yaml:1:1: routes: {LIST}"]),
        (b"a: \xe9\n", "a: [\n", ["worker.yaml:1:4: a character is not UTF-8; save the file as UTF-8"]),
        (WORKER + "store: {}\n", ROUTES, ["worker.yaml:7:1: store stands here again (first on line 4)"]),
        (WORKER, ROUTES.replace("    kind: file", "\tkind: file"), ["routes.yaml:6:1: a tab in the indentation"]),
    ],
)
def test_a_file_of_the_wrong_form_is_said_to_be_that(worker, routes, expected):
    with pytest.raises(Mistakes) as caught:
        load(write(Path(), worker, routes), environ=ENVIRON)
    assert len(caught.value.mistakes) >= len(expected)
    for mistake, start in zip(caught.value.mistakes, expected, strict=False):
        assert mistake.startswith(start)


def test_a_file_that_is_missing_is_named():
    with pytest.raises(Mistakes) as caught:
        load(Path("conf/worker.yaml"), environ={})
    assert caught.value.mistakes == ["conf/worker.yaml: there is no such file; name another, or create it"]
    write(Path(), WORKER + "routes_file: sub/r.yaml\n", None)
    with pytest.raises(Mistakes) as caught:
        load(Path("worker.yaml"), environ=ENVIRON)
    assert caught.value.mistakes == ["sub/r.yaml: there is no such file; name another, or create it"]


def test_the_hub_a_connection_string_is_for_must_be_the_one_that_is_read():
    environ = {**ENVIRON, "HUB": f"{CONNECTION};EntityPath=other"}
    assert mistakes(environ=environ) == [
        (
            "worker.yaml:2:3: source.connection_string_env: the connection string is for another hub (EntityPath) than "
            "source.hub; take that hub's, or the namespace's"
        )
    ]
    assert loaded(environ={**ENVIRON, "HUB": f"{CONNECTION};EntityPath=ml-events"}).worker.source.hub == "ml-events"


def test_a_connection_string_in_a_file_is_checked_too(tmp_path):
    (tmp_path / "secret").write_text("Endpoint=sb://x.example.org;SharedAccessKey=hunter2\n")
    found = mistakes(WORKER.replace("connection_string_env: HUB", "connection_string_file: secret"))
    assert found == [
        (
            "worker.yaml:2:3: source.connection_string_file: the connection string has no SharedAccessKeyName; "
            "copy it whole from the namespace's shared access policies"
        )
    ]


@pytest.mark.parametrize(
    ("sink", "environ", "mistake"),
    [
        ("url_env: OUT", {"OUT": "not-a-url-hidden"}, "url_env: "),
        ("url_env: OUT\n    secret_env: KEY", {"KEY": "whsec_###hidden"}, "secret_env: the signing secret begins with"),
        (
            "url_env: OUT\n    headers_env: {Authorization: KEY}",
            {"KEY": "Bearer\nhidden"},
            "headers_env.Authorization: the header value holds a line break",
        ),
    ],
)
def test_the_secrets_of_a_webhook_are_looked_at_and_not_repeated(sink: str, environ: dict[str, str], mistake: str):
    [found] = mistakes(routes=ROUTES.replace("url_env: OUT", sink), environ=ENVIRON | environ)
    assert f"sinks[0].{mistake}" in found
    assert "hidden" not in found


def test_a_wrong_entry_does_not_make_its_list_too_short():
    [found] = mistakes(
        routes=ROUTES.replace("url_env: OUT", "url_env: OUT\n    quiet: {group_by: [], mute: [{days: [Sat]}]}")
    )
    assert found.endswith("mute[0].days[0]: cannot be Sat; did you mean sat?")


def test_the_stores_connection_string_is_checked_too():
    worker = """\
        source: {connection_string_env: HUB, hub: ml-events}
        store:
          kind: blob
          container: worker
          connection_string_env: HUB
        """
    assert mistakes(worker) == [
        (
            "worker.yaml:5:3: store.connection_string_env: the connection string is an Event Hubs connection string; "
            "take the storage account's"
        )
    ]


def test_secrets_that_are_not_set_are_no_mistake_where_none_are_needed_but_other_mistakes_are():
    worker = WORKER.replace("hub: ml-events", "hub: ml-events\n  prefetch: 0")
    assert mistakes(worker, environ={}, secrets=False) == ["worker.yaml:4:3: source.prefetch: must be at least 1"]


MARKER = "q8Zk3vXw7RtY2mPb"
PASTED = [
    f"Endpoint=sb://x.example.org/;SharedAccessKeyName=n;SharedAccessKey={MARKER}=",
    f"https://a.blob.core.windows.net/c?sv=2024&sig={MARKER}%3D",
    f"https://user:{MARKER}@hooks.example.org/x",
    f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={MARKER}==",
    f"whsec_{MARKER}/+=",
]
PLACES = [
    ("source", "connection_string"),
    ("source", "connection_string_env"),
    ("source", "connection_string_file"),
    ("source", "namespace"),
    ("source", "hub"),
    ("source", "consumer_group"),
    ("source", "start"),
    ("source", "prefetch"),
    ("store", "kind"),
    ("store", "account_url"),
    ("store", "container"),
    ("order", "window_seconds"),
    ("order", "late"),
    ("http", "port"),
    ("sinks", 0, "name"),
    ("sinks", 0, "kind"),
    ("sinks", 0, "url"),
    ("sinks", 0, "url_env"),
    ("sinks", 0, "url_file"),
    ("sinks", 0, "secret"),
    ("sinks", 0, "secret_env"),
    ("sinks", 0, "rate"),
    ("routes", 0, "name"),
    ("routes", 0, "late"),
    ("routes", 0, "sinks", 0),
]


@settings(deadline=None)  # the machine is shared
@given(st.sets(st.sampled_from(PLACES), min_size=1, max_size=4), st.sampled_from(PASTED))
def test_a_secret_that_was_pasted_into_a_file_is_never_repeated(places, pasted):
    files = {"worker.yaml": yaml.safe_load(WORKER), "routes.yaml": yaml.safe_load(ROUTES)}
    for place in places:
        section = files["routes.yaml" if place[0] in ("sinks", "routes") else "worker.yaml"]
        for part in place[:-1]:
            section = section.setdefault(part, {}) if isinstance(section, dict) else section[part]
        section[place[-1]] = pasted
    with pytest.raises(ConfigError) as caught:
        loaded(*(yaml.safe_dump(values) for values in files.values()))
    assert MARKER not in str(caught.value)
    assert MARKER not in repr(caught.value)


@settings(deadline=None)  # the machine is shared
@given(st.sampled_from(PASTED), st.sampled_from(["HUB", "OUT"]))
def test_a_secret_in_the_environment_is_never_repeated(value, name):
    try:
        config = loaded(environ={**ENVIRON, name: value})
    except ConfigError as refused:
        assert MARKER not in str(refused)  # noqa: PT017 - whether it is refused does not matter here
    else:
        assert MARKER not in repr(config)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=8), values, max_size=3),
    max_leaves=8,
)
KEYS = ["source", "store", "order", "limits", "http", "routes_file", "kind", "hub", "retry", "name", "sinks", "filter"]
SECTIONS = st.dictionaries(st.sampled_from(KEYS), JSON | st.dictionaries(st.sampled_from(KEYS), JSON), max_size=5)


@settings(deadline=None)  # the machine is shared
@given(SECTIONS, st.dictionaries(st.sampled_from(["sinks", "routes"]), JSON | st.lists(SECTIONS, max_size=3)))
def test_whatever_stands_in_the_files_is_accepted_or_said_to_be_wrong(worker, routes):
    try:
        config = loaded(yaml.safe_dump(worker), yaml.safe_dump(routes))
    except ConfigError as refused:
        assert refused.mistakes  # noqa: PT017 - either end is fine, a crash is not
    else:
        assert isinstance(config, Config)
