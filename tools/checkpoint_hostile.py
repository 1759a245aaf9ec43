"""Pickles that are written to do harm: run code, hang, ask for memory, or point outside the file.

Every function takes a generator and returns a whole file. A payload that ran would create a file
named `SENTINEL` in the working directory.
"""

import pickle
import struct
import zipfile
from collections.abc import Callable

import checkpoint_seeds as seeds
import numpy as np
from checkpoint_seeds import call, dict_of, integer, name_of, storage, tensor, text, tuple_of

Random = np.random.Generator
SENTINEL = "fer_jax_campaign_ran"

_SHELL = f"touch {SENTINEL}"
_PYTHON = f"open({SENTINEL!r}, 'w').close()"
_MIB = 1 << 20

# (module, name, opcodes of the arguments)
_CALLS = (
    ("os", "system", (text(_SHELL),)),
    ("posix", "system", (text(_SHELL),)),
    ("nt", "system", (text(_SHELL),)),
    ("os", "popen", (text(_SHELL),)),
    ("os", "mkdir", (text(SENTINEL),)),
    ("os", "execvp", (text("touch"), b"](" + text("touch") + text(SENTINEL) + b"e")),
    ("posix", "fork", ()),
    ("subprocess", "Popen", (text(_SHELL), integer(-1), b"N", b"N", b"N", b"N", b"N", b"\x88\x88")),
    ("subprocess", "check_output", (b"](" + text("touch") + text(SENTINEL) + b"e",)),
    ("builtins", "eval", (text(_PYTHON),)),
    ("builtins", "exec", (text(_PYTHON),)),
    ("__builtin__", "eval", (text(_PYTHON),)),
    ("__builtin__", "execfile", (text(SENTINEL),)),
    ("builtins", "compile", (text(_PYTHON), text("x"), text("exec"))),
    ("builtins", "__import__", (text("this"),)),
    ("builtins", "open", (text(SENTINEL), text("w"))),
    ("builtins", "getattr", (name_of("torch", "FloatStorage"), text("__class__"))),
    ("builtins", "breakpoint", ()),
    ("importlib", "import_module", (text("antigravity"),)),
    ("runpy", "run_path", (text("/etc/hostname"),)),
    ("code", "interact", ()),
    ("pty", "spawn", (text("touch"),)),
    ("shutil", "rmtree", (text("nothing-here"),)),
    ("socket", "create_connection", (tuple_of(text("127.0.0.1"), integer(9)),)),
    ("ctypes", "CDLL", (b"N",)),
    ("webbrowser", "open", (text("http://127.0.0.1:9"),)),
    ("pickle", "loads", (b"B\x00\x00\x00\x00",)),
    ("numpy", "load", (text(SENTINEL), b"N", b"\x88")),
    ("numpy", "fromfile", (text("/etc/hostname"),)),
    ("torch", "load", (text("http://127.0.0.1:9"),)),
    ("torch.hub", "load", (text("somebody/something"), text("model"))),
    ("torch.serialization", "load", (text(SENTINEL),)),
    ("torch.utils._config_module", "load_config", (b"B\x00\x00\x00\x00",)),
    ("torch.storage", "_load_from_bytes", (b"B\x00\x00\x00\x00",)),
    ("torch.jit", "load", (text(SENTINEL),)),
    ("torch.nn.modules.linear", "Linear", (integer(1 << 40), integer(1 << 40))),
    ("torch", "zeros", (integer(1 << 50),)),
    ("numpy", "zeros", (integer(1 << 50),)),
    ("builtins", "bytearray", (integer(1 << 40),)),
    ("builtins", "range", (integer(1 << 62),)),
    ("operator", "attrgetter", (text("__class__.__base__"),)),
    ("functools", "partial", (name_of("os", "system"), text(_SHELL))),
    ("fer_jax.convert.pth", "read_pth", (text("/etc/hostname"),)),
    ("_codecs", "encode", (text("x" * 99), text("rot13"))),
    ("collections", "OrderedDict.__subclasses__", ()),
    ("torch._utils", "_rebuild_tensor_v2.__globals__", ()),
)


