from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from inference.engine.sampler import RowSampling, SampledToken, accept, derived_seed, refusal, sample
from inference.wire.protocol import Sampling

VOCAB = 50


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(6, VOCAB, generator=torch.Generator().manual_seed(7)) * 2


def ask(prompt: tuple[int, ...] = (1,), output: tuple[int, ...] = (), seed: int = 3, **changes: object) -> RowSampling:
    barred = changes.pop("barred", ())
    return RowSampling(replace(Sampling(), **changes), seed, prompt, output, barred)  # type: ignore[arg-type]


def test_temperature_zero_takes_the_largest_logit(logits: torch.Tensor) -> None:
    tokens = [token.token_id for token in sample(logits, (ask(),) * 6)]
    assert tokens == logits.argmax(-1).tolist()


def test_a_draw_is_the_same_alone_and_in_any_batch(logits: torch.Tensor) -> None:
    settings = ask(temperature=1.3, top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.2, logprobs=3)
    alone = sample(logits[2:3], (settings,))[0]
    others = (ask(), ask(temperature=0.7, seed=8), settings, ask(temperature=2.0), ask(), ask(top_k=1))
    assert sample(logits, others)[2] == alone


def test_every_row_is_chosen_as_if_it_were_alone() -> None:
    logits = torch.randn(40, 20_000, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.5, 9, 40)[:, None]
    kinds: list[dict[str, object]] = [
        {},
        {"temperature": 0.9},
        {"temperature": 0.7, "top_p": 0.9, "logprobs": 5},
        {"temperature": 1.2, "top_k": 900, "min_p": 0.001},
        {"temperature": 1.1, "typical_p": 0.8},
        {"repetition_penalty": 1.2, "presence_penalty": 0.1},
        {"logprobs": 20},
        {"barred": (3,)},
    ]
    asked = [ask(prompt=(n, 5), output=(n,) * n, seed=n, **kinds[n % len(kinds)]) for n in range(40)]
    assert sample(logits, asked) == [sample(logits[n : n + 1], asked[n : n + 1])[0] for n in range(40)]


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.01, 1, 3, 12])
@pytest.mark.parametrize("changes", [{"top_p": 0.9}, {"top_p": 0.3}, {"top_k": 7}, {"top_k": 3000}, {"min_p": 0.2}])
def test_in_a_large_vocabulary_a_restriction_leaves_the_likely_tokens(spread: float, changes: dict[str, float]) -> None:
    row = torch.randn(1, 5000, generator=torch.Generator().manual_seed(2)) * spread
    ordered, ids = row[0].double().softmax(-1).sort(descending=True)
    count = {
        "top_p": int((ordered.cumsum(-1) - ordered < changes.get("top_p", 1)).sum()),
        "top_k": int(changes.get("top_k", 0)),
        "min_p": int((ordered >= changes.get("min_p", 0) * ordered[0]).sum()),
    }[next(iter(changes))]
    seen = {sample(row, [ask(temperature=1.0, seed=n, **changes)])[0].token_id for n in range(400)}
    assert seen <= set(ids[: count + 1].tolist())
    assert seen >= set(ids[:count][ordered[:count] > 0.04].tolist())


@pytest.mark.parametrize("temperature", [1e-45, 1e-9, 1e9, 1e300])
def test_an_absurd_temperature_still_gives_a_token(logits: torch.Tensor, temperature: float) -> None:
    tokens = [sample(logits[:1], [ask(temperature=temperature, seed=n)])[0].token_id for n in range(20)]
    assert (len(set(tokens)) == 1) == (temperature < 1)
    assert temperature > 1 or tokens[0] == int(logits[0].argmax())


@pytest.mark.parametrize("value", [1e-45, 1e-9, 1e9, 1e300])
@pytest.mark.parametrize("name", ["repetition_penalty", "presence_penalty", "frequency_penalty"])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_absurd_penalty_still_gives_a_token(logits: torch.Tensor, name: str, value: float, sign: int) -> None:
    changes = {name: value if name == "repetition_penalty" else sign * value}
    for temperature in (0.0, 1.0):
        settings = ask(temperature=temperature, prompt=(1, 2), output=(3, 3, 4), **changes)
        assert 0 <= sample(logits[:1], [settings])[0].token_id < VOCAB


def test_a_drafted_token_counts_as_said() -> None:
    row = torch.zeros(1, 4000)
    row[0, 9] = 2.0
    settings = {"temperature": 1.0, "presence_penalty": 1.0, "repetition_penalty": 1.5}
    for n in range(5):
        said = ask(output=(1, 2, 9), seed=n, **settings)
        assert sample(row, [replace(said, output_ids=(1,), draft=(2, 9))]) == sample(row, [said])


@pytest.mark.parametrize(
    ("sampled", "draft", "accepted"),
    [([5], [], 1), ([5, 6, 7], [5, 6], 3), ([5, 6, 7], [5, 9], 2), ([5, 6, 7], [4, 6], 1), ([None, 6], [5], 1)],
)
def test_tokens_count_as_long_as_they_stand_on_what_was_sampled(
    sampled: list[int | None], draft: list[int], accepted: int
) -> None:
    tokens = [SampledToken(5 if id is None else id, id is not None) for id in sampled]
    assert accept(tokens, draft) == tuple(tokens[:accepted])


