"""A real server of S3 for tests, over HTTP on this machine: what it holds stays while it is away."""

from __future__ import annotations

import json
import logging
from uuid import uuid4

import boto3
from moto.server import ThreadedMotoServer

from inference.objects.address import Address, read_address

KEYS = {"key": "nobody", "secret": "whispered"}


class ObjectServer:
    """Serves `url` until `close`; between `leave` and `come_back` nobody answers there."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        client = {"aws_access_key_id": KEYS["key"], "aws_secret_access_key": KEYS["secret"]}
        self.client = boto3.client("s3", endpoint_url=self.url, region_name="us-east-1", **client)

    def new_store(self, variable: str = "ADAPTER_STORE") -> Address:
        """A place in a bucket of its own."""
        bucket = f"land-{uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=bucket)
        return read_address(variable, f"s3://{bucket}/kept/here", self.options)

    @property
    def options(self) -> str:
        """Those that reach it, and ask it once."""
        return json.dumps({"endpoint_url": self.url, "config_kwargs": {"retries": {"max_attempts": 0}}, **KEYS})

    def leave(self) -> None:
        self._server.stop()

    def come_back(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()

    def close(self) -> None:
        self._server.stop()