def runs_code(rng: Random) -> bytes:
    """A call of something that runs code, in one of many spellings, somewhere in a model."""
    module, name, arguments = _CALLS[rng.integers(len(_CALLS))]
    packed = tuple_of(*arguments)
    modern = b"\x8c" + bytes([len(module)]) + module.encode()
    modern += b"\x8c" + bytes([len(name)]) + name.encode() + b"\x93"
    plain = name_of(module, name)
    bound = name_of("argparse", "Namespace") + b")R"
    spelled = (
        plain + packed + b"R",
        modern + packed + b"R",
        plain + packed + b"\x81",  # NEWOBJ
        plain + packed + b"}\x92",  # NEWOBJ_EX
        b"(" + b"".join(arguments) + f"i{module}\n{name}\n".encode(),  # INST
        b"(" + plain + b"".join(arguments) + b"o",  # OBJ
        bound + dict_of({"__setstate__": plain}) + b"b" + dict_of({"x": text(_SHELL)}) + b"b",
        plain + dict_of({"__setstate__": text("x")}) + b"b",
        bound + tuple_of(b"N", dict_of({"__class__": plain})) + b"b",
        b"\x82" + bytes([rng.integers(1, 256)]) + packed + b"R",  # EXT1
        b"\x83\x01\x00" + packed + b"R",  # EXT2
        b"\x84\x01\x00\x00\x00" + packed + b"R",  # EXT4
        call(name_of("collections", "defaultdict"), plain) + b"q\x05h\x05" + text("k") + b"Ns",
        call(name_of("collections", "Counter"), plain),
        call(name_of("torch._tensor", "_rebuild_from_type_v2"), plain, b"N", packed, b"N"),
        call(name_of("torch._utils", "_rebuild_parameter"), plain, b"\x88", b"N"),
        f"P{module}.{name}\n".encode(),  # PERSID
        plain + b"Q",
        f"S'{module}'\n".encode() + text(name) + b"\x93" + packed + b"R",
    )[rng.integers(19)]
    return _placed(rng, spelled)


def _placed(rng: Random, spelled: bytes) -> bytes:
    """A value in the place of the file, of a tensor, of a key, of what stands beside the model."""
    good = tensor(storage(text("0"), 6), (2, 3))
    model = dict_of({"cls_token": good})
    value = (
        spelled,
        dict_of({"model": model, "args": spelled}),
        dict_of({"model": dict_of({"cls_token": good, "norm.weight": spelled})}),
        b"}" + spelled + model + b"s",
        tensor(spelled, (2, 3)),
        tensor(tuple_of(text("storage"), spelled, text("0"), text("cpu"), integer(6)) + b"Q", (6,)),
        model + dict_of({"__setstate__": spelled}) + b"b",
        spelled + b"0" + model,
    )[rng.integers(8)]
    return seeds.pth_of(value, {"0": np.arange(6, dtype=np.float32).tobytes()})


def python_wrote(rng: Random) -> bytes:
    """The same harm as Python's own pickle module writes it, in any protocol."""
    import os
    import subprocess

    class Harm:
        def __reduce__(self) -> tuple[object, ...]:
            return [(os.system, (_SHELL,)), (eval, (_PYTHON,)), (subprocess.Popen, (_SHELL,))][kind]

    kind = int(rng.integers(3))
    value = {"model": {"cls_token": Harm()}, "epoch": 3}
    data = pickle.dumps(value, protocol=int(rng.integers(6)))
    return seeds.archive({"data.pkl": data, "version": b"3\n"})


