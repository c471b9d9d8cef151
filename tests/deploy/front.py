"""A real nginx with deploy/nginx.conf before hosts of a site."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tests.deploy.hosts import REPO, Host, free_port
from tests.patience import PATIENCE, patiently

NGINX: Final = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
TEMPLATE: Final = (REPO / "deploy" / "nginx.conf").read_text()
AROUND: Final = """
{user}
daemon off;
pid {home}/nginx.pid;
error_log {home}/error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    {inside}
}}
"""


@dataclass(frozen=True)
class Front:
    """What a visitor sees: `url` with TLS, and `plain` without."""

    url: str
    plain: str
    trust: ssl.SSLContext
    home: Path

    def client(self, local: str = "127.0.0.1", **more: Any) -> httpx.Client:
        """A visitor at the address `local`, all of which are this machine's."""
        return httpx.Client(
            base_url=self.url,
            transport=httpx.HTTPTransport(verify=self.trust, local_address=local),
            timeout=PATIENCE,
            **more,
        )


@contextmanager
def front(home: Path, hosts: Sequence[Host]) -> Iterator[Front]:
    """nginx before `hosts` until the block ends."""
    assert NGINX
    home.mkdir()
    trust = certificate(home)
    ports = {"443": free_port(), "80": free_port()}
    servers = "\n".join(f"server {host.at} max_fails=1 fail_timeout=2s;" for host in hosts)
    values = {"SERVER_NAME": "localhost", "TLS_DIR": str(home), "WEB_SERVERS": servers}
    configuration = home / "nginx.conf"
    user = "user root;" if os.getuid() == 0 else ""
    inside = moved(filled(TEMPLATE, values), ports)
    configuration.write_text(AROUND.format(user=user, home=home, inside=inside))
    process = subprocess.Popen([NGINX, "-p", str(home), "-e", str(home / "error.log"), "-c", str(configuration)])
    found = Front(f"https://localhost:{ports['443']}", f"http://localhost:{ports['80']}", trust, home)
    try:
        _wait(process, found)
        yield found
    finally:
        process.terminate()
        process.wait(PATIENCE)


def filled(template: str, values: Mapping[str, str]) -> str:
    """What the image's envsubst makes of it: the variables that are set, and none of nginx's own."""
    return re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], template)


def moved(text: str, ports: Mapping[str, int]) -> str:
    """The configuration with other ports, on the loopback alone."""
    text = re.sub(r"listen \[::\].*", "", text)
    return re.sub(r"listen (\d+)", lambda found: f"listen 127.0.0.1:{ports[found[1]]}", text)


def certificate(home: Path) -> ssl.SSLContext:
    """A certificate of its own for `localhost`, and a context that trusts it."""
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    words += ["-keyout", str(home / "tls.key"), "-out", str(home / "tls.crt")]
    subprocess.run(words, check=True, capture_output=True)
    return ssl.create_default_context(cafile=str(home / "tls.crt"))


def _wait(process: subprocess.Popen[bytes], found: Front) -> None:
    for _ in patiently():
        assert process.poll() is None, (found.home / "error.log").read_text()
        try:
            httpx.get(found.plain, timeout=PATIENCE)
            return
        except httpx.TransportError:
            time.sleep(0.02)
    raise AssertionError("nginx does not answer")
