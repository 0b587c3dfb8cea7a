"""docs/configuration.md: every key of both files, written from the schemas that `worker schema` prints.

`UPDATE_DOCS=1` writes the page anew; without it the test fails when the page says something else.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from worker.schema import routes_schema, worker_schema
from worker.settings import SinkSettings
from worker.sinks.table import KINDS

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"

Schema = Mapping[str, Any]


class Key(NamedTuple):
    """One row."""

    name: str
    form: str
    default: str
    told: str


def test_the_page_names_every_key_and_is_current():
    page = page_of(worker_schema(), routes_schema({name: kind.settings for name, kind in KINDS.items()}))
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "UPDATE_DOCS=1 writes it anew"


def page_of(worker: Schema, routes: Schema) -> str:
    parts = [HEAD, "## worker.yaml\n", _table(keys(worker, worker["$defs"]))]
    definitions = routes["$defs"]
    parts += ["## routes.yaml: routes\n", _table(keys(definitions["RouteSettings"], definitions))]
    parts += ["## routes.yaml: expectations\n", EXPECTATIONS, _table(keys(definitions["ExpectSettings"], definitions))]
    parts += ["## routes.yaml: conditions\n", CONDITIONS, _operators(definitions)]
    every = definitions["FileSettings"]["properties"].keys() & SinkSettings.model_fields.keys()
    shared = list(keys(definitions["FileSettings"], definitions))
    common = {key.name: key for key in shared if key.name.partition(".")[0].partition("[")[0] in every}
    common["kind"] = Key("kind", "text, needed", "", f"One of {', '.join(f'`{each}`' for each in KINDS)}.")
    parts += ["## routes.yaml: every sink\n", _table(common.values())]
    for name, settings in KINDS.items():
        own = [key for key in keys(definitions[settings.settings.__name__], definitions) if _is_own(key, common)]
        page = f"sinks/{name}.md"
        link = f" ([its page]({page}))" if (PAGE.parent / page).exists() else ""
        one_of = _exactly_one(definitions[settings.settings.__name__])
        told = f"Besides what every sink has{link}: {one_of}".strip()
        parts += [f"## Sinks of kind `{name}`\n", f"{told}\n", _table(own)]
    return "\n".join(parts)


def _is_own(key: Key, common: Mapping[str, Key]) -> bool:
    return key.name != "kind" and common.get(key.name) != key


def keys(schema: Schema, definitions: Mapping[str, Schema], before: str = "") -> Iterator[Key]:
    """The keys of a section, each followed by those of its own section."""
    needed = set(schema.get("required", ()))
    for name, each in schema["properties"].items():
        place = f"{before}{name}"
        sections = list(_sections(each, definitions))
        told = each.get("description") or " ".join(section.get("description", "") for section in sections)
        told += "".join(
            f" {_of_kind(section, sections)}{one}" for section in sections if (one := _exactly_one(section))
        )
        yield Key(place, _form(each, definitions) + (", needed" if name in needed else ""), _default(each), told)
        around = f"{place}[]." if _is_list(each) else f"{place}.*." if _is_mapping(each) else f"{place}."
        yield from _inside(sections, definitions, around)


def _inside(sections: list[Schema], definitions: Mapping[str, Schema], around: str) -> Iterator[Key]:
    """The keys of a section; of one that comes in several kinds, with the kind where only one has the key."""
    of_kind = {section["properties"]["kind"]["const"]: section for section in sections if len(sections) > 1}
    shared = set.intersection(*(set(section["properties"]) for section in sections)) if sections else set()
    if of_kind:
        yield Key(
            f"{around}kind", " or ".join(f"`{kind}`" for kind in of_kind) + ", needed", "", "Where progress is kept."
        )
    seen = {f"{around}kind"} if of_kind else set()
    for kind, section in of_kind.items() or [("", each) for each in sections]:
        for key in keys(section, definitions, around):
            if key.name not in seen:
                seen.add(key.name)
                only = kind and key.name.removeprefix(around) not in shared
                yield key._replace(told=f"{kind}: {key.told}") if only else key


def _operators(definitions: Mapping[str, Schema]) -> str:
    lines = ["| `operatorType` | what it takes |\n| --- | --- |\n"]
    for each in definitions["Condition"]["oneOf"]:
        taken = [name for name in ("value", "values") if name in each["required"]]
        operand = "".join(f"`{name}`: {_form(each['properties'][name], definitions)}" for name in taken)
        lines.append(f"| `{each['properties']['operatorType']['const']}` | {operand or 'nothing'} |\n")
    return "".join(lines)


def _of_kind(section: Schema, sections: list[Schema]) -> str:
    return f"{section['properties']['kind']['const']}: " if len(sections) > 1 else ""


def _exactly_one(section: Schema) -> str:
    """Which keys exclude each other, of which one is needed."""
    groups = [rule["oneOf"] for rule in section.get("allOf", ()) if "oneOf" in rule]
    named = (", ".join(f"`{key}`" for each in group for key in each["required"]) for group in groups)
    return " ".join(f"Exactly one of {keys} is needed." for keys in named)


def _alternatives(schema: Schema) -> list[Schema]:
    return [each for each in schema.get("anyOf") or schema.get("oneOf") or [schema] if each.get("type") != "null"]


def _is_list(schema: Schema) -> bool:
    return any(each.get("type") == "array" for each in _alternatives(schema))


def _is_mapping(schema: Schema) -> bool:
    return any(isinstance(each.get("additionalProperties"), dict) for each in _alternatives(schema))


def _sections(schema: Schema, definitions: Mapping[str, Schema]) -> Iterator[Schema]:
    for each in _alternatives(schema):
        if "$ref" in each:
            target = definitions[each["$ref"].rpartition("/")[2]]
            if "properties" in target:
                yield target
        elif (inside := each.get("items")) or isinstance(inside := each.get("additionalProperties"), dict):
            yield from _sections(inside, definitions)


_TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}


def _form(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    return " or ".join(dict.fromkeys(_one_form(each, definitions) for each in _alternatives(schema)))


def _one_form(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        return _one_form(target, definitions) if "enum" in target else "section"
    choices = schema.get("enum") or [schema[name] for name in ("const",) if name in schema]
    if choices:
        return ", ".join(f"`{each}`" for each in choices)
    return _form_of_type(schema, definitions)


def _form_of_type(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    match schema.get("type"):
        case "array":
            return f"list of {_form(schema['items'], definitions)}"
        case "object":
            of = schema.get("additionalProperties")
            if of is True:
                return "names with any value"
            return f"names with {_form(of, definitions)}" if isinstance(of, dict) and of else "section"
        case str() as name:
            path = schema.get("format") == "path"
            return ("path" if path else _TYPES[name]) + _bounds(schema)
        case _:
            return "any value"


def _bounds(schema: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    said = [f"{sign} {schema[key]:.15g}" for key, sign in signs.items() if key in schema]
    return f" {', '.join(said)}" if said else ""


def _default(schema: Schema) -> str:
    default = schema.get("default")
    if default in (None, "", [], {}) or isinstance(default, dict):
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _table(rows: Any) -> str:
    lines = [("key", "what it takes", "left out", "what it is"), ("---",) * 4]
    lines += [(f"`{key.name}`", *(_cell(text) for text in key[1:])) for key in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


HEAD = """\
# Every key of worker.yaml and routes.yaml

