import pytest
from pydantic import ValidationError

from tests.unit.configurations import CONNECTION, WORKER, loaded, mistakes
from worker.sinks.teams import TeamsSettings

GOOD = {"name": "ml", "kind": "teams", "url_env": "TEAMS_URL"}
SECRETS = "?api-version=1&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=hidden"
FLOW = (
    f"https://defaultab12.34.environment.api.powerplatform.com:443/powerautomate/automations/direct/x/hidden{SECRETS}"
)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"url_env": None, "url_file": "/run/secrets/teams"},
        {"limits": {"per_second": 0.5, "per_hour": 60}},
        {"limits": {"per_hour": 1000}},
        {"allow_host": "gateway.example.org"},
        {"on_unknown": "skip"},
        {"rate": 0.2, "concurrency": 4},
    ],
)
def test_settings_that_make_sense_are_taken(change):
    settings = TeamsSettings.model_validate(GOOD | change)
    assert settings.uses_ledger
    assert [rate.seconds for rate in settings.limits.rates] == [1.0, 3600.0]


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        ({"url_env": None}, (), "one of url_env, url_file is needed"),
        ({"url_file": "a"}, (), "url_env and url_file exclude each other"),
        ({"url": FLOW}, ("url",), "Extra inputs"),
        ({"limits": {"per_second": 0}}, ("limits", "per_second"), "greater than 0"),
        ({"limits": {"per_minute": 1}}, ("limits", "per_minute"), "Extra inputs"),
        ({"allow_host": "https://gateway.example.org/x"}, ("allow_host",), "without https:// and path"),
        ({"on_unknown": "verify"}, ("on_unknown",), "write resend or skip"),
        ({"timeout_seconds": 0}, ("timeout_seconds",), "greater than 0"),
    ],
)
def test_a_mistake_is_told_at_its_place_and_without_the_url(change, place, reason):
    with pytest.raises(ValidationError) as refused:
        TeamsSettings.model_validate(GOOD | change)

    [error] = refused.value.errors(include_input=False, include_url=False, include_context=False)
    assert error["loc"] == place
    assert reason in error["msg"]
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "change"),
    [
        (FLOW, {}),
        (f"https://prod-12.westeurope.logic.azure.com:443/workflows/hidden/triggers/manual/paths/invoke{SECRETS}", {}),
        (f"https://PROD-1.api.powerautomate.com/x{SECRETS}", {}),
        (f"http://127.0.0.1:8080/x{SECRETS}", {}),
        (f"http://localhost:8080/x{SECRETS}", {}),
        ("https://gateway.example.org/teams/hidden", {"allow_host": "Gateway.example.org"}),
        ("http://gateway/teams/hidden", {"allow_host": "gateway", "allow_private": True}),
    ],
)
def test_a_workflows_url_is_taken_and_kept_as_it_is(url, change):
    settings = TeamsSettings.model_validate(GOOD | change)
    assert settings.flow_url(url).raw_path_qs == url.partition("://")[2].partition("/")[2].join(["/", ""])


@pytest.mark.parametrize(
    ("url", "change", "reason"),
    [
        (f"https://contoso.webhook.office.com/webhookb2/hidden{SECRETS}", {}, "which Microsoft has retired"),
        ("https://outlook.office.com/webhook/hidden", {}, "Workflows, create the one"),
        ("https://OUTLOOK.office365.com./webhook/hidden", {"allow_host": "outlook.office365.com"}, "has retired"),
        (f"https://hooks.example.org/hidden{SECRETS}", {}, "permit it with allow_host: hooks.example.org"),
        (f"https://logic.azure.com.example.org/hidden{SECRETS}", {}, "allow_host: logic.azure.com.example.org"),
        (f"https://xlogic.azure.com/hidden{SECRETS}", {}, "no host of Power Automate"),
        (f"https://hooks.example.org/hidden{SECRETS}", {"allow_host": "example.org"}, "no host of Power Automate"),
        (f"https://10.0.0.1/hidden{SECRETS}", {}, "not a public address"),
        (FLOW.replace("https", "http"), {}, "without encryption"),
        (FLOW.replace("https://", "https://user:hidden@"), {}, "holds a user name or password"),
        (FLOW.replace("&sig=hidden", ""), {}, 'set "Who can trigger the flow" to Anyone'),
        (FLOW.replace("sig=hidden", "sig="), {}, "has no sig"),
        (FLOW + "\n", {}, "percent-encoded"),
        ("hidden", {}, "must begin with https://"),
    ],
)
def test_another_url_is_refused_in_a_sentence_that_says_what_to_do_and_holds_no_more_than_the_host(url, change, reason):
    settings = TeamsSettings.model_validate(GOOD | change)
    with pytest.raises(ValueError) as refused:
        settings.check_secret("url", url)
    assert reason in str(refused.value)
    assert "hidden" not in str(refused.value)


ROUTES = """\
sinks:
  - name: ml
    kind: teams
    {key}
routes:
  - name: all
    sinks: [ml]
"""
RETIRED = "https://contoso.webhook.office.com/webhookb2/hidden"


def test_the_url_is_looked_at_with_the_configuration_where_it_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    routes = ROUTES.format(key="url_env: TEAMS_URL")
    loaded(WORKER, routes, {"HUB": CONNECTION, "TEAMS_URL": FLOW})

    [mistake] = mistakes(WORKER, routes, {"HUB": CONNECTION, "TEAMS_URL": RETIRED})
    assert mistake.startswith("routes.yaml:4:5: sinks[0].url_env: the URL is one of an Office 365 connector")
    assert "hidden" not in mistake

    (tmp_path / "url").write_text(RETIRED + "\n")
    [mistake] = mistakes(WORKER, ROUTES.format(key="url_file: url"), {"HUB": CONNECTION})
    assert mistake.startswith("routes.yaml:4:5: sinks[0].url_file: the URL is one of")


def test_the_url_need_not_be_there_to_explain_and_is_not_looked_at_then(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    routes = ROUTES.format(key="url_env: TEAMS_URL")
    assert loaded(WORKER, routes, {}, secrets=False).sinks[0].kind == "teams"
    assert loaded(WORKER, routes, {"TEAMS_URL": RETIRED}, secrets=False).sinks[0].kind == "teams"


def test_what_the_section_itself_gets_wrong_is_told_without_looking_at_the_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    routes = ROUTES.format(key="url_env: TEAMS_URL\n    timeout_seconds: 0")
    [mistake] = mistakes(WORKER, routes, {"HUB": CONNECTION, "TEAMS_URL": RETIRED})
    assert "timeout_seconds" in mistake
