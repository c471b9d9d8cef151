"""Where folders of files are kept: the address of a store as a setting names it, and how sentences may show it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from inference.reading import Refused

PACKAGES: Final = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
"""What reaches the stores of a scheme; the extra of pip is called as the scheme."""
_ADDRESS: Final = re.compile(r"([a-z][a-z0-9+.-]{0,20})://(.{0,2000})", re.DOTALL)
_PLACE: Final = re.compile(r"[\w.-]{1,255}(/[\w.=-]{1,255}){0,20}", re.ASCII)
_SECRET: Final = re.compile(r"(?<=//)[^/@\s]*+@|\?\S*+")


class AddressRefused(Refused):
    """A setting that names no store that could be reached."""


@dataclass(frozen=True)
class Address:
    """A store at `place`: a bucket and what lies below it, or a folder of this machine.

    `variable` is the setting that names it. `options` is JSON, what the package that reaches it is given beside.
    """

    variable: str
    scheme: str
    place: str
    options: str = field(default="", repr=False)

    @property
    def is_local(self) -> bool:
        return self.scheme == "file"

    @property
    def bucket(self) -> str:
        return self.place.partition("/")[0]

    def below(self, folder: str) -> Address:
        """The part of the store that lies in `folder`."""
        return Address(self.variable, self.scheme, f"{self.place}/{folder}", self.options)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}"


def read_address(variable: str, text: str, options: str = "") -> Address:
    """What `text`, the value of `variable`, names, with the JSON of ``<variable>_OPTIONS``. Raises `AddressRefused`
    with a sentence in which no key is shown."""
    found = _ADDRESS.fullmatch(text)
    if found is None or found[1] not in {"file", *PACKAGES}:
        told = "is no address of a store; write file:///folder, s3://bucket/folder, gs://… or az://…"
        raise AddressRefused(f"{variable}={masked(text)} {told}")
    scheme, place = found[1], found[2].rstrip("/")
    if scheme == "file":
        if not place.startswith("/"):
            raise AddressRefused(f"{variable}={masked(text)} must be a whole path, such as file:///srv/adapters")
        return Address(variable, scheme, str(Path(place)))
    if not _PLACE.fullmatch(place) or ".." in place:
        told = "must be a bucket and folders, without keys or signs; credentials come from the environment"
        raise AddressRefused(f"{variable}={masked(text)} {told}, and the rest goes into {variable}_OPTIONS")
    if find_spec(PACKAGES[scheme]) is None:
        raise AddressRefused(f"{variable}={text} needs {PACKAGES[scheme]}; run `pip install 'loraland[{scheme}]'`")
    return Address(variable, scheme, place, _checked(variable, options))


def options_of(address: Address) -> dict[str, Any]:
    """The options of `address` as an object."""
    found: dict[str, Any] = json.loads(address.options or "{}")
    return found


def masked(text: str) -> str:
    """`text` without what an address in it may say of keys, and cut short."""
    return _SECRET.sub("…", text)[:200]


def _checked(variable: str, options: str) -> str:
    """Options may hold keys, so none of them is shown."""
    try:
        is_object = not options or isinstance(json.loads(options), dict)
    except ValueError:
        is_object = False
    if not is_object:
        told = 'is no JSON object; write one like {"endpoint_url": "https://minio.example.org"}, or leave it out'
        raise AddressRefused(f"{variable}_OPTIONS {told}")
    return options
