"""Reads a compose file as a container engine would, and holds it against the Compose Specification.

    compose_check.py COMPOSE_FILE [YAML_FILE...]

Prints one JSON object: "faults" (words, none if it is good), "compose" (the file), "others" (the other
files, in their order).  compose-spec.json is the specification's own schema, unchanged: Copyright The
Compose Specification Authors, Apache-2.0, github.com/compose-spec/compose-spec at 170098ba07d9.
"""

import json
import pathlib
import sys

import jsonschema_rs
import yaml


class Strict(yaml.SafeLoader):
    """A key that stands twice is a mistake, not the last one's word."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"{node.start_mark}: stands twice: {twice}")
        return super().construct_mapping(node, deep)


def read(path):
    return yaml.load(pathlib.Path(path).read_text(encoding="utf-8"), Strict)


compose = read(sys.argv[1])
schema = json.loads(pathlib.Path(__file__).with_name("compose-spec.json").read_text(encoding="utf-8"))
faults = [
    "/".join(map(str, error.instance_path)) + ": " + error.message
    for error in jsonschema_rs.validator_for(schema).iter_errors(compose)
]
print(json.dumps({"faults": faults, "compose": compose, "others": [read(path) for path in sys.argv[2:]]}))
