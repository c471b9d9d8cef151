"""What a setting may name as a store, and that no sentence about it shows a key."""

from __future__ import annotations

import pytest

from inference.objects import address as addresses
from inference.objects.address import AddressRefused, masked, read_address


@pytest.mark.parametrize(
    ("text", "scheme", "place"),
    [
        ("file:///srv/adapters/", "file", "/srv/adapters"),
        ("s3://land", "s3", "land"),
        ("s3://land/a/b-c.d/", "s3", "land/a/b-c.d"),
    ],
)
def test_an_address_is_a_scheme_and_a_place(text: str, scheme: str, place: str) -> None:
    found = read_address("ADAPTER_STORE", text)
    assert (found.scheme, found.place, found.is_local) == (scheme, place, scheme == "file")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/srv/adapters", "is no address of a store"),
        ("ftp://host/x", "is no address of a store"),
        ("file://adapters", "must be a whole path"),
        ("s3://", "must be a bucket"),
        ("s3://land/../other", "must be a bucket"),
        ("s3://AKIA:hush@land/x", "credentials come from the environment"),
        ("s3://land/x?sig=hush", "credentials come from the environment"),
        ("http://AKIA:hush@land/x", "is no address of a store"),
    ],
)
def test_anything_else_is_refused_with_a_sentence_without_keys(text: str, told: str) -> None:
    with pytest.raises(AddressRefused, match=told) as refused:
        read_address("ADAPTER_STORE", text)
    assert "ADAPTER_STORE=" in str(refused.value)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("options", ["hush", "[1]", '"hush"', "{"])
def test_options_are_an_object_of_json_and_never_shown(options: str) -> None:
    with pytest.raises(AddressRefused, match="ADAPTER_STORE_OPTIONS is no JSON object") as refused:
        read_address("ADAPTER_STORE", "s3://land/x", options)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(("scheme", "package"), addresses.PACKAGES.items())
def test_a_package_that_is_missing_is_named(scheme: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "find_spec", lambda name: None)
    with pytest.raises(AddressRefused, match=rf"needs {package}; run `pip install 'loraland\[{scheme}\]'`"):
        read_address("MODEL_STORE", f"{scheme}://land/x")


def test_keys_within_the_words_of_others_are_masked() -> None:
    said = "GET https://name:hush@store.example/b/x?X-Amz-Signature=hush&y=1 failed"
    assert masked(said) == "GET https://…store.example/b/x… failed"
