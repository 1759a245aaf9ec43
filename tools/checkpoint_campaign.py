"""Mutates honest checkpoints by the thousand and checks what the reader makes of each.

    python tools/checkpoint_campaign.py --count 10000      # all, a few minutes on two cores
    python tools/checkpoint_campaign.py --only 1234        # one again, by its number

File N is made from `PCG64((seed, N))`, so that every number can be made again by itself. A worker
process opens it (`open_checkpoint`), reads every tensor's values, and plans and converts a ViT. A
file passes if it is

- refused with a FerJaxError that begins with the file's name, in printable lines of at most 2,000
  characters; or
- read as the honest file it was made from: the same names, shapes, dtypes and bits, and the same
  converted parameters (damage to a date or a local header changes nothing); or
- read as what it now says: bit for bit what a second reader of Python's zipfile, pickle and json
  (`checkpoint_oracle.py`) makes of it. So a bit flipped in a name passes if the new name is shown;
  a bit flipped in a tensor passes only where no checksum covers it: in safetensors, which has none,
  and in a `.pth` whose checksums are all zero or were made right again.

It fails on any other exception, a crash, more than `SECONDS` of the processor (a busy machine does
not fail it; `PATIENCE` by the clock ends a hang), more memory than `MEMORY` + `MEMORY_PER_BYTE` x
the file's size, a program, socket, import, compiled code or file opened for writing (by an audit
hook), or when a payload's mark is found. The parameters of a file that is read as it now says are
checked for size and finiteness alone.
"""

import argparse
import collections
import dataclasses
import itertools
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import checkpoint_containers as containers
import checkpoint_hostile as hostile
import checkpoint_mutations as mutations
import numpy as np
from checkpoint_seeds import make_seeds
from watched_workers import Team, WatchedWorker

SECONDS = 10.0
PATIENCE = 60.0  # seconds by the clock, the second reader's included, before a worker is killed
MEMORY = 256 << 20
MEMORY_PER_BYTE = 16

_WORKER = Path(__file__).resolve().parent / "checkpoint_worker.py"


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of mutation.

    Attributes:
        name: for the table.
        weight: how often, next to the others.
        mutate: of an honest file; None if `make` makes one from nothing.
        make: of a generator.
    """

    name: str
    weight: int
    mutate: mutations.Mutation | None = None
    make: Callable[[np.random.Generator], bytes] | None = None


KINDS = (
    Kind("bits flipped anywhere", 8, mutations.whole(mutations.flip)),
    Kind("bits flipped in the first header", 6, mutations.flip_head),
    Kind("bits flipped in a member's header", 6, mutations.flip_local_headers),
    Kind("bits flipped in the directory", 8, mutations.flip_directory),
    Kind("fields of the directory that lie", 8, mutations.directory_lies),
    Kind("cut off", 8, mutations.whole(mutations.cut)),
    Kind("bytes inserted", 4, mutations.whole(mutations.insert)),
    Kind("bytes deleted", 4, mutations.whole(mutations.delete)),
    Kind("bytes written twice", 4, mutations.whole(mutations.duplicate)),
    Kind("bytes zeroed", 4, mutations.whole(mutations.zero)),
    Kind("bytes exchanged", 4, mutations.whole(mutations.exchange)),
    Kind("beginning and end of two files", 4, mutations.splice),
    Kind("members swapped, lost, renamed", 6, mutations.swap_members),
    Kind("tensors damaged, checksums right", 6, mutations.member_damage),
    Kind("pickle or JSON damaged, checksums right", 12, mutations.pickle_damage),
    Kind("opcodes exchanged, checksums right", 12, mutations.opcode_damage),
    Kind("pickles that run code", 14, make=hostile.runs_code),
    Kind("pickles that run code, by Python", 3, make=hostile.python_wrote),
    Kind("pickle bombs", 10, make=hostile.bombs),
    Kind("tensors of absurd size, stride, offset", 8, make=hostile.claims),
    Kind("empty tensors of absurd size", 2, make=hostile.empty_models),
    Kind("wrong persistent ids", 6, make=hostile.persistent_ids),
    Kind("zip bombs", 3, make=containers.real_bomb),
    Kind("overlapping members", 2, make=containers.overlapping),
    Kind("thousands of members", 1, make=containers.many_entries),
    Kind("thousands of packed tensors", 1, make=containers.many_packed),
    Kind("strange member names", 5, make=containers.names),
    Kind("member headers that lie", 8, make=containers.header_lies),
    Kind("bzip2 and LZMA", 3, make=containers.compressions),
    Kind("zip64 lies", 6, make=containers.zip64_lies),
    Kind("archives written to a pipe", 2, make=containers.streamed),
    Kind("absurd safetensors headers", 14, make=containers.safetensors_headers),
)
# Each kind once, then those of weight two and more once, and so on: a small count meets all.
SCHEDULE = tuple(
    kind for turn in range(max(k.weight for k in KINDS)) for kind in KINDS if kind.weight > turn
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of one file.

    Attributes:
        number: of the file.
        kind: of mutation.
        outcome: `refused` | `original` | `changed` | `changed, not a ViT` | `failed`.
        said: the refusal, or what failed.
        seconds: of the processor that reading took.
        bytes: of memory that it took at most.
        size: of the file, in bytes.
    """

    number: int
    kind: str
    outcome: str
    said: str
    seconds: float
    bytes: int
    size: int


