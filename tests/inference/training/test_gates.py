"""A gate learns over parts that stay: gradients against a slow pass in float64, its beginning, files and refusals."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from inference.adapters.examination import CONFIG, WEIGHTS
from inference.adapters.gate_file import GATE_FILE, gate_digest, read_gate
from inference.adapters.gating import Part, gates_of
from inference.adapters.stored_gate import StoredGate
from inference.decoders.torch.gating import weighed
from inference.model.architecture import Architecture, read_architecture
from inference.model.weights import load_weights
from inference.tasks.card import CARD
from inference.tasks.gate_recipe import GateRecipe, gate_recipe_text, parse_gate_recipe
from inference.tasks.recipe import Lora, Schedule, load_recipe
from inference.training import command
from inference.training.adapter import Adapter, save_adapter
from inference.training.decoder import TrainingDecoder
from inference.training.examples import Batch, Encoded, collate
from inference.training.gate_learner import GateLearner, row_losses
from inference.training.gate_parts import PartRefused, Parts, read_parts
from inference.training.gate_run import GateJob, train_gate
from inference.training.gated import ArrowGate, EvenGate, FlowGate, Frozen, FrozenParts, Gated, RamoleGate, surviving
from inference.training.loop import train
from inference.training.mixed import Rectangle, lay_end_to_end
from inference.training.run import Cancelled
from inference.wire.protocol import GateRef
from tests.inference.training.through_peft import load_base

CPU = torch.device("cpu")
SHAPES = (
    Lora(rank=3, lora_alpha=6, target_modules=("q_proj", "v_proj")),
    Lora(rank=2, lora_alpha=8, target_modules=("v_proj", "down_proj", "o_proj")),
)
ROWS = [Encoded(tuple(range(start, start + 9)), 5) for start in (3, 40, 80)]


def random_adapter(architecture: Architecture, number: int) -> Adapter:
    made = Adapter(architecture, SHAPES[number], seed=number)
    made.values.add_(torch.randn(made.values.shape, generator=torch.Generator().manual_seed(number)) * 0.2)
    made.round()
    return made


@pytest.fixture(scope="module")
def architecture(base: Path) -> Architecture:
    return read_architecture(base / "config.json")


@pytest.fixture(scope="module")
def folders(base: Path, architecture: Architecture, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters of other ranks and targets."""
    home = tmp_path_factory.mktemp("parts")
    for number, name in enumerate(("first", "second")):
        save_adapter(random_adapter(architecture, number), "base", home / name)
    return home / "first", home / "second"


@pytest.fixture(scope="module")
def decoder(base: Path, architecture: Architecture) -> TrainingDecoder:
    return TrainingDecoder(architecture, load_weights(base, architecture, torch.float32))


@pytest.fixture(scope="module")
def parts(base: Path, architecture: Architecture, folders: tuple[Path, Path]) -> Parts:
    """In float32, so that nothing is rounded on the way."""
    read = read_parts(folders, base, architecture, 64, CPU)
    wide = {target: replace(part, a=part.a.float(), b=part.b.float()) for target, part in read.by_target.items()}
    return replace(read, by_target=wide)


def shaken(gate: Gated, scale: float = 0.3) -> Gated:
    """The gate at some place where nothing of it is zero."""
    chance = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in gate.parameters:
            parameter.add_(torch.randn(parameter.shape, generator=chance) * scale)
    return gate


def loss_of(decoder: TrainingDecoder, gate: Any, batch: Batch) -> Tensor:
    return decoder.losses(lay_end_to_end([batch]), [gate])[0]


def matrices(base: Path, folder: Path) -> dict[str, Tensor]:
    """Each module's whole update [in, out], in float64, from the adapter's own file."""
    saved, config = load_file(folder / WEIGHTS), json.loads((folder / CONFIG).read_text())
    found = {}
    for name in saved:
        if name.endswith("lora_A.weight"):
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            a, b = saved[name].double(), saved[name.replace("lora_A", "lora_B")].double()
            found[module] = (b @ a * config["lora_alpha"] / config["r"]).T
    return found


