"""The page of the API: everything that is offered, and calls to copy."""

from __future__ import annotations

from loraland.api.reference.document import document
from loraland.api.reference.examples import EXAMPLES, Example
from loraland.api.reference.operations import operations


def test_every_address_of_the_schema_is_on_the_page(client, db):
    page = client.get("/api/").content.decode()
    for path in document()["paths"]:
        assert path in page


def test_every_example_is_there_as_a_command(client, db):
    page = client.get("/api/").content.decode()
    for example in EXAMPLES:
        assert f"{example.method} {example.path}" in page


def test_a_command_quotes_its_body_for_a_shell():
    curl = Example("A quote", "/v1/completions", {"prompt": "it's"}).curl("https://land.example")
    assert curl.splitlines()[0] == "curl https://land.example/v1/completions \\"
    assert curl.endswith("""-d '{"prompt": "it'\\''s"}'""")


def test_a_parameter_is_told_with_its_kind_its_range_and_what_it_is_when_left_out():
    found = {operation.path: operation.parameters for operation in operations(document())}
    by_name = {parameter.name: parameter for parameter in found["/v1/chat/completions"]}
    assert by_name["temperature"].kind.startswith("number")
    assert by_name["stop"].kind == "string or list of string"
