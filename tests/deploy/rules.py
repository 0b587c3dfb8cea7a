"""The alerts, as the tests of this folder see them."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "alerts" / "rules.yaml"
ALERTS = {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}


def renderer() -> ModuleType:
    """deploy/alerts/render.py, which is a script of its own."""
    spec = spec_from_file_location("render", RULES.with_name("render.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
