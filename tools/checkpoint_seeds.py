"""Honest checkpoints for the campaign to mutate, and an assembler for hostile ones.

Nothing here needs torch. The files are small, so that a random bit often hits what matters.
"""

import dataclasses
import functools
import io
import struct
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from fer_jax.convert.pth_writer import write_pth
from fer_jax.safetensors_file import write_safetensors

HEADS = 2
_WIDTH, _PATCH, _GRID, _HIDDEN = 8, 2, 2, 16
_TORCH_SAVE = Path(__file__).resolve().parent.parent / "tests" / "testdata" / "torch_save.pth"


@dataclasses.dataclass(frozen=True)
class Seed:
    """An honest file.

    Attributes:
        name: what it is like.
        data: its bytes.
    """

    name: str
    data: bytes

    @property
    def is_zip(self) -> bool:
        """Whether it is a `.pth`."""
        return self.data[:2] == b"PK"


# The pickle assembler, protocol 2 unless an opcode is of a later one.


def text(value: str) -> bytes:
    """BINUNICODE."""
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    """LONG1: any integer of less than 256 bytes."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name_of(module: str, name: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{name}\n".encode()


def tuple_of(*parts: bytes) -> bytes:
    """MARK ... TUPLE."""
    return b"(" + b"".join(parts) + b"t"


def dict_of(pairs: Mapping[str, bytes]) -> bytes:
    """EMPTY_DICT MARK ... SETITEMS."""
    return b"}(" + b"".join(text(key) + value for key, value in pairs.items()) + b"u"


def call(function: bytes, *arguments: bytes) -> bytes:
    """REDUCE."""
    return function + tuple_of(*arguments) + b"R"


def storage(key: bytes, count: int, kind: str = "FloatStorage") -> bytes:
    """BINPERSID of a storage."""
    parts = (text("storage"), name_of("torch", kind), key, text("cpu"), integer(count))
    return tuple_of(*parts) + b"Q"


def tensor(
    stored: bytes, shape: Sequence[int], strides: Sequence[int] | None = None, offset: int = 0
) -> bytes:
    """`_rebuild_tensor_v2`; contiguous unless strides are given."""
    if strides is None:
        strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    sizes = [tuple_of(*map(integer, numbers)) for numbers in (shape, strides)]
    hooks = call(name_of("collections", "OrderedDict"))
    rebuild = name_of("torch._utils", "_rebuild_tensor_v2")
    return call(rebuild, stored, integer(offset), *sizes, b"\x89", hooks)


def pickle_of(value: bytes) -> bytes:
    """A whole pickle of one value's opcodes."""
    return b"\x80\x02" + value + b"."


def archive(
    members: Mapping[str, bytes] | Sequence[tuple[str, bytes]],
    *,
    compression: int = zipfile.ZIP_STORED,
    root: str = "archive/",
) -> bytes:
    """A zip file of members, dated 1980, so that it is the same each time."""
    pairs = members.items() if isinstance(members, Mapping) else members
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zip_file:
        for name, data in pairs:
            info = zipfile.ZipInfo(root + name)
            info.compress_type = compression
            with zip_file.open(info, "w") as member:
                member.write(data)
    return file.getvalue()


def pth_of(value: bytes, storages: Mapping[str, bytes], **options: object) -> bytes:
    """A `.pth` of a value's opcodes and the bytes of its storages."""
    parts = {f"data/{key}": data for key, data in storages.items()}
    members = {"data.pkl": pickle_of(value), "byteorder": b"little", **parts, "version": b"3\n"}
    return archive(members, **options)


