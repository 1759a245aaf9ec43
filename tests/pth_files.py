"""Writes files as torch.save does, without torch, so that tests can also write them wrongly.

What torch itself writes is covered by tests/testdata/torch_save.pth (tools/make_pth_golden.py).
"""

import dataclasses
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_jax.convert.checkpoint import open_checkpoint
from fer_jax.errors import FerJaxError

# The tiny ViT of `vit_tensors`.
WIDTH, PATCH, GRID, DEPTH = 32, 8, 3, 2

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}


@dataclasses.dataclass(frozen=True)
class Global:
    """A name, as the pickle opcode GLOBAL."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True)
class Call:
    """A global called with arguments; `state` is set with BUILD."""

    function: Global
    arguments: tuple[Any, ...] = ()
    state: Any = None


@dataclasses.dataclass(frozen=True)
class Stored:
    """A storage: ("storage", type, key, location, count)."""

    key: Any
    count: int
    dtype: str = "float32"


def tensor(
    storage: Stored, shape: tuple[int, ...], stride: tuple[int, ...] | None = None, offset: int = 0
) -> Call:
    """A tensor on a storage; contiguous unless a stride is given."""
    if stride is None:
        stride = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    hooks = Call(Global("collections", "OrderedDict"))
    function = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(function, (storage, offset, shape, stride, False, hooks))


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def opcodes(value: Any) -> bytes:
    """The pickle opcodes of a value, protocol 2."""
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            data = value.to_bytes(9, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return _text(value)
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            items = b"".join(opcodes(k) + opcodes(v) for k, v in value.items())
            return b"}(" + items + b"u"
        case Global():
            return f"c{value.module}\n{value.name}\n".encode()
        case Stored():
            kind = Global("torch", STORAGES[value.dtype])
            return opcodes(("storage", kind, value.key, "cpu", value.count)) + b"Q"
        case Call():
            call = opcodes(value.function) + opcodes(value.arguments) + b"R"
            return call if value.state is None else call + opcodes(value.state) + b"b"
    raise TypeError(type(value))


def namespace(**fields: Any) -> Call:
    """An argparse.Namespace, as pickle writes it."""
    return Call(Global("argparse", "Namespace"), (), fields)


def write_parts(
    path: Path,
    pickle: bytes,
    parts: Mapping[str, bytes] | None = None,
    *,
    compression: int = zipfile.ZIP_STORED,
    root: str = "archive",
) -> Path:
    """Writes an archive of a pickle and named parts."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", pickle)
        for name, data in ({"byteorder": b"little", "version": b"3\n"} | dict(parts or {})).items():
            archive.writestr(f"{root}/{name}", data)
    return path


def write_pth(path: Path, value: Any, storages: Mapping[str, np.ndarray], **options: Any) -> Path:
    """Writes a value that may hold `tensor(Stored(key, ...))` of the given storages."""
    parts = {f"data/{key}": array.tobytes() for key, array in storages.items()}
    return write_parts(path, b"\x80\x02" + opcodes(value) + b".", parts, **options)


def state_dict(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Call], dict[str, np.ndarray]]:
    """(state dict, storages) of arrays, each on a storage of its own."""
    value, storages = {}, {}
    for i, (name, array) in enumerate(arrays.items()):
        value[name] = tensor(Stored(str(i), array.size, array.dtype.name), array.shape)
        storages[str(i)] = np.ascontiguousarray(array)
    return value, storages


def mae_face_shapes(
    *,
    width: int = 768,
    depth: int = 12,
    patches: int = 196,
    decoder_width: int = 512,
    decoder_depth: int = 8,
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of mae_face_pretrain_vit_base.pth: 254 tensors, 111,907,840 values.

    With other numbers, those of a smaller file of the same kind.
    """
    yield "cls_token", (1, 1, width)
    yield "pos_embed", (1, 1 + patches, width)
    yield "mask_token", (1, 1, decoder_width)
    yield "decoder_pos_embed", (1, 1 + patches, decoder_width)
    yield from _affine("patch_embed.proj", (width, 3, 16, 16))
    for i in range(depth):
        yield from _block(f"blocks.{i}", width)
    yield from _affine("norm", (width,))
    yield from _affine("decoder_embed", (decoder_width, width))
    for i in range(decoder_depth):
        yield from _block(f"decoder_blocks.{i}", decoder_width)
    yield from _affine("decoder_norm", (decoder_width,))
    yield from _affine("decoder_pred", (768, decoder_width))


def _affine(name: str, shape: tuple[int, ...]) -> Iterable[tuple[str, tuple[int, ...]]]:
    return ((f"{name}.weight", shape), (f"{name}.bias", shape[:1]))


def _block(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _affine(f"{name}.norm1", (width,))
    yield from _affine(f"{name}.attn.qkv", (3 * width, width))
    yield from _affine(f"{name}.attn.proj", (width, width))
    yield from _affine(f"{name}.norm2", (width,))
    yield from _affine(f"{name}.mlp.fc1", (4 * width, width))
    yield from _affine(f"{name}.mlp.fc2", (width, 4 * width))


def vit_tensors(
    *, norm: str = "norm", classes: int = 0, decoder: bool = False, layer_scale: bool = False
) -> dict[str, np.ndarray]:
    """The state dict of a tiny ViT, every value different."""
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + GRID * GRID, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
    }
    names = [f"blocks.{i}" for i in range(DEPTH)] + (["decoder_blocks.0"] if decoder else [])
    for name in names:
        for part, outputs, inputs in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 4 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 4 * WIDTH),
        ):
            shapes[f"{name}.{part}.weight"] = (outputs, inputs)
            shapes[f"{name}.{part}.bias"] = (outputs,)
        for part in ("norm1", "norm2"):
            shapes[f"{name}.{part}.weight"] = shapes[f"{name}.{part}.bias"] = (WIDTH,)
        if layer_scale:
            shapes[f"{name}.ls1.gamma"] = shapes[f"{name}.ls2.gamma"] = (WIDTH,)
    shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (WIDTH,)
    if decoder:
        shapes |= {
            "mask_token": (1, 1, WIDTH),
            "decoder_pos_embed": (1, 1 + GRID * GRID, WIDTH),
            "decoder_pred.weight": (3 * PATCH * PATCH, WIDTH),
        }
    if classes:
        shapes |= {"head.weight": (classes, WIDTH), "head.bias": (classes,)}
    rng = np.random.default_rng(1)
    return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def write_checkpoint(folder: Path, arrays: dict[str, np.ndarray], name: str = "model.pth") -> Path:
    """A file as MAE's training writes: the model, and more beside it."""
    value, storages = state_dict(arrays)
    checkpoint = {"model": value, "epoch": 3, "args": namespace(lr=0.1), "optimizer": {"state": {}}}
    return write_pth(folder / name, checkpoint, storages)


def read_all(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a file."""
    checkpoint = open_checkpoint(path)
    return {name: checkpoint.values(name) for name in checkpoint.tensors}


def refused(path: Path) -> str:
    """The message of the refusal: one line that begins with the file."""
    with pytest.raises(FerJaxError) as caught:
        read_all(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message