def test_the_seed_and_the_index_decide_the_draw(logits: torch.Tensor) -> None:
    row = torch.zeros(1, 4000)
    first = [sample(row, (ask(output=(0,) * n, temperature=1.0, seed=5),))[0].token_id for n in range(6)]
    again = [sample(row, (ask(output=(0,) * n, temperature=1.0, seed=5),))[0].token_id for n in range(6)]
    other = [sample(row, (ask(output=(0,) * n, temperature=1.0, seed=6),))[0].token_id for n in range(6)]
    assert first == again
    assert first != other
    assert len(set(first)) > 1


def test_draws_follow_the_probabilities() -> None:
    row = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    counts = Counter(sample(row, (ask(temperature=1.0, seed=n),))[0].token_id for n in range(4000))
    for token, probability in enumerate((0.5, 0.3, 0.15, 0.05)):
        assert abs(counts[token] / 4000 - probability) < 0.03


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.79}, {0, 1}),
        ({"top_p": 0.81}, {0, 1, 2}),
        ({"top_p": 0.01}, {0}),
        ({"min_p": 0.5}, {0, 1}),
        ({"min_p": 1.0}, {0}),
        ({"typical_p": 0.2}, {1}),
        ({"typical_p": 0.79}, {0, 1}),
        ({"typical_p": 0.81}, {0, 1, 2}),
        ({"typical_p": 0.2, "top_k": 1}, {0}),
    ],
)
def test_a_restriction_leaves_the_likely_tokens(changes: dict[str, float], allowed: set[int]) -> None:
    row = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    seen = {sample(row, (ask(temperature=1.0, seed=n, **changes),))[0].token_id for n in range(300)}
    assert seen == allowed


def test_the_repetition_penalty_counts_prompt_and_answer() -> None:
    row = torch.tensor([[3.0, 2.9, 2.8, -1.0]])
    assert sample(row, (ask(prompt=(0,), output=(1,), repetition_penalty=1.5),))[0].token_id == 2


def test_presence_and_frequency_count_the_answer_alone() -> None:
    row = torch.tensor([[3.0, 2.9, 2.0]])
    assert sample(row, (ask(prompt=(0, 0), presence_penalty=1.5),))[0].token_id == 0
    assert sample(row, (ask(output=(0,), presence_penalty=1.5),))[0].token_id == 1
    assert sample(row, (ask(output=(0, 0, 1), frequency_penalty=0.5),))[0].token_id == 1
    assert sample(row, (ask(output=(0, 0, 1), frequency_penalty=1.0),))[0].token_id == 2


def test_a_barred_token_is_never_chosen() -> None:
    row = torch.tensor([[9.0, 0.0, 0.0]])
    seen = {sample(row, (ask(temperature=1.0, seed=n, barred=(0,)),))[0].token_id for n in range(50)}
    assert seen == {1, 2}
    assert sample(row, (ask(barred=(0,)),))[0].token_id == 1


def test_logprobs_describe_the_untouched_logits(logits: torch.Tensor) -> None:
    settings = ask(temperature=1.0, top_k=1, repetition_penalty=3.0, prompt=tuple(range(VOCAB)), logprobs=4)
    token = sample(logits[:1], (settings,))[0]
    expected = logits[0].log_softmax(-1)
    assert token.logprob == pytest.approx(expected[token.token_id].item())
    assert [token_id for token_id, _ in token.top] == expected.topk(4).indices.tolist()
    assert sample(logits[:1], (ask(logprobs=0),))[0].top == ()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_reported_for_their_row_alone(logits: torch.Tensor, bad: float) -> None:
    logits[1, 4] = bad
    tokens = sample(logits, (ask(),) * 6)
    assert [token.is_finite for token in tokens] == [True, False, True, True, True, True]


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_k": -1},
        {"min_p": 1.5},
        {"typical_p": 0.0},
        {"repetition_penalty": 0.0},
        {"max_tokens": 0},
        {"min_tokens": 300},
        {"logprobs": 21},
        {"stop": ("",)},
        {"stop": (3,)},
        {"stop": "word"},
        {"temperature": "hot"},
        {"max_tokens": 2.5},
        {"seed": "lucky"},
        {"top_k": True},
    ],
)
def test_bad_sampling_is_refused_by_name(changes: dict[str, object]) -> None:
    (name,) = changes
    sentence = refusal(replace(Sampling(), **changes))  # type: ignore[arg-type]
    assert sentence is not None
    assert sentence.startswith(f"{name} is ")


def test_the_defaults_are_accepted() -> None:
    assert refusal(Sampling()) is None


def test_a_missing_seed_is_derived_from_the_request() -> None:
    assert derived_seed("a") == derived_seed("a") != derived_seed("b")
    assert 0 <= derived_seed("a") < 2**53