def make_file(seed: int, number: int) -> tuple[Kind, bytes, str]:
    """(kind, bytes, the honest file's name if there was one) of a number."""
    kind = SCHEDULE[number % len(SCHEDULE)]
    rng = np.random.Generator(np.random.PCG64((seed, number)))
    if kind.make is not None:
        return kind, kind.make(rng), ""
    honest = make_seeds()[rng.integers(len(make_seeds()))]
    return kind, kind.mutate(rng, honest), honest.name


def examine(worker: WatchedWorker, seed: int, number: int) -> Verdict:
    """Makes one file and has it read."""
    kind, data, honest = make_file(seed, number)
    path = worker.folder / f"{number}.ckpt"
    path.write_bytes(data)
    answer = worker.ask({"path": str(path), "seed": honest}, PATIENCE)
    if isinstance(answer, str):
        answer = {"outcome": "failed", "said": answer, "seconds": 0.0, "bytes": 0}
    verdict = Verdict(number=number, kind=kind.name, size=len(data), **answer)
    path.unlink()
    if (mark := worker.folder / hostile.SENTINEL).exists():
        shutil.rmtree(mark) if mark.is_dir() else mark.unlink()
        verdict = dataclasses.replace(verdict, outcome="failed", said="a payload ran")
    if verdict.seconds > SECONDS:
        verdict = dataclasses.replace(verdict, outcome="failed", said="took too long")
    if verdict.bytes > MEMORY + MEMORY_PER_BYTE * len(data):
        said = f"{verdict.bytes >> 20} MiB of memory for a file of {len(data)} bytes"
        verdict = dataclasses.replace(verdict, outcome="failed", said=said)
    return verdict


def campaign(numbers: Iterable[int], seed: int, workers: int) -> Iterator[Verdict]:
    """Examines the files of these numbers, a process a worker; verdicts come as they are ready."""
    team: Team[Verdict] = Team(lambda folder: WatchedWorker(_WORKER, folder), workers)
    yield from team.over(numbers, lambda worker, number: examine(worker, seed, number))


def table(verdicts: list[Verdict]) -> str:
    """Figures by kind, and the worst of all."""
    outcomes = ("refused", "original", "changed", "changed, not a ViT", "failed")
    heads = ("kind", "files", "refused", "as before", "as it says", "no ViT", "failed")
    lines = [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
    rows = [(kind.name, [v for v in verdicts if v.kind == kind.name]) for kind in KINDS]
    for name, of_kind in [*rows, ("**all**", verdicts)]:
        if of_kind:
            counts = collections.Counter(v.outcome for v in of_kind)
            cells = [name, str(len(of_kind)), *(str(counts[outcome]) for outcome in outcomes)]
            lines.append(f"| {' | '.join(cells)} |")
    slow = max(verdicts, key=lambda v: v.seconds)
    large = max(verdicts, key=lambda v: v.bytes)
    lines += [
        "",
        f"slowest: {slow.seconds:.2f} s of the processor, number {slow.number} ({slow.kind})",
        f"most memory: {large.bytes >> 20} MiB, number {large.number} ({large.kind}), "
        f"a file of {large.size:,} bytes",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Runs the campaign; returns 1 if a file failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="files")
    parser.add_argument("--seed", type=int, default=0, help="of all of them")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--only", type=int, help="this one file, and what is said of it")
    parser.add_argument("--keep", type=Path, help="folder for the files that failed, or for --only")
    given = parser.parse_args(arguments)
    numbers = range(given.count) if given.only is None else [given.only]
    verdicts = []
    for verdict in campaign(numbers, given.seed, min(given.workers, len(numbers))):
        verdicts.append(verdict)
        if given.only is not None:
            print(verdict)
        if given.keep and (verdict.outcome == "failed" or given.only is not None):
            given.keep.mkdir(parents=True, exist_ok=True)
            _, data, _ = make_file(given.seed, verdict.number)
            (given.keep / f"{verdict.number}.ckpt").write_bytes(data)
        if sys.stderr.isatty() and len(verdicts) % 100 == 0:
            print(f"{len(verdicts)} of {len(numbers)}", end="\r", file=sys.stderr)
    print(table(verdicts))
    failed = sorted((v for v in verdicts if v.outcome == "failed"), key=lambda v: v.number)
    for verdict in itertools.islice(failed, 100):
        where = f"--seed {given.seed} --only {verdict.number}"
        print(f"FAILED {where} ({verdict.kind}): {verdict.said}")
    print(f"{len(failed)} of {len(verdicts)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
