#!/bin/sh
# template.yaml parses, and every function in it is built from a binary that exists. (sam validate and cfn-lint say more.)
set -eu

repo=$(cd "$(dirname "$0")/../.." && pwd)
tools=${WALWARDEN_TOOLS:-$repo/.tools}
cd "$repo"
if [ ! -e template.yaml ]; then
    echo "no template.yaml yet: nothing to check"
    exit 0
fi
"$repo/tests/tools/install.sh" # brings a YAML parser
python=$tools/venv/bin/python
[ -x "$python" ] || python=python3

PYTHONPATH=$tools/packages/ministack exec "$python" - <<'PYTHON'
import json, os, subprocess, sys
import yaml


class Loader(yaml.SafeLoader):
    """CloudFormation's short forms (!Ref, !Sub, …) are tags: kept as their values."""


def short_form(loader, _suffix, node):
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True)


Loader.add_multi_constructor("!", short_form)
template = yaml.load(open("template.yaml"), Loader)
defaults = template.get("Globals", {}).get("Function", {})

metadata = subprocess.run(["cargo", "metadata", "--no-deps", "--format-version", "1"], check=True, capture_output=True)
binaries = {}  # directory of the package -> its binaries
for package in json.loads(metadata.stdout)["packages"]:
    directory = os.path.dirname(package["manifest_path"])
    binaries[directory] = {target["name"] for target in package["targets"] if "bin" in target["kind"]}
every_binary = set().union(*binaries.values())

problems, checked = [], 0
for name, resource in template.get("Resources", {}).items():
    if resource["Type"] != "AWS::Serverless::Function":
        continue
    properties = {**defaults, **resource.get("Properties", {})}
    if properties.get("PackageType") == "Image":
        continue
    checked += 1
    build = resource.get("Metadata", {}).get("BuildProperties", {})
    binary = build.get("Binary") or properties.get("Handler")
    source = properties.get("CodeUri")
    directory = os.path.realpath(source) if isinstance(source, str) else None
    if directory is None or not os.path.isdir(directory):
        # Built before packaging: the last folder of target/lambda/<binary> is the binary's name.
        if isinstance(source, str) and "target/lambda/" in source:
            binary = os.path.basename(source.rstrip("/"))
        else:
            problems.append(f"{name}: CodeUri {source!r} is no directory")
    if binary not in binaries.get(directory, every_binary):
        problems.append(f"{name}: there is no binary {binary!r}")

for problem in problems:
    print(f"template.yaml: {problem}", file=sys.stderr)
print(f"template.yaml: {checked} functions checked, {len(problems)} problems")
sys.exit(bool(problems))
PYTHON