Coefficients = Callable[[dict[str, Tensor], int, str, Tensor, Tensor, list[Tensor | None]], Tensor]


def flow_formula(
    own: dict[str, Tensor], layer: int, target: str, x: Tensor, residual: Tensor, updates: list[Tensor | None]
) -> Tensor:
    scores = residual @ own[f"layers.{layer}.weight"].T
    return torch.softmax(scores / 1.3, -1) + own[f"layers.{layer}.bias"]


def ramole_formula(
    own: dict[str, Tensor], layer: int, target: str, x: Tensor, residual: Tensor, updates: list[Tensor | None]
) -> Tensor:
    query, out = x @ own[f"layers.{layer}.{target}.A_r"].T, own[f"layers.{layer}.{target}.B_r"]
    none = torch.zeros(x.shape[:-1], dtype=x.dtype)
    scores = [none if update is None else (query * (update @ out)).sum(-1) for update in updates]
    return torch.softmax(torch.stack(scores, -1) / 2.0, -1)


@contextmanager
def explicit(
    model: Any, whole: list[dict[str, Tensor]], own: dict[str, Tensor], formula: Coefficients
) -> Iterator[None]:
    """The slow way: transformers' own layers, to each of whose linears every part's whole update is added apart."""
    seen: dict[int, Tensor] = {}
    handles = []
    for number, layer in enumerate(model.model.layers):
        handles.append(
            layer.register_forward_pre_hook(
                lambda module, args, kwargs, number=number: seen.__setitem__(
                    number, args[0] if args else kwargs["hidden_states"]
                ),
                with_kwargs=True,
            )
        )
    for name, module in model.named_modules():
        if any(name in each for each in whole):
            number, target = int(name.split(".")[2]), name.rpartition(".")[2]

            def added(
                module: Any, args: Any, out: Tensor, name: str = name, n: int = number, t: str = target
            ) -> Tensor:
                updates = [args[0] @ each[name] if name in each else None for each in whole]
                weights = formula(own, n, t, args[0], seen[n], updates)
                return out + sum(weights[..., i, None] * each for i, each in enumerate(updates) if each is not None)

            handles.append(module.register_forward_hook(added))
    yield
    for handle in handles:
        handle.remove()


def gates(parts: FrozenParts, hidden: int) -> dict[str, tuple[Gated, Coefficients]]:
    return {
        "flow": (shaken(FlowGate(parts, hidden, 1, temperature=1.3)), flow_formula),
        "ramole": (shaken(RamoleGate(parts, g=4, seed=3)), ramole_formula),
    }


@pytest.mark.parametrize("kind", ["flow", "ramole"])
def test_loss_and_gradients_are_those_of_an_explicit_loop_in_float64(
    base: Path, decoder: TrainingDecoder, parts: Parts, folders: tuple[Path, Path], kind: str
) -> None:
    gate, formula = gates(parts.by_target, decoder.architecture.hidden_size)[kind]
    batch = collate(ROWS, 0)
    loss = loss_of(decoder, gate, batch)
    torch.autograd.backward(loss)
    model = in_float64(base)
    whole = [matrices(base, folder) for folder in folders]
    own = {name: tensor.double() for name, tensor in gate.named_tensors()}

    def slow(step: float, direction: dict[str, Tensor]) -> float:
        moved = {name: tensor + step * direction[name] for name, tensor in own.items()}
        with torch.no_grad(), explicit(model, whole, moved, formula):
            logits = model(input_ids=batch.token_ids, attention_mask=batch.mask).logits[:, :-1]
        assert logits.dtype == torch.float64
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels[:, 1:].flatten()))

    assert float(loss.detach()) == pytest.approx(slow(0.0, own), rel=1e-5)
    for seed in range(3):
        chance = torch.Generator().manual_seed(seed)
        direction = {name: torch.randn(t.shape, generator=chance, dtype=torch.float64) for name, t in own.items()}
        slope = (slow(1e-5, direction) - slow(-1e-5, direction)) / 2e-5
        assert along(gate, direction) == pytest.approx(slope, rel=2e-3, abs=1e-5)