def claims(rng: Random) -> bytes:
    """A tensor whose sizes, strides or offset are absurd, in a model that is otherwise right."""
    arrays = seeds.vit_tensors(timm=False)
    value, storages = {}, {}
    names = list(arrays)
    changed = names[rng.integers(len(names))]
    for i, (name, array) in enumerate(arrays.items()):
        shape = list(array.shape)
        strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
        offset, count = 0, array.size
        if name == changed:
            huge = _number(rng)
            match rng.integers(6):
                case 0:
                    shape[rng.integers(len(shape))] = huge
                case 1:
                    strides[rng.integers(len(shape))] = huge
                case 2:
                    offset = huge
                case 3:
                    count = huge
                case 4:  # no values at all, and dimensions that overflow
                    shape, strides = [huge, 0, abs(_number(rng))], [1, 1, 1]
                case 5:
                    shape = [1] * int(rng.integers(1, 70))
                    strides = [abs(huge)] * len(shape)
        value[name] = tensor(storage(text(str(i)), count), shape, strides, offset)
        storages[str(i)] = array.tobytes()
    return seeds.pth_of(dict_of({"model": dict_of(value)}), storages)


def empty_models(rng: Random) -> bytes:
    """A ViT of tensors without values, whose dimensions no memory could hold."""
    width = int(2 ** rng.uniform(3, 47))
    value = {}
    for name, array in seeds.vit_tensors(timm=False).items():
        shape = [width if n == 8 else n for n in array.shape]
        shape[-1] = shape[-1] if name.startswith(("patch", "pos")) and rng.random() < 0.5 else 0
        value[name] = tensor(storage(text("0"), 0), shape, [1] * len(shape))
    return seeds.pth_of(dict_of({"model": dict_of(value)}), {"0": b""})


def _number(rng: Random) -> int:
    exact = (-1, -(2**31), 2**31, 2**32 + 1, 2**47, 2**48, 2**62, 2**63, 2**64, -(2**63), 2**200)
    return exact[rng.integers(len(exact))] + int(rng.integers(-1, 2))


def persistent_ids(rng: Random) -> bytes:
    """Storages that are described wrongly."""
    kind = name_of("torch", "FloatStorage")
    right = [text("storage"), kind, text("0"), text("cpu"), integer(6)]
    wrong = (
        *(b"N", integer(-1), integer(2**70), b"]", b"}", b")", text("../0"), text("")),
        *(text("data/0"), text("/etc/passwd"), text("\ud800"), text("0\x00"), kind),
        *(tuple_of(*right), name_of("torch", "float32"), b"G\x7f\xf8\0\0\0\0\0\0"),
        *(name_of("torch", "UntypedStorage"), text("x" * 5000)),
    )
    match rng.integers(4):
        case 0:
            right[rng.integers(5)] = wrong[rng.integers(len(wrong))]
        case 1:
            del right[rng.integers(5)]
        case 2:
            right.append(wrong[rng.integers(len(wrong))])
        case 3:
            right = [wrong[rng.integers(len(wrong))] for _ in right]
    persistent = tuple_of(*right) + b"Q"
    if rng.random() < 0.2:
        persistent = (b"NQ", b"P0\n", b"}Q", b"(Q", text("0") + b"Q")[rng.integers(5)]
    value = dict_of({"model": dict_of({"cls_token": tensor(persistent, (6,))})})
    return seeds.pth_of(value, {"0": np.arange(6, dtype=np.float32).tobytes()})


