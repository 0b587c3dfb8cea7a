"""JSON Schemas (draft 2020-12) of worker.yaml and routes.yaml, for editors: from the models that read these files.

A schema sees form: keys, types, choices, bounds, and which keys exclude each other. What takes more (names that routes
refer to, intervals that clash, templates, secrets that are missing) only `worker check` says. What a schema refuses,
`worker check` refuses; but a key that is given as null counts here as given.
"""

import ast
import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from textwrap import dedent
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema

from worker.config import RouteSettings, WorkerSettings
from worker.expect_settings import ExpectSettings
from worker.operators import OPERATORS, Operator
from worker.settings import SinkSettings, secret_keys
from worker.sinks.installed import UnusableKind, find_kind, kind_names
from worker.strict import Settings

Schema = dict[str, Any]

_FILTERS: tuple[tuple[type[BaseModel], str], ...] = (
    (RouteSettings, "filter"),
    (ExpectSettings, "after"),
    (ExpectSettings, "then"),
    (ExpectSettings, "events"),
)
"""Keys behind which a filter stands."""
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def usable_kinds() -> dict[str, type[SinkSettings]]:
    """The settings of every kind that can be used here, also of those that other distributions bring."""
    found = {}
    for name in kind_names():
        try:
            found[name] = find_kind(name).settings
        except UnusableKind:
            continue  # `worker check` says why, to those who use it
    return found


def worker_schema() -> Schema:
    """Of worker.yaml."""
    references, definitions = _definitions([WorkerSettings])
    whole = definitions.pop(references[WorkerSettings])
    return {"$schema": _DIALECT, "title": "worker.yaml", **whole, "$defs": definitions}


def routes_schema(kinds: Mapping[str, type[SinkSettings]]) -> Schema:
    """Of routes.yaml, with these kinds of sinks."""
    references, definitions = _definitions([RouteSettings, ExpectSettings, *kinds.values()])
    definitions |= _filter_definitions()
    for model, key in _FILTERS:
        definitions[references[model]]["properties"][key] |= _or_null({"$ref": "#/$defs/Filter"})
    for settings in kinds.values():
        definitions[references[settings]]["required"].append("kind")  # without it no one knows which it is
    one_of_the_kinds = {"oneOf": [_reference(references[settings]) for settings in kinds.values()]}
    return {
        "$schema": _DIALECT,
        "title": "routes.yaml",
        "description": "What happens to events: sinks are destinations, routes say which events go to which of them.",
        "type": "object",
        "additionalProperties": False,
        "required": ["sinks", "routes"],
        "properties": {
            "sinks": {"description": "The destinations.", "type": "array", "items": one_of_the_kinds},
            "routes": {
                "description": "Which events go where. An event goes to every sink that a matching route names, and to "
                "each sink once: the options of the first such route count.",
                "type": "array",
                "minItems": 1,
                "items": _reference(references[RouteSettings]),
            },
            "expect": {
                "description": "What must follow on what, and which sources must not be silent. What does not happen "
                "goes through the routes as an event of type Worker.ExpectationMissed.",
                "type": ["array", "null"],
                "items": _reference(references[ExpectSettings]),
            },
        },
        "$defs": definitions,
    }


def _definitions(models: Iterable[type[BaseModel]]) -> tuple[dict[type[BaseModel], str], dict[str, Schema]]:
    """The schemas of models and of all that they are made of, by name; and the names of these models."""
    wanted: list[tuple[Any, Any]] = [(model, "validation") for model in models]
    references, whole = models_json_schema(wanted, by_alias=True, schema_generator=_Generator)
    names: dict[Any, str] = {
        model: reference["$ref"].removeprefix("#/$defs/") for (model, _), reference in references.items()
    }
    return names, whole.get("$defs", {})


