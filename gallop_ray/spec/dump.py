"""A resolved sweep, defaults included, as text."""

import json

import yaml

from gallop_ray.spec.plain_yaml import Dumper
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.secrets import without_secrets


def resolved_yaml(sweep: Sweep) -> str:
    """A sweep file with every default written out and no password; loading it gives an otherwise equal sweep."""
    return yaml.dump(without_secrets(sweep).model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True)


def spec_json(sweep: Sweep) -> str:
    """The same as JSON, for records."""
    return json.dumps(without_secrets(sweep).model_dump(mode="json"), indent=2, ensure_ascii=False)