def in_float64(base: Path) -> Any:
    """The base in transformers, whose norms and losses take float32 whatever the rest has."""
    model: Any = load_base(base, CPU, torch.float32)[0].double()
    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = lambda x, own=module: (
                own.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + own.variance_epsilon)
            )
    return model


def along(gate: Gated, direction: dict[str, Tensor]) -> float:
    """The slope of the loss along `direction` by the gradients that `gate` has."""
    values = [parameter.detach().clone() for parameter in gate.parameters]
    with torch.no_grad():
        for parameter in gate.parameters:
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
        slope = sum(float((tensor.double() * direction[name]).sum()) for name, tensor in gate.named_tensors())
        for parameter, value in zip(gate.parameters, values, strict=True):
            parameter.copy_(value)
    return slope


@pytest.mark.parametrize("kind", ["flow", "ramole"])
def test_a_gates_own_gradient_is_that_of_finite_differences_in_float64(kind: str) -> None:
    chance = torch.Generator().manual_seed(1)
    a, b = (torch.randn(1, *shape, generator=chance, dtype=torch.float64) for shape in ((6, 6), (6, 5)))
    gate: Any = gates({"q_proj": Frozen(a, b, (2, 6))}, 6)[kind][0]
    rows, residual = (torch.randn(3, 6, generator=chance, dtype=torch.float64, requires_grad=True) for _ in range(2))
    inputs = [each.detach().double().requires_grad_() for each in gate.parameters]

    def put(*values: Tensor) -> None:
        if kind == "flow":
            gate.weight, gate.bias = values
        else:
            gate.queries, gate.outputs = {"q_proj": values[0]}, {"q_proj": values[1]}

    def update(rows: Tensor, residual: Tensor, *values: Tensor) -> Tensor:
        put(*values)
        shares = gate.shares(Rectangle(slice(0, 3), 3, 1, (), ((0, 1), (), (1,)))) if kind == "ramole" else None
        shares = shares or gate.shares(Rectangle(slice(0, 3), 3, 1))
        weighed, b = shares("q_proj", 0, rows, residual)
        return weighed @ b

    assert torch.autograd.gradcheck(update, (rows, residual, *inputs))


@pytest.mark.parametrize("start", [0, 1])
def test_a_flow_gate_begins_with_the_loss_of_one_part_alone(
    base: Path, decoder: TrainingDecoder, parts: Parts, start: int
) -> None:
    plain = random_adapter(decoder.architecture, start)
    alone, fresh = (
        loss_of(decoder, each, collate(ROWS, 0))
        for each in (plain, FlowGate(parts.by_target, decoder.architecture.hidden_size, start))
    )
    torch.testing.assert_close(fresh, alone)


def test_what_a_gate_makes_of_a_row_is_what_serving_makes_of_it(parts: Parts, architecture: Architecture) -> None:
    rows, residual = torch.randn(2, 5, architecture.hidden_size, generator=torch.Generator().manual_seed(2))
    pairs = {target: split(part) for target, part in parts.by_target.items()}
    flow = shaken(FlowGate(parts.by_target, architecture.hidden_size, 0, temperature=0.7))
    router = shaken(RamoleGate(parts.by_target, 4, seed=1, top_k=1))
    arrow = ArrowGate(parts.by_target, parts.arrow, top_k=1)
    stored = {
        "flow": StoredGate("flow", dict(flow.named_tensors()), "", parts.digests, temperature=0.7),
        "ramole": StoredGate("ramole", dict(router.named_tensors()), top_k=1),
        "arrow": None,
    }
    for gate, (kind, kept) in zip((flow, router, arrow), stored.items(), strict=True):
        served = gates_of(pairs, GateRef(kind, top_k=1 if kind == "arrow" else 0), kept)  # type: ignore[arg-type]
        shares = gate.shares(Rectangle(slice(0, 5), 5, 1))
        found = shares("q_proj", 1, rows, residual)
        assert found is not None
        shrunk = rows @ parts.by_target["q_proj"].a[1]
        padded = torch.nn.functional.pad(shrunk, (0, 8 - shrunk.shape[1]))
        truth = weighed(served["q_proj"], 1, padded, residual if kind == "flow" else rows)[0]
        torch.testing.assert_close(found[0], truth[:, : shrunk.shape[1]])