def vit_tensors(*, timm: bool) -> dict[str, np.ndarray]:
    """A ViT of one block in float32: with LayerScale and a head, or with MAE's decoder."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, _WIDTH),
        "pos_embed": (1, 1 + _GRID * _GRID, _WIDTH),
        "patch_embed.proj.weight": (_WIDTH, 3, _PATCH, _PATCH),
        "patch_embed.proj.bias": (_WIDTH,),
        "norm.weight": (_WIDTH,),
        "norm.bias": (_WIDTH,),
    }
    for block in ("blocks.0",) if timm else ("blocks.0", "decoder_blocks.0"):
        layers = {
            "norm1": (_WIDTH,),
            "attn.qkv": (3 * _WIDTH, _WIDTH),
            "attn.proj": (_WIDTH, _WIDTH),
            "norm2": (_WIDTH,),
            "mlp.fc1": (_HIDDEN, _WIDTH),
            "mlp.fc2": (_WIDTH, _HIDDEN),
        }
        for layer, shape in layers.items():
            shapes |= {f"{block}.{layer}.weight": shape, f"{block}.{layer}.bias": shape[:1]}
        if timm:
            shapes |= {f"{block}.ls1.gamma": (_WIDTH,), f"{block}.ls2.gamma": (_WIDTH,)}
    if timm:
        shapes |= {"head.weight": (7, _WIDTH), "head.bias": (7,)}
    else:
        shapes |= {"mask_token": (1, 1, _WIDTH), "decoder_pos_embed": (1, 5, _WIDTH)}
    rng = np.random.default_rng(1)
    return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def training_pickle(arrays: Mapping[str, np.ndarray]) -> tuple[bytes, dict[str, bytes]]:
    """(value, storages) as a training leaves them: model, optimizer, arguments, position."""
    storages = {str(i): array.tobytes() for i, array in enumerate(arrays.values())}
    model = {
        # memoised, as pickle does
        name: tensor(storage(text(str(i)), array.size), array.shape) + b"q" + bytes([i])
        for i, (name, array) in enumerate(arrays.items())
    }
    storages["m"] = np.full(6, 0.25, np.float32).tobytes()
    moments = tensor(storage(text("m"), 6), (2, 3))
    fields = dict_of({"lr": b"G" + struct.pack(">d", 1.5e-4), "batch_size": integer(64)})
    values = {
        "model": dict_of(model),
        "optimizer": dict_of({"state": b"}K\x00" + dict_of({"exp_avg": moments}) + b"s"}),
        "epoch": integer(799),
        "args": name_of("argparse", "Namespace") + b")R" + fields + b"b",
    }
    return dict_of(values), storages


def _written(arrays: Mapping[str, np.ndarray], dtype: type, safetensors: bool) -> bytes:
    cast = {name: array.astype(dtype) for name, array in arrays.items()}
    layout = {name: (array.shape, array.dtype) for name, array in cast.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        (write_safetensors if safetensors else write_pth)(path, layout, cast.items())
        return path.read_bytes()


def without_checksums(data: bytes) -> bytes:
    """The archive as torch writes it with its checksums switched off: all zero."""
    changed = bytearray(data)
    with zipfile.ZipFile(io.BytesIO(data)) as zip_file:
        at = zip_file.start_dir
        for info in zip_file.infolist():
            changed[info.header_offset + 14 : info.header_offset + 18] = bytes(4)
            changed[at + 16 : at + 20] = bytes(4)
            at += 46 + sum(struct.unpack_from("<3H", data, at + 28))
    return bytes(changed)


@functools.cache
def make_seeds() -> tuple[Seed, ...]:
    """The honest files, the same in every process."""
    mae, timm = vit_tensors(timm=False), vit_tensors(timm=True)
    value, storages = training_pickle(mae)
    parallel = {f"module.{name}": array for name, array in timm.items()}
    return (
        Seed("pth of a training, MAE's names", pth_of(value, storages)),
        Seed("pth, timm's names, module. before them", _written(parallel, np.float32, False)),
        Seed("pth in half precision", _written(mae, np.float16, False)),
        Seed("pth in bfloat16", _written(timm, ml_dtypes.bfloat16, False)),
        Seed("pth that was compressed", pth_of(value, storages, compression=zipfile.ZIP_DEFLATED)),
        Seed("pth without checksums", without_checksums(pth_of(value, storages))),
        Seed("pth that PyTorch wrote", _TORCH_SAVE.read_bytes()),
        Seed("safetensors, MAE's names", _written(mae, np.float32, True)),
        Seed("safetensors, bfloat16, timm's names", _written(timm, ml_dtypes.bfloat16, True)),
    )