Written by `tests/contract/test_configuration_page.py` from the models that read the files, like the schemas that
`worker schema worker` and `worker schema routes` print.

**In an editor.** `config/worker.schema.json` and `config/routes.schema.json` are these schemas. The first line of
each shipped file, `# yaml-language-server: $schema=worker.schema.json`, names the one beside it: an editor with the
YAML language server (the YAML extension of VS Code, for instance) then completes keys, shows these sentences and
marks mistakes. For a file elsewhere write `worker schema routes > routes.schema.json` beside it; that one also knows
the kinds of sinks that other distributions bring. Older language servers say that they do not know draft 2020-12
wholly, and work all the same.

**`worker check`** reads both files and connects to nothing. A mistake is printed as `file:line:column: what is
wrong; what to write`, all of them at once, and the exit code is 2; with `--json` one object for each: `file`,
`line`, `column`, `mistake`. Secrets must be there: the variable or file that is missing is named. `worker run`
refuses to start with the same words. Where there is no mistake, it warns (`file:line:column: warning: …`, or
`warning` in place of `mistake`; the exit code stays 0) of

- a sink that no route names;
- a route that does nothing, because each of its sinks has each of its events from an earlier route. That is proved
  when the earlier route takes at least the same sources and types, and each of its conditions follows from one of
  the later route's on the same key: the same condition, listed values that all meet it, fewer values, a range within
  the range, a longer beginning or ending;
- a filter that no event can pass: two conditions on one key exclude each other (listed values that do not meet the
  other condition, bounds that leave nothing, beginnings of which none begins with the other, null wanted and not
  wanted). Where `enableAdvancedFilteringOnArrays` is set only the last is proved, since two elements may meet two
  conditions;
- `only` and `changed` ([routes.md](routes.md)) that cannot do what was meant: with `late: deliver`, where an older
  event comes all the same; at a sink that has all of the events by an earlier route; `only: latest` with
  `window_seconds: 0`; `changed` by a value that events of Azure ML never have, or that is another one in each event;
- expectations ([expectations.md](expectations.md)) of which nobody would be told, because no route takes
  `Worker.ExpectationMissed`, or each that does has `sources` without the worker's own; and an `after` or `then` that
  no event can pass, or that names nothing but that type; and a `correlate` without a template, which is one key for
  all events;
- a type under `Microsoft.MachineLearningServices.` that Azure ML does not send;
- a key such as `runStatus`, which should be `data.runStatus`: where all types of a filter begin with `Microsoft.`, no
  event has it at the top;
- a template that fails for every sample event (those of `worker send-test`) of the types that the sink's routes let
  through.

What is not mentioned may be wrong all the same; `worker explain` says of real events what becomes of them.

In the tables *section* stands for keys below this one, `[]` for each entry of a list, `.*` for each name. Secrets
are given as a variable (`KEY_env`) or a file (`KEY_file`), never as themselves.
"""

EXPECTATIONS = """\
Entries of `expect` ([its page](expectations.md)): exactly one of `within` (with `after` and `then`) and `every` (with
`sources`).
"""

CONDITIONS = """\
A condition in `advancedFilters`, of the filter or of a group of `any_of`, is an `operatorType`, a `key` (what is looked
at, such as `subject` or `data.runStatus`) and what the operator takes:
"""