def split(part: Frozen) -> list[Part | None]:
    """As serving has the parts of a target, which lie side by side here."""
    found: list[Part | None] = []
    for start, end in zip((0, *part.ends), part.ends, strict=False):
        found.append(Part(part.a[:, :, start:end], part.b[:, start:end]) if end > start else None)
    return found


def test_a_part_that_may_not_answer_changes_nothing(decoder: TrainingDecoder, parts: Parts) -> None:
    only = [replace(row, parts=(1,)) for row in ROWS]
    alone = loss_of(decoder, random_adapter(decoder.architecture, 1), collate(ROWS, 0))
    for gate in (EvenGate(parts.by_target), shaken(RamoleGate(parts.by_target, 4, seed=1))):
        torch.testing.assert_close(loss_of(decoder, gate, collate(only, 0)), alone)
    mixed = [replace(ROWS[0], parts=(0,)), replace(ROWS[1], parts=(1,)), ROWS[2]]
    torch.testing.assert_close(
        row_losses(decoder, EvenGate(parts.by_target), mixed, 0)[1].earned,
        row_losses(decoder, random_adapter(decoder.architecture, 1), [ROWS[1]], 0)[0].earned,
        rtol=1e-5,
        atol=1e-5,
    )


def test_an_adapter_beside_a_blend_in_one_pass_learns_what_it_would_alone(
    decoder: TrainingDecoder, parts: Parts
) -> None:
    plain, gate = random_adapter(decoder.architecture, 0), EvenGate(parts.by_target)
    batch = collate(ROWS, 0)
    both = decoder.losses(lay_end_to_end([batch, batch]), [gate, plain])
    torch.testing.assert_close(both[1], loss_of(decoder, random_adapter(decoder.architecture, 0), batch))
    torch.testing.assert_close(both[0], loss_of(decoder, gate, batch))


def test_at_least_two_parts_survive_and_those_that_are_dropped_hang_on_the_seed() -> None:
    drawn = [surviving((2, 5, 9), random.Random(seed), 0.5) for seed in range(60)]
    assert {len(each) for each in drawn} == {2, 3}
    assert {part for each in drawn for part in each} == {2, 5, 9}
    assert surviving((4,), random.Random(1), 0.9) == (4,)
    assert drawn == [surviving((2, 5, 9), random.Random(seed), 0.5) for seed in range(60)]


def test_the_loss_of_rows_does_not_hang_on_their_company(decoder: TrainingDecoder, parts: Parts) -> None:
    gate = EvenGate(parts.by_target)
    rows = [*ROWS, Encoded(tuple(range(20)), 17)]
    together = row_losses(decoder, gate, rows, 0)
    assert [int(each.possible) for each in together] == [4, 4, 4, 3]
    for row, found in zip(rows, together, strict=True):
        torch.testing.assert_close(found.earned, row_losses(decoder, gate, [row], 0)[0].earned)


BLEND = GateRecipe("flow", ("first", "second"), "second", schedule=Schedule(6, 4, 1e-2, 0.2, 100))
ROUTER = GateRecipe("ramole", ("first", "second"), g=3, top_k=1, schedule=Schedule(6, 4, 1e-2, 0.2, 100))