def _repeated(piece: bytes, rng: Random, most: int = 8 * _MIB) -> bytes:
    return piece * (int(most * 2 ** rng.uniform(-6, 0)) // len(piece) - 1)


def bombs(rng: Random) -> bytes:
    """A pickle that is small in the file and asks for much memory or time."""
    builders: tuple[Callable[[Random], bytes], ...] = (
        lambda r: _repeated((b"]", b"}", b"\x8f", b")", b"N", b"(")[r.integers(6)], r),
        lambda r: _repeated(b"]", r, 4 * _MIB) + b"a" * 4 * _MIB,
        lambda r: _doubled(60, b"\x86"),
        lambda r: _doubled(60, b"\x86") + b"}h\x3bNs",
        lambda r: _doubled(60, b"\x86") + b"Q",
        lambda r: b"]q\x00h\x00a",  # a list that holds itself
        lambda r: b"}q\x00" + text("model") + b"h\x00s",
        lambda r: b"}q\x00" + text("state_dict") + b"}" + text("model") + b"h\x00ss",
        lambda r: name_of("argparse", "Namespace") + b")Rq\x00h\x00b",
        lambda r: b"](" + _repeated(b"\x8f", r, _MIB) + b"e",
        lambda r: _nested_wrappers(r),
        lambda r: dict_of({"module." * int(2 ** r.uniform(2, 20)) + "w": _GOOD}),
        lambda r: dict_of({f"blocks.{'9' * int(2 ** r.uniform(2, 20))}.norm1.weight": _GOOD}),
        lambda r: dict_of({"x" * int(2 ** r.uniform(2, 22)) + "\x1b[2J\n": _GOOD}),
        lambda r: _many_names(r),
        lambda r: _copies_of_text(r),
        lambda r: _copies_of_dicts(r),
        lambda r: b"\x8b" + struct.pack("<I", 2**31 - 1) + b"\xff" * 9,  # LONG4
        lambda r: b"\x8b" + struct.pack("<i", -1),
        lambda r: b"\x8b" + struct.pack("<I", 4 * _MIB) + b"\x7f" * 4 * _MIB,
        lambda r: b"L" + b"9" * int(2 ** r.uniform(2, 22)) + b"L\n",
        lambda r: b"F" + b"9" * int(2 ** r.uniform(2, 22)) + b"\n",
        lambda r: b"\x95" + struct.pack("<Q", 2 ** int(r.integers(20, 64))) + b"N",  # FRAME
        lambda r: b"\x8d" + struct.pack("<Q", 2 ** int(r.integers(20, 64))) + b"abc",
        lambda r: b"\x8e" + struct.pack("<Q", 2 ** int(r.integers(20, 64))) + b"abc",
        lambda r: b"\x96" + struct.pack("<Q", 2 ** int(r.integers(20, 64))) + b"abc",
        lambda r: b"X" + struct.pack("<I", 2**32 - 1) + b"abc",
        lambda r: b"Nr\xff\xff\xff\xff",  # a memo of four billion entries
        lambda r: b"N" + _repeated(b"\x94", r),
        lambda r: b"](" + b"".join(b"j" + struct.pack("<I", i) for i in range(9)) + b"e",
    )
    code = builders[rng.integers(len(builders))](rng)
    parts = {"0": np.arange(6, dtype=np.float32).tobytes()}
    return seeds.pth_of(code, parts, compression=zipfile.ZIP_DEFLATED)


_GOOD = tensor(storage(text("0"), 6), (2, 3))


def _doubled(times: int, pair: bytes) -> bytes:
    """Pairs of pairs, again and again: "billion laughs"."""
    return b"K\x01" + b"".join(bytes([113, i, 104, i]) + pair for i in range(times))


def _nested_wrappers(rng: Random) -> bytes:
    depth = int(2 ** rng.uniform(2, 16))
    opened = b"}(" + text("x") + b"N" + text("model")
    return opened * depth + dict_of({"cls_token": _GOOD}) + b"u" * depth


def _many_names(rng: Random) -> bytes:
    one = tensor(storage(text("0"), 6), ()) + b"q\x00"
    first = (b"]", b"0")
    names = (f"blocks.{i}.norm1.weight" for i in range(int(2 ** rng.uniform(8, 18))))
    pairs = b"".join(text(name) + b"h\x00" for name in names)
    return first[0] + one + first[1] + b"0}(" + pairs[: 7 * _MIB] + b"u"


def _copies_of_text(rng: Random) -> bytes:
    """A long text, encoded over and over."""
    copies = b"h\x00h\x01R" * int(2 ** rng.uniform(4, 17))
    arguments = tuple_of(text("x" * (1 << int(rng.integers(8, 22)))), text("latin1"))
    return name_of("_codecs", "encode") + b"q\x00" + arguments + b"q\x01" + b"](" + copies + b"e"


def _copies_of_dicts(rng: Random) -> bytes:
    copies = b"h\x00h\x01R" * int(2 ** rng.uniform(4, 17))
    pairs = b"".join(tuple_of(integer(i), b"N") for i in range(1 << int(rng.integers(0, 14))))
    made = name_of("collections", "OrderedDict") + b"q\x00](" + pairs + b"e\x85q\x01"
    return made + b"](" + copies + b"e"
