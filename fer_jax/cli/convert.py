"""`fer-jax convert`: a PyTorch checkpoint becomes a bundle, or a bundle a PyTorch checkpoint.

PyTorch is not needed for either.
"""

import argparse
import os
import time
from collections.abc import Sequence

from fer_jax.errors import UsageError

_EXAMPLES = """\
examples:
  fer-jax convert mae_face_pretrain_vit_base.pth backbone --normalize mae_face
  fer-jax convert checkpoint-best.pth model --normalize imagenet --labels affwild2_expr
  fer-jax convert dinov2_vits14.safetensors backbone --normalize imagenet --image-size 224
  fer-jax convert mae_pretrain_vit_base_full.pth mae --normalize imagenet --decoder --norm-pix
  fer-jax convert backbone back.pth --family timm
  fer-jax convert backbone short --blocks 0,1,2
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax convert",
        description="Turns a PyTorch checkpoint (a ViT of MAE, MAE-Face, timm, DINOv2 or Hugging "
        "Face, a whole MAE, the entry's fusion; .pth or .safetensors) into a bundle, or a bundle "
        "back into one. Nothing in the file is run. What a file cannot say is asked for: the "
        "normalisation always, the labels if its head is to be kept. Every stage of the result is "
        "compared with a float64 reference on the file's own weights; report.md in the bundle has "
        "the figures. Exit code 0, 1 if that or the conversion fails, 2 for wrong use.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", metavar="SRC", help="the checkpoint, or a bundle")
    add(
        "out",
        metavar="OUT",
        help="folder to make; from a bundle, a .pth or .safetensors file, or another bundle",
    )
    add(
        "--normalize",
        choices=("imagenet", "mae_face"),
        help="mean and std of the images that the model was trained on",
    )
    add("--labels", metavar="SPACE", help="label space of the file's head; else it is left out")
    add("--map-labels", metavar="SPACE", help="pick this space's classes from the head, by name")
    add("--fresh-head", metavar="SPACE", help="put an untrained head for this space on")
    add(
        "--family",
        default="auto",
        choices=("auto", "mae", "timm", "hf", "fusion_entry"),
        help="naming of the tensors",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the parameters (float32; a bundle's own)",
    )
    add(
        "--blocks", metavar="N,N", help="of a bundle: write another with these blocks, from 0, only"
    )
    add("--heads", type=int, metavar="N", help="attention heads, for sizes that are not registered")
    add("--eps", type=float, metavar="E", help="epsilon of LayerNorm; left out, the family's")
    add("--decoder", action="store_true", help="keep MAE's decoder: a bundle for pre-training")
    add("--decoder-heads", type=int, metavar="N", help="its attention heads, if it is not 512 wide")
    add(
        "--norm-pix",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether the decoder predicts normalised patches",
    )
    add("--image-size", type=int, metavar="N", help="side in pixels; positions are interpolated")
    add(
        "--position-resize",
        default="bicubic",
        metavar="KERNEL",
        help="how positions are interpolated: bicubic (MAE), bicubic_antialias (timm), "
        "bicubic_dinov2; %(default)s",
    )
    add("--pool", choices=("cls", "avg"), help="for files that hold both norm and fc_norm")
    add(
        "--resize",
        default="bicubic_antialias",
        metavar="KERNEL",
        help="how faces are resized to the model's input: bilinear, bicubic, bilinear_antialias, "
        "bicubic_antialias; %(default)s",
    )
    add("--template", default="unknown", help="alignment of the faces that it was trained on")
    add("--license", metavar="TEXT", help="licence of the weights (not stated; a bundle's own)")
    add(
        "--dry-run",
        action="store_true",
        help="print what would be made and each key left out; write nothing",
    )
    add(
        "--no-proof",
        action="store_true",
        help="do not compare each stage with a reference; no report is written",
    )
    add("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command.

    Args:
        argv: its arguments.

    Returns:
        The exit code.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    begin = time.monotonic()
    bundle = os.path.isfile(os.path.join(options.source, "bundle.json"))
    failure = None
    if bundle or (os.path.isdir(options.source) and options.normalize is None):
        lines = _from_bundle(parser, options)
    else:
        lines, failure = _import(options)
    print("\n".join(lines))
    if failure is not None:
        print(f"{options.out}: not written, see {failure}")
        return 1
    done = f"written in {time.monotonic() - begin:.1f} s"
    if options.dry_run:
        taken = os.path.lexists(options.out) and not options.overwrite
        done = "exists already and would be refused" if taken else "would be written"
    print(f"{options.out}: {done}")
    return 0


def _from_bundle(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    from fer_jax.convert.export import SUFFIXES, export_file

    anew = not options.out.endswith(SUFFIXES)
    of_kind = ("blocks", "dtype", "license") if anew else ("family",)
    for name, value in vars(options).items():
        meant = name in ("source", "out", "overwrite", *of_kind)
        if not meant and value != parser.get_default(name):
            flag = name.replace("_", "-")
            if name in ("blocks", "dtype", "license"):
                raise UsageError(f"--{flag} makes another bundle, {options.out} is a checkpoint")
            raise UsageError(f"--{flag} is for a checkpoint, {options.source} is a bundle")
    if anew:
        from fer_jax.convert.rewrite import rewrite_file

        return rewrite_file(
            options.source,
            options.out,
            blocks=options.blocks or "",
            dtype=options.dtype,
            license=options.license or "",
            overwrite=options.overwrite,
        )
    return export_file(
        options.source, options.out, family=options.family, overwrite=options.overwrite
    )


def _import(options: argparse.Namespace) -> tuple[list[str], str | None]:
    os.stat(options.source)  # a wrong path is said before anything is asked for
    from fer_jax.convert.release import ReleaseOptions, convert_file, plan_file

    if options.blocks:
        raise UsageError(f"--blocks is for a bundle, {options.source} is none; convert it first")
    same = ("normalize", "labels", "map_labels", "fresh_head", "family", "decoder", "norm_pix")
    same += ("decoder_heads", "image_size", "pool", "position_resize", "resize", "template")
    release = ReleaseOptions(
        num_heads=options.heads,
        norm_eps=options.eps,
        prove=not options.no_proof,
        dtype=options.dtype or "float32",
        license=options.license or "not stated",
        **{name: getattr(options, name) for name in same},
    )
    if options.dry_run:
        return plan_file(options.source, release).lines(every_key=True), None
    report = convert_file(options.source, options.out, release, overwrite=options.overwrite)
    return report.lines(), None if report.failure is None else str(report.failure)
