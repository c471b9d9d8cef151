"""The one door: who is let in, how often a password may be tried, and how many are hashed at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.auth.hashers import Argon2PasswordHasher
from django.contrib.auth.models import User
from django.core import signing
from django.db import connections
from django.test import Client

from loraland.edge import hashing
from loraland.edge.hashing import AT_ONCE, Argon2, Turnstile
from loraland.playground import attempts

PASSWORD = "a long enough pass phrase"
LOGIN = "/accounts/login/"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def redis_cache(settings: Any, redis_url: str) -> None:
    """Counters in a real Redis, empty at first, as all web processes share them."""
    cache = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": redis_url}
    settings.CACHES = {"default": {**cache, "KEY_PREFIX": f"test-{time.monotonic_ns()}"}}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that windows are told by, at the beginning of one."""
    now = [300_000.0 * 60]
    monkeypatch.setattr(attempts.time, "time", lambda: now[0])
    return now


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password=PASSWORD)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Hashed:
    return Hashed(monkeypatch)


class Hashed:
    """How many passwords have been hashed, and how many at once at most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = self.most = self._running = 0
        self._lock = threading.Lock()
        for name in ("encode", "verify"):
            monkeypatch.setattr(Argon2PasswordHasher, name, self._watched(getattr(Argon2PasswordHasher, name)))

    def _watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def hashing(*arguments: Any) -> Any:
            with self._one_more():
                time.sleep(0.02)  # whoever else would hash by now does
                return original(*arguments)

        return hashing

    @contextmanager
    def _one_more(self) -> Iterator[None]:
        with self._lock:
            self.count += 1
            self._running += 1
            self.most = max(self.most, self._running)
        yield
        with self._lock:
            self._running -= 1


def attempt(
    name: str = "ada", password: str = "wrong", address: str = "192.0.2.1", client: Client | None = None
) -> Any:
    return (client or Client()).post(LOGIN, {"login": name, "password": password}, REMOTE_ADDR=address)


# One door


@pytest.mark.parametrize("method", ["get", "post"])
def test_the_door_of_the_admin_leads_to_the_one_door_and_back(client, method):
    User.objects.create_superuser("eve", password=PASSWORD)
    sent = {"username": "eve", "password": PASSWORD} if method == "post" else {}
    answer = getattr(client, method)("/admin/login/?next=/admin/auth/user/", sent)
    assert (answer.status_code, answer["Location"]) == (302, "/accounts/login/?next=/admin/auth/user/")
    answer = client.post(answer["Location"], {"login": "eve", "password": PASSWORD})
    assert (answer.status_code, answer["Location"]) == (302, "/admin/auth/user/")
    assert client.get("/admin/auth/user/").status_code == 200
    assert client.get("/admin/login/?next=/admin/auth/user/")["Location"] == "/admin/auth/user/"


def test_the_door_of_the_admin_leads_to_no_other_site(client):
    assert client.get("/admin/login/?next=https://evil.example/")["Location"] == "/accounts/login/?next=/admin/"


def test_a_user_who_is_no_member_of_the_staff_is_told_so(client, ada):
    client.force_login(ada)
    assert client.get("/admin/", follow=True).status_code == 403


# One counter


def test_a_name_is_tried_five_times_and_the_next_try_is_not_looked_at(ada, hashed):
    for _ in range(5):
        assert attempt().status_code == 200
    assert hashed.count == 5
    refused = attempt(password=PASSWORD)
    assert (refused.status_code, refused["Retry-After"]) == (429, "300")
    assert "too many attempts to sign in; wait 300 seconds" in refused.content.decode()
    assert hashed.count == 5


def test_the_door_of_the_admin_has_no_counter_of_its_own(ada, hashed):
    for _ in range(9):
        Client().post("/admin/login/", {"username": "ada", "password": "wrong"}, follow=True)
    assert hashed.count == 0


def test_a_name_that_nobody_has_is_counted_like_one_that_somebody_has(ada):
    for name in ("ada", "nobody"):
        assert [attempt(name, address=f"192.0.2.{at}").status_code for at in range(6)] == [200] * 5 + [429]


@pytest.mark.parametrize("name", ["LISA", "Li\u017fa", "L\u0131sa"])
def test_one_name_is_counted_once_however_its_letters_are_written(name):
    """PostgreSQL compares names in capitals, and the long s and the i without a dot have those of others."""
    assert [attempt("lisa", address=f"192.0.2.{at}").status_code for at in range(5)] == [200] * 5
    assert attempt(name, address="192.0.2.6").status_code == 429


def test_an_address_tries_ten_names_and_another_address_goes_on(ada):
    assert [attempt(f"name{at}").status_code for at in range(11)] == [200] * 10 + [429]
    assert attempt("name11", address="192.0.2.2").status_code == 200
    assert attempt("name12", address="::ffff:192.0.2.1").status_code == 429


def test_the_right_password_uses_up_no_attempt(ada):
    assert [attempt(password=PASSWORD).status_code for _ in range(8)] == [302] * 8
    assert [attempt().status_code for _ in range(6)] == [200] * 5 + [429]


def test_who_waits_as_long_as_was_said_may_try_again(ada, clock):
    clock[0] += 100
    codes = [attempt() for _ in range(6)]
    clock[0] += int(codes[-1]["Retry-After"]) - 1
    assert attempt(password=PASSWORD).status_code == 429
    clock[0] += 1
    assert attempt(password=PASSWORD).status_code == 302


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_attempts_at_one_time_are_counted_one_by_one(ada, hashed):
    codes = in_parallel(lambda at: attempt(address=f"192.0.2.{at}").status_code, 30)
    assert sorted(codes) == [200] * 5 + [429] * 25
    assert hashed.count == 5


def test_a_stranger_cannot_lock_an_owner_out_of_a_device_that_signed_in_before(ada):
    owner, stranger = Client(), Client()
    assert attempt(password=PASSWORD, client=owner).status_code == 302
    owner.post("/accounts/logout/")
    for at in range(6):
        locked = attempt(address=f"198.51.100.{at}", client=stranger)
    assert locked.status_code == 429
    assert attempt(password=PASSWORD, address="198.51.100.9").status_code == 429
    assert attempt(password=PASSWORD, client=owner).status_code == 302


def test_a_known_device_has_its_own_counter_and_for_its_own_name_alone(ada):
    device = Client()
    attempt(password=PASSWORD, client=device)
    device.post("/accounts/logout/")
    assert [attempt(client=device).status_code for _ in range(6)] == [200] * 5 + [429]
    assert attempt(password=PASSWORD).status_code == 302
    assert [attempt("eve", client=device).status_code for _ in range(6)] == [200] * 5 + [429]


def test_a_device_cannot_be_made_up(ada):
    forger = Client()
    forger.cookies[attempts.COOKIE] = signing.get_cookie_signer("other").sign("anything")
    assert [attempt(client=forger).status_code for _ in range(6)] == [200] * 5 + [429]


# Few hashes at once


def in_parallel(function: Callable[[int], Any], count: int) -> list[Any]:
    def alone(at: int) -> Any:
        try:
            return function(at)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(alone, range(count)))


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("known", [True, False])
def test_thirty_attempts_at_one_time_hash_two_passwords_at_once(known, hashed, monkeypatch):
    monkeypatch.setattr(hashing, "WAIT_SECONDS", 60)
    for at in range(30 if known else 0):
        User.objects.create(username=f"name{at}", password=Argon2().encode("secret", "some salt"))
    codes = in_parallel(lambda at: attempt(f"name{at}", address=f"192.0.2.{at}").status_code, 30)
    assert codes == [200] * 30
    assert hashed.count == (60 if known else 30)
    assert hashed.most == AT_ONCE


@pytest.mark.parametrize("turnstile", [Turnstile(1, 0), Turnstile(1, 5)])
def test_who_finds_no_turn_is_told_to_come_back_and_nothing_is_counted(ada, client, turnstile, monkeypatch):
    monkeypatch.setattr(hashing, "turnstile", turnstile)
    monkeypatch.setattr(hashing, "WAIT_SECONDS", 0.01)
    sent = {"username": "eve", "password1": PASSWORD, "password2": PASSWORD}
    with turnstile.turn():
        answers = [*(attempt(password=PASSWORD) for _ in range(6)), client.post("/accounts/signup/", sent)]
    assert {(answer.status_code, answer["Retry-After"]) for answer in answers} == {(503, "5")}
    assert "Try again in a few seconds" in answers[0].content.decode()
    assert not User.objects.filter(username="eve").exists()
    assert attempt(password=PASSWORD).status_code == 302


def test_a_hash_takes_the_least_memory_that_is_held_to_be_safe_and_older_ones_are_made_anew():
    older = Argon2PasswordHasher().encode(PASSWORD, "some salt")
    assert "m=102400" in older
    User.objects.create(username="ada", password=older)
    assert attempt(password=PASSWORD).status_code == 302
    assert "$argon2id$v=19$m=19456,t=2,p=1$" in User.objects.get().password


def test_sign_in_without_the_store_that_counts_is_refused_with_a_sentence(ada, settings, tmp_path):
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": f"unix://{tmp_path}/nothing.sock"}}
    refused = attempt(password=PASSWORD)
    assert (refused.status_code, refused["Retry-After"]) == (503, "5")
