"""`fer-jax card`: the model card of a bundle."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fer_jax.errors import FerJaxError, UsageError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax card",
        description="Writes a bundle's model card, in Markdown: what it is, what it was made of, "
        "its scores with intervals, what it is not for.",
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="its folder")
    add("--scores", metavar="DIR", nargs="+", default=(), help="folders of `fer-jax evaluate`")
    add("--notes", metavar="FILE", help="Markdown of your own, such as known failures")
    add("--out", metavar="FILE", required=True, help="the card, such as MODEL_CARD.md")
    add("--overwrite", action="store_true", help="replace FILE")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax card --help`."""
    options = _parser().parse_args(argv)
    out = Path(options.out)
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name a file in it")
    if out.exists() and not options.overwrite:
        raise FerJaxError(f"{out}: exists already; pass --overwrite, or name another file")
    notes = Path(options.notes).read_text(encoding="utf-8") if options.notes else ""
    from fer_jax.atomic import atomic_file
    from fer_jax.report.card import model_card

    card = model_card(options.bundle, options.scores, notes)
    with atomic_file(out) as partial:
        partial.write_text(card, encoding="utf-8")
    print(f"{out}: written")
    return 0
