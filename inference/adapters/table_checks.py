"""Whether tables in an adapter's file, and rows of tables, are what its config says and fit the base."""

from __future__ import annotations

from inference.adapters.config import LoraConfig
from inference.adapters.findings import Binding, dims
from inference.adapters.identity import TensorInfo
from inference.adapters.tables import INDICES, WHOLE, TrainedTables, table_of
from inference.model.added_tokens import KEY
from inference.model.architecture import Architecture


def check_table(
    module: str, tensor: TensorInfo, config: LoraConfig | None, architecture: Architecture, binding: Binding
) -> None:
    """A whole table beside a LoRA. PEFT saves the base's own, whose numbers are the worker's to compare."""
    if not architecture.places(module):
        binding.misfits.add(f"{architecture.name} has no such module", module)
    else:
        is_trained = config is not None and table_of(module) in config.tables.whole
        check_height(module, tensor, architecture, binding, is_trained=is_trained)


def check_rows(trained: TrainedTables, binding: Binding) -> None:
    """The tables of which rows were trained, or all, are in the file, and no LoRA was trained beside."""
    has_rows, has_all = (set(map(table_of, parts)) for parts in (binding.rows, binding.tables))
    for problem, missing in (
        (f"{INDICES} names a table whose rows are not in the file", set(trained.saved) - has_rows),
        (f"{WHOLE} names a table that is not in the file", set(trained.whole) - has_all),
    ):
        for table in sorted(missing):
            binding.faults.add(problem, table)
    for module in binding.modules:
        if table_of(module) in {*trained.rows, *trained.whole}:
            binding.faults.add("Its rows were trained beside a LoRA on it; train one of the two", module)


def check_row_shapes(
    module: str, tensor: TensorInfo, trained: TrainedTables, architecture: Architecture | None, binding: Binding
) -> None:
    ids = trained.rows_of(table_of(module))
    if len(tensor.shape) != 2 or not ids or tensor.shape[0] != len(ids):
        shown = f"{dims(tensor.shape)} for {len(ids)} tokens of {INDICES}"
        return binding.faults.add(f"The trained rows are {shown}", module)
    if architecture is None:
        return None
    name, height, width = architecture.name, architecture.vocab_size, architecture.hidden_size
    if not architecture.places(module):
        return binding.misfits.add(f"{name} has no such module", module)
    if tensor.shape[1] != width:
        binding.misfits.add(f"The trained rows have {tensor.shape[1]} numbers where {name} has {width}", module)
    if beyond := [id for id in ids if id >= height]:
        sentence = f"{INDICES} names {len(beyond)} tokens that {name} does not have, the last of which is {height - 1}"
        binding.misfits.add(f"{sentence}; train tokens that it has", module)
    return None


def check_height(
    module: str, tensor: TensorInfo, architecture: Architecture, binding: Binding, *, is_trained: bool
) -> None:
    """A table may have fewer rows than the base's, which often has more than its tokenizer, and more if nothing of them
    was trained."""
    name, height, width = architecture.name, architecture.vocab_size, architecture.hidden_size
    if len(tensor.shape) != 2 or tensor.shape[1] != width or not tensor.shape[0]:
        return binding.misfits.add(f"A table of {dims(tensor.shape)} comes with it, not that of {name}", module)
    more = tensor.shape[0] - height
    if more > 0 and is_trained:
        return binding.misfits.add(
            f"The vocabulary was enlarged by {more} tokens, and all adapters share that of {name}. Train on tokens of "
            f"which its table has a row, up to {height - 1}; it may be the adapter's own (trainable_token_indices)",
            module,
        )
    if more > 0:
        told = f"The table has {more} rows beyond those of {name}, untrained, which are left out with their tokens"
        binding.remarks.add(told, module)
    return None


def check_tokens(config: LoraConfig, architecture: Architecture, binding: Binding) -> None:
    """Its own tokens have rows in the base's table."""
    if beyond := [token for token in config.tokens if token.id >= architecture.vocab_size]:
        names = ", ".join(token.content for token in beyond)
        sentence = f"{len(beyond)} of its own tokens ({KEY}) have no row in the table of {architecture.name}"
        binding.misfits.add(f"{sentence}, whose last is {architecture.vocab_size - 1}", names)
