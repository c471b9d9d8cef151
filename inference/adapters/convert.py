"""`python -m inference.adapters.convert FOLDER`: an adapter's weights, a pickle or parts, as one safetensors file.

So are an adapter of MLX as PEFT's, one with its linear recovery (CA-LoRA) as one LoRA, and a VeRA with the matrices
that it was saved without.

For owners, on their own machine; the server never runs it. Of a pickle only tensors are read, no code of it runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from inference.adapters.examination import CONFIG, WEIGHTS
from inference.adapters.flow_pickle import NotFlow, convert_flow
from inference.adapters.mlx import NotMlx, is_mlx, write_as_peft
from inference.adapters.projections import NotDrawn, lacks_projections, write_with_projections
from inference.adapters.recovery import NotJoined, is_recovered, write_as_one

PICKLES: Final = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")


class NotConverted(Exception):
    """A folder that is not converted; the message is a sentence."""


def convert(folder: Path, home: Path | None = None, base: Path | None = None) -> Path:
    """Write the weights in `folder` as one safetensors file beside them; of what needs another config too both files
    into `home`, by default a folder `peft` beside them. `base` is the folder of the model, which a VeRA without its
    matrices needs. The file is returned. Raises `NotConverted`."""
    if not folder.is_dir():
        raise NotConverted(f"{folder} is no folder; give the one that holds the adapter's files.")
    write = _writer(folder, base)
    home = (home or folder / "peft") if write else folder
    written = (CONFIG, WEIGHTS) if write else (WEIGHTS,)
    if found := next((home / name for name in written if (home / name).exists()), None):
        raise NotConverted(f"{found} is there already, and is not overwritten; that folder needs no converting.")
    _write_whole(home, write or partial(_join, folder))
    return home / WEIGHTS


def _writer(folder: Path, base: Path | None) -> Callable[[Path], None] | None:
    """What writes both files of the adapter in `folder` into another one; None if its config is PEFT's already."""
    if is_mlx(folder):
        return partial(write_as_peft, folder)
    if lacks_projections(folder):
        return partial(write_with_projections, folder, base, _all)
    return partial(write_as_one, folder, _all) if is_recovered(folder) else None


def _write_whole(home: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make its files in a folder of their own and move them into `home`, all of them or none."""
    is_new = not home.exists()
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".converted.", dir=home.parent if is_new else home) as made:
            write(Path(made))
            home.mkdir(exist_ok=True)
            _move_all(Path(made), home, is_new)
    except (NotMlx, NotJoined, NotDrawn) as error:
        raise NotConverted(str(error)) from error
    except (OSError, SafetensorError) as error:
        raise NotConverted(
            f"{home} could not be written: {error}; see that there is room, and that it is yours."
        ) from error


def _move_all(made: Path, home: Path, is_new: bool) -> None:
    """The weights come last of their names: where they are, all is."""
    moved: list[Path] = []
    try:
        for path in sorted(made.iterdir()):
            path.rename(home / path.name)
            moved.append(home / path.name)
    except OSError:
        for path in moved:
            path.unlink()
        if is_new:
            home.rmdir()
        raise


def _join(folder: Path, made: Path) -> None:
    """Write the parts or the pickle in `folder` as one file into `made`."""
    save_file(_all(folder), made / WEIGHTS, metadata={"format": "pt"})


def _all(folder: Path) -> dict[str, Tensor]:
    """The tensors in `folder`, of its one safetensors file, its parts or its pickle."""
    if (folder / WEIGHTS).is_file():
        return _read(folder / WEIGHTS)
    tensors: dict[str, Tensor] = {}
    for path in _sources(folder):
        for name, tensor in _read(path).items():
            if name in tensors:
                raise NotConverted(f"{path} holds {name}, and another part does too; each tensor may be in one part.")
            tensors[name] = tensor.detach().clone().contiguous()
    return tensors


def _sources(folder: Path) -> list[Path]:
    for kind in ("safetensors", "bin"):
        if parts := _parts(folder, kind):
            return parts
    for name in PICKLES:
        if (folder / name).is_file():
            return [folder / name]
    raise NotConverted(
        f"{folder} holds neither {PICKLES[0]} nor parts such as adapter_model-00001-of-00002.safetensors."
    )


def _parts(folder: Path, kind: str) -> list[Path]:
    """The parts that the index names, or all that lie there; each of them must be there."""
    found = sorted(folder.glob(f"adapter_model-*-of-*.{kind}"))
    index = folder / f"adapter_model.{kind}.index.json"
    if index.is_file():
        try:
            named = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
            found = [folder / Path(name).name for name in sorted(named)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise NotConverted(
                f"{index} has no weight_map of tensors and their files; save the adapter again."
            ) from error
    elif found:
        total = found[0].stem.rpartition("-of-")[2]
        number = int(total) if total.isdigit() and len(total) < 6 else len(found)
        found = [folder / f"adapter_model-{at:0{len(total)}}-of-{total}.{kind}" for at in range(1, number + 1)]
    if missing := [path.name for path in found if not path.is_file()]:
        raise NotConverted(f"{folder} lacks the part {missing[0]}; all parts of an adapter are needed.")
    return found


def _read(path: Path) -> dict[str, Tensor]:
    try:
        read: Callable[[Path], Any] = load_file if path.suffix == ".safetensors" else _unpickled
        found = read(path)
    except Exception as error:  # torch and safetensors raise of many kinds for a file that is not theirs
        reason = str(error).partition("\n")[0][:200]
        raise NotConverted(f"{path} cannot be read as tensors alone: {reason}") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise NotConverted(f"{path} holds more than named tensors; save the adapter's state_dict alone.")
    return found


def _unpickled(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m inference.adapters.convert", description="One safetensors file.")
    forms = "adapter_model.bin, adapter_model-0000N-of-0000M, MLX's adapters.safetensors, or CA-LoRA's two folders"
    parser.add_argument("folder", type=Path, help=f"with {forms}")
    parser.add_argument("--to", type=Path, help="where PEFT's two files go, if both are written (FOLDER/peft)")
    parser.add_argument("--base", type=Path, help="the folder of the model, for a VeRA without its matrices")
    parser.add_argument("--parts", nargs="+", help="of LoRA-Flow's gate, a file: its adapters' digests in order")
    parser.add_argument("--temperature", type=float, default=1.0, help="of that gate (1)")
    options = parser.parse_args(arguments)
    try:
        if options.parts:
            home = options.to or options.folder.parent
            print(f"Wrote {convert_flow(options.folder, tuple(options.parts), options.temperature, home)}.")
        else:
            print(f"Wrote {convert(options.folder, options.to, options.base)}.")
    except (NotConverted, NotFlow) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