def job_of(gate: GateRecipe, folders: tuple[Path, Path], base: Path, data: Path, out: Path) -> GateJob:
    return GateJob(gate, folders, ((load_recipe("tweet_emotion"), data),), out, base, "tiny")


@pytest.mark.parametrize("recipe", [BLEND, ROUTER], ids=["flow", "ramole"])
def test_a_trained_gate_is_saved_as_it_is_read_with_its_parts_and_a_card(
    base: Path, data: Path, folders: tuple[Path, Path], parts: Parts, tmp_path: Path, recipe: GateRecipe
) -> None:
    job = job_of(recipe, folders, base, data, tmp_path / "out")
    trained = train_gate(job, lambda step: None, measured_on="test")
    gate = read_gate(job.out / GATE_FILE, hidden=32)
    assert (gate.kind, gate.base, gate.top_k) == (recipe.kind, "tiny", recipe.top_k)
    assert gate.parts == (parts.digests if recipe.kind == "flow" else ())
    assert not list(gate.mistakes(list(parts.digests), GateRef(recipe.kind)))
    card = (job.out / CARD).read_text(encoding="utf-8")
    assert f'gate = "{recipe.kind}"' in card
    assert 'parts = ["first", "second"]' in card
    assert f"loss_after = {trained.losses['loss_after']}" in card
    assert trained.n == 8
    assert trained.change is not None
    assert trained.before is not None
    assert trained.told()["kind"] == recipe.kind
    assert not (job.out / "checkpoint.pt").exists()


def test_the_name_of_many_parts_has_room_in_a_card(base: Path, data: Path) -> None:
    folders: Any = [Path(f"hellaswag_processed_{number}") for number in range(8)]
    assert len(job_of(BLEND, folders, base, data, Path("out")).name) <= 120


@pytest.mark.parametrize("recipe", [BLEND, ROUTER], ids=["flow", "ramole"])
def test_one_that_was_interrupted_ends_as_one_that_was_not(
    base: Path, data: Path, folders: tuple[Path, Path], tmp_path: Path, recipe: GateRecipe
) -> None:
    whole, halved = (job_of(recipe, folders, base, data, tmp_path / name) for name in ("whole", "halved"))
    train_gate(whole, lambda step: None)
    steps: list[int] = []
    with pytest.raises(Cancelled):
        train_gate(halved, lambda step: steps.append(step.number), lambda: len(steps) < 2)
    train_gate(halved, lambda step: steps.append(step.number))
    assert steps == [1, 2, 3, 4, 5, 6] or steps == [1, 2, 3, 3, 4, 5, 6]
    first, second = (read_gate(job.out / GATE_FILE) for job in (whole, halved))
    assert gate_digest(first) == gate_digest(second)


@pytest.mark.parametrize("most", [0, 6], ids=["before its first step", "after its last one"])
def test_one_is_cancelled_while_it_is_measured(
    base: Path, data: Path, folders: tuple[Path, Path], tmp_path: Path, most: int
) -> None:
    """Which takes as long as there are rows."""
    job, steps = job_of(BLEND, folders, base, data, tmp_path), list[int]()
    with pytest.raises(Cancelled):
        train_gate(job, lambda step: steps.append(step.number), lambda: len(steps) < most, measured_on="test")
    assert steps == [*range(1, most + 1)]
    assert not (tmp_path / GATE_FILE).exists()


def test_only_the_gate_learns(decoder: TrainingDecoder, parts: Parts) -> None:
    before = {target: (part.a.clone(), part.b.clone()) for target, part in parts.by_target.items()}
    gate = FlowGate(parts.by_target, decoder.architecture.hidden_size, 0)
    start = [parameter.detach().clone() for parameter in gate.parameters]
    train(decoder, [GateLearner("blend", gate, ROWS, Schedule(3, 2, 1e-2, max_length=20), 0)])
    assert all(not torch.equal(old, new) for old, new in zip(start, gate.parameters, strict=True))
    for target, (a, b) in before.items():
        assert torch.equal(a, parts.by_target[target].a)
        assert torch.equal(b, parts.by_target[target].b)


