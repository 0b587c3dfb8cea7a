"""mail_templates.py and mail_settings.py: an operator's own templates, and how their mistakes are told."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.deliveries import ELEMENT, delivery_of
from tests.unit.configurations import ROUTES, WORKER, mistakes
from worker.errors import ConfigError, Rejected
from worker.sinks.email_settings import EmailSettings
from worker.sinks.mail_text import render
from worker.sinks.templating import OUTPUT_CHARACTERS

GOOD = {"name": "m", "host": "smtp.example.org", "from": "ml@example.org", "to": ["a@example.org"]}


def settings(**more) -> EmailSettings:
    return EmailSettings.model_validate(GOOD | more)


def mistake(**more) -> tuple[str, str]:
    with pytest.raises(ValidationError) as refused:
        settings(**more)
    [error] = refused.value.errors(include_url=False)
    return ".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")


def test_what_templates_may_use_is_there_for_an_event_and_for_a_digest():
    own = (
        "{{ notice.title }}{{ notice.severity }}{{ notice.sentence }}{{ notice.facts }}{{ notice.remarks }}"
        "{{ notice.link }}{{ notice.thread }}{{ notice.event_id }}{{ notice.kinds }}{{ notice.entries }}"
        "{{ event.id }}{{ event.type }}{{ event.source }}{{ event.subject }}{{ event.time }}{{ event.data | pretty }}"
        "{{ delivery.route }}{{ delivery.sink }}{{ delivery.idempotency_key }}{{ delivery.replayed }}"
        "{{ delivery.late_by_ms }}{{ delivery.superseded }}"
        "{% for entry in notice.entries %}{{ entry.time | moment }}{{ entry | link }}{% endfor %}"
        "{{ notice.severity | colour }}{{ notice.entries | map('details') | list }}"
    )
    for part in ("subject", "text", "html"):
        templates = settings(**{f"{part}_template": own}).templates()
        written = getattr(render(delivery_of(), templates), part)
        assert written.startswith("Run Failed: exp")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("a\n{% if %}", "the template cannot be read: line 2: Expected an expression"),
        ("{{ '' | random }}", "line 1: No filter named 'random'"),
        ("\n\n{{ titel }}", "with a sample event: line 3: 'titel' is undefined; correct the name, or say"),
        ("{{ notice.titel }}", "line 1: 'worker.notice.Notice object' has no attribute 'titel'"),
        ("{{ event.data.runStatus }}", "with a sample digest: line 1: 'dict object' has no attribute 'runStatus'"),
        ("{{ ''.__class__ }}", "unsafe"),
        ("{{ event.data.update({}) }}", "unsafe"),
        ("{% include 'secrets' %}", "line 1: no loader"),
        ("{{ lipsum() }}", "'lipsum' is undefined"),
        ("{{ 1 // 0 }}", "line 1: integer"),
        ("{{ 'x' * 3000000 }}", f"writes more than {OUTPUT_CHARACTERS:,} characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
@pytest.mark.parametrize("part", ["subject", "text", "html"])
def test_a_mistake_is_told_at_its_key_with_line_and_reason(tmp_path, part, template, reason):
    place, message = mistake(**{f"{part}_template": template})
    assert place == f"{part}_template"
    assert reason in message

    file = tmp_path / "mail.j2"
    file.write_text(template)
    assert mistake(**{f"{part}_template_file": str(file)}) == (f"{part}_template_file", message)


def test_a_file_that_is_no_text_or_not_there_is_told(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    assert "cannot be read: No such file" in mistake(html_template_file=str(tmp_path / "none"))[1]
    assert "is not UTF-8 text" in mistake(html_template_file=str(tmp_path / "bytes"))[1]


def test_two_templates_for_one_part_exclude_each_other(tmp_path):
    (tmp_path / "t").write_text("x")
    assert "exclude each other" in mistake(text_template="x", text_template_file=str(tmp_path / "t"))[1]


def test_worker_check_tells_the_line_of_the_file_that_names_the_template(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sink = "  - {name: mail, kind: email, host: h.example.org, from: a@example.org, to: [b@example.org], "
    routes = ROUTES.replace("routes:", f'{sink}html_template: "{{{{ nope }}}}"}}\nroutes:')
    [told] = mistakes(WORKER, routes)
    assert told.startswith(
        "routes.yaml:8:94: sinks[2].html_template: the template cannot be filled in with a sample event"
    )


def test_a_file_that_went_bad_after_it_was_checked_is_told_when_the_sink_is_built(tmp_path):
    file = tmp_path / "mail.j2"
    file.write_text("fine")
    checked = settings(text_template_file=str(file))
    file.write_text("{% if %}")
    with pytest.raises(ConfigError, match="sink m: a template: line 1"):
        checked.templates()


def test_what_an_event_lacks_makes_a_dead_letter_unless_the_template_says_what_stands_for_it():
    fails = settings(text_template="{% if not notice.entries %}{{ event.data.runStatus }}{% endif %}").templates()
    holds = settings(text_template="{{ event.data.runStatus | default('none') }}").templates()
    without = delivery_of(ELEMENT | {"data": {}})
    with pytest.raises(Rejected, match=r"sink out: text_template cannot be filled in, line 1: 'dict object' has no"):
        render(without, fails)
    assert render(without, holds).text == "none\n"


def test_a_subject_of_several_lines_is_one_and_an_empty_one_is_the_title():
    assert render(delivery_of(), settings(subject_template="a\r\nBcc: b").templates()).subject == "a Bcc: b"
    assert render(delivery_of(), settings(subject_template=" \n ").templates()).subject == "Run Failed: exp"


def test_values_are_escaped_in_html_and_not_in_text():
    own = settings(text_template="{{ event.subject }}", html_template="{{ event.subject }}").templates()
    mail = render(delivery_of(ELEMENT | {"subject": "<b> & 'c'"}), own)
    assert (mail.text, mail.html) == ("<b> & 'c'\n", "&lt;b&gt; &amp; &#39;c&#39;\n")


def test_the_built_in_templates_are_in_the_package_that_is_installed(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    mail = {"worker/sinks/mail/message.html", "worker/sinks/mail/message.txt"}
    assert mail | {"worker/status.html", "worker/status.css"} <= set(zipfile.ZipFile(wheel).namelist())
