"""A provider that has the AWS provider's schema (aws.json, of which schema.py tells) and nothing else: Terraform
validates by it, and its tests mock what a provider does. python3 provider.py SOCKET serves until standard input ends.

TF_REATTACH_PROVIDERS leads Terraform here: no handshake, no encryption. The messages are those of Terraform's
tfplugin5.proto, written by hand because there are so few.
"""
import concurrent.futures
import json
import pathlib
import sys

import grpc

NESTING = {"single": 1, "list": 2, "set": 3}


def field(number, value):
    """A field of a message: a number, a text or another message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def fields(message):
    """The fields of a message by their number; of one that is there several times, the last."""
    found, at = {}, 0

    def number():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = number()
        if key & 7 == 0:
            found[key >> 3] = number()
        else:
            length = number()
            found[key >> 3] = message[at:at + length]
            at += length
    return found


def block(attributes, blocks):
    out = b""
    for name, (of, how) in attributes.items():
        words = {"required": 4, "optional": 5, "computed": 6}
        flags = b"".join(field(words[word], 1) for word in how.split())
        out += field(2, field(1, name) + field(2, json.dumps(of)) + flags)
    for name, (nesting, need, number, *inner) in blocks.items():
        counts = b""
        if nesting != "single":
            counts = field(4, int(need == "required")) + field(5, int(number == "one"))
        out += field(3, field(1, name) + field(2, block(*inner)) + field(3, NESTING[nesting]) + counts)
    return out


def schema():
    known = json.loads((pathlib.Path(__file__).parent / "aws.json").read_text())
    out = field(1, field(2, block({"region": ["string", "optional"]}, {})))
    for number, kind in ((2, "resource"), (3, "data")):
        for name, of in known[kind].items():
            out += field(number, field(1, name) + field(2, field(2, block(*of))))
    return out


SCHEMA = schema()
ANSWERS = {
    "GetSchema": lambda asked: SCHEMA,
    # The provider's configuration as it is, and no complaint.
    "PrepareProviderConfig": lambda asked: field(1, fields(asked)[1]),
    "ValidateResourceTypeConfig": lambda asked: b"",
    "ValidateDataSourceConfig": lambda asked: b"",
    "Configure": lambda asked: b"",
    # The state as it is: 3 is RawState, whose 1 is JSON; DynamicValue has JSON in 2.
    "UpgradeResourceState": lambda asked: field(1, field(2, fields(fields(asked)[3])[1])),
    "Stop": lambda asked: b"",
}


class Provider(grpc.GenericRpcHandler):
    def service(self, call):
        service, method = call.method.strip("/").split("/")
        answer = ANSWERS.get(method) if service == "tfplugin5.Provider" else None
        return answer and grpc.unary_unary_rpc_method_handler(lambda asked, _: answer(asked))


server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers([Provider()])
server.add_insecure_port(f"unix:{sys.argv[1]}")
server.start()
print("ready", flush=True)
sys.stdin.read()