def test_parts_that_no_gate_can_weigh_are_refused_in_sentences(
    base: Path, architecture: Architecture, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    def told(*given: Path, most: int = 64) -> str:
        with pytest.raises(PartRefused) as refused:
            read_parts(given, base, architecture, most, CPU)
        return str(refused.value)

    assert "there is no adapter in" in told(folders[0], tmp_path / "nowhere")
    assert "named twice" in told(folders[0], folders[0])
    assert "ranks of the adapters add up to 6, above 5" in told(*folders, most=5)
    assert "is a DoRA, whose scale depends on its own update alone" in told(folders[1], dora(folders[0], tmp_path))
    assert "is refused" in told(folders[1], of_another_base(folders[0], tmp_path))


def dora(folder: Path, home: Path) -> Path:
    """`folder`'s adapter with magnitudes."""
    tensors, config = load_file(folder / WEIGHTS), json.loads((folder / CONFIG).read_text())
    for name in [name for name in tensors if "lora_B" in name]:
        tensors[name.replace("lora_B.weight", "lora_magnitude_vector")] = torch.ones(len(tensors[name]))
    return written(home / "dora", tensors, config | {"use_dora": True})


def of_another_base(folder: Path, home: Path) -> Path:
    tensors = {name: torch.cat([each, each], 1) for name, each in load_file(folder / WEIGHTS).items()}
    return written(home / "other", tensors, json.loads((folder / CONFIG).read_text()))


def written(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> Path:
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def test_the_command_trains_a_gate_of_several_tasks_and_says_what_it_is_worth(
    base: Path, data: Path, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.toml").write_text(
        f'[blend]\nkind = "flow"\nparts = ["{folders[0]}", "{folders[1]}"]\n[training]\nsteps = 2\nbatch = 2\n'
    )
    words = ["--task", "tweet_emotion", "--blend", str(tmp_path / "own.toml"), "--data", str(data)]
    words += ["--base", str(base), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert command.main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["n"], told["blend"]) == ("flow", 8, "first + second")
    assert (tmp_path / "out" / GATE_FILE).is_file()
    assert command.main([*words, "--together", "2"]) == 1
    assert "--together is of adapters" in capsys.readouterr().err
    assert command.main([*words, "--steps", "0"]) == 1
    assert "steps in [training] is 0; it must be a whole number" in capsys.readouterr().err


def test_the_command_refuses_arrow_and_a_part_that_is_nowhere(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "own.toml"
    words = ["--task", "tweet_emotion", "--blend", str(recipe), "--data", str(data), "--base", str(base)]
    for text, named in (
        ('kind = "arrow"\nparts = ["a", "b"]', "Arrow has nothing to train"),
        ('kind = "flow"\nparts = ["nobody", "b"]', "the part 'nobody' is no folder, and no shipped adapter"),
    ):
        recipe.write_text(f"[blend]\n{text}\n")
        assert command.main([*words, "--out", str(tmp_path / "out")]) == 1
        assert named in capsys.readouterr().err


@pytest.mark.parametrize("recipe", [BLEND, ROUTER], ids=["flow", "ramole"])
def test_a_recipe_is_read_back_from_its_text(recipe: GateRecipe) -> None:
    again = parse_gate_recipe(gate_recipe_text(recipe))
    assert replace(again, start=recipe.start) == recipe


def test_a_recipe_without_more_has_the_settings_of_its_paper() -> None:
    flow = parse_gate_recipe('[blend]\nkind = "flow"\nparts = ["a", "b"]')
    assert (flow.start, flow.schedule.steps, flow.schedule.batch, flow.schedule.warmup) == ("a", 250, 4, 0.2)