def _reference(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


class _Generator(GenerateJsonSchema):
    """As pydantic makes it, without names that say nothing, and with what our models say besides."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> Schema:
        found = super().model_schema(schema)
        found.pop("title", None)
        model = schema["cls"]
        properties = found.get("properties", {})
        for each in properties.values():
            if each.get("default", ...) is None:
                del each["default"]  # an editor would write it
        for name, told in _sentences(model).items():
            field = model.model_fields.get(name)
            if field and (key := field.alias or name) in properties:
                properties[key]["description"] = told
        if "kind" in properties:
            properties["kind"].pop("default", None)
        if issubclass(model, Settings):
            _describe_secrets(model, properties)
            found |= _rules(model)
        return found

    def enum_schema(self, schema: core_schema.EnumSchema) -> Schema:
        found = super().enum_schema(schema)
        found.pop("title", None)
        return found


def _sentences(model: type[BaseModel]) -> dict[str, str]:
    """What stands below the keys in the source: of the model and of what it is made from.

    pydantic can do that too, whenever a model is made: at each start of the worker, for a tenth of a second.
    """
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if issubclass(each, Settings):
            found |= _sentences_in(each)
    return found


@cache
def _sentences_in(model: type[Settings]) -> dict[str, str]:
    try:
        [made] = ast.parse(dedent(inspect.getsource(model))).body
    except (OSError, SyntaxError):
        return {}  # of a distribution that came without its source
    found = {}
    for key, below in pairwise(made.body if isinstance(made, ast.ClassDef) else ()):
        match key, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as told)):
                found[name] = " ".join(told.split())
    return found


def _describe_secrets(model: type[Settings], properties: dict[str, Schema]) -> None:
    """Says of `<key>_env` and `<key>_file` both what stands in the source beside one of the two, or beside the key."""
    for key in secret_keys(model):
        forms = [properties[name] for name in (f"{key}_env", f"{key}_file", key) if name in properties]
        if forms[0].get("additionalProperties"):
            continue  # a mapping says itself what its names are
        told = next((form["description"] for form in forms if "description" in form), None)
        if told:
            properties[f"{key}_env"]["description"] = f"{told} Here the name of an environment variable that holds it."
            properties[f"{key}_file"]["description"] = f"{told} Here a file that holds it, read again at each use."


def _rules(model: type[Settings]) -> Schema:
    """Which keys are needed, exclude each other, or go only with others."""
    together = list(_excluding(model))
    needing = {key: list(others) for key, others in model.goes_with.items()}
    return ({"allOf": together} if together else {}) | ({"dependentRequired": needing} if needing else {})


def _excluding(model: type[Settings]) -> Iterator[Schema]:
    needed = [set(keys) for keys in model.needs_one_of]
    for keys in model.needs_one_of:
        yield {"oneOf": [{"required": [key]} for key in keys]}
    for key in _bases(model):
        forms = [name for name in (key, f"{key}_env", f"{key}_file") if name in model.model_fields]
        if not any(set(forms) <= keys for keys in needed):
            yield from ({"not": {"required": [one, other]}} for n, one in enumerate(forms) for other in forms[n + 1 :])


def _bases(model: type[Settings]) -> Iterator[str]:
    """Keys that can be given in several forms, by one of them: the value, a variable, a file."""
    for name, field in model.model_fields.items():
        base = name.removesuffix("_file")
        forms = {base, f"{base}_env"} & model.model_fields.keys()
        if name != base and forms and not isinstance(field.default, Mapping):
            yield base


# ---- Filters, which `filters` reads itself


def _filter_definitions() -> dict[str, Schema]:
    text, flag = _or_null({"type": "string"}), _or_null({"type": "boolean"})
    conditions = _or_null({"type": "array", "items": {"$ref": "#/$defs/Condition"}})
    group = {
        "type": "object",
        "additionalProperties": False,
        "required": ["advancedFilters"],
        "properties": {"advancedFilters": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Condition"}}},
    }
    properties = {
        "includedEventTypes": (
            "Types of events, in any case; left out, empty or All: every type.",
            _or_null({"type": "array", "items": {"type": "string", "minLength": 1}}),
        ),
        "subjectBeginsWith": ("What the subject must begin with.", text),
        "subjectEndsWith": ("What the subject must end with.", text),
        "isSubjectCaseSensitive": ("Whether the two look at the case of the subject.", flag),
        "enableAdvancedFilteringOnArrays": ("Whether conditions look into arrays.", flag),
        "advancedFilters": ("Conditions, all of which must hold.", conditions),
        "any_of": (
            "Groups of conditions, one of which must hold whole; beyond Event Grid.",
            _or_null({"type": "array", "minItems": 1, "items": group}),
        ),
    }
    return {
        "Filter": {
            "description": "Event Grid's own filter of an event subscription, same names and meaning.",
            "type": "object",
            "additionalProperties": False,
            "properties": {name: {"description": told, **schema} for name, (told, schema) in properties.items()},
        },
        "Condition": {
            "description": "One demand on one value of the event.",
            "oneOf": [_condition(name, operator) for name, operator in OPERATORS.items()],
        },
    }


def _condition(name: str, operator: Operator) -> Schema:
    properties: dict[str, Schema] = {
        "operatorType": {"const": name},
        "key": {"description": "What is looked at: subject, data.runStatus, …", "type": "string", "minLength": 1},
    }
    one = _operand(name, operator)
    if operator.operand_field == "value":
        properties["value"] = one
    elif operator.operand_field == "values":
        properties["values"] = {"type": "array", "minItems": 1, "items": one}
    # Azure prints the field that an operator has no use for as null.
    unused = {field: {"type": "null"} for field in ("value", "values") if field not in properties}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [*properties],
        "properties": properties | unused,
    }


def _operand(name: str, operator: Operator) -> Schema:
    if "Range" in name:
        return {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    if str in operator.kinds:
        return {"type": "string"}
    return {"type": "boolean" if bool in operator.kinds else "number"}


def _or_null(schema: Schema) -> Schema:
    """Null is how Azure prints a field that was left out."""
    return {"anyOf": [schema, {"type": "null"}]}
