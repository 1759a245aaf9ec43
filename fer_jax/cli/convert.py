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
  fer-jax convert backbone back.pth --family timm
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax convert",
        description="Turns a PyTorch ViT checkpoint (MAE, MAE-Face, timm, DINOv2; .pth or "
        ".safetensors) into a bundle, or a bundle back into one. Nothing in the file is run. What "
        "a file cannot say is asked for: the normalisation always, the labels if its head is to "
        "be kept.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", metavar="SRC", help="the checkpoint, or a bundle")
    add("out", metavar="OUT", help="folder to make; from a bundle, a .pth or .safetensors file")
    add(
        "--normalize",
        choices=("imagenet", "mae_face"),
        help="mean and std of the images that the model was trained on",
    )
    add("--labels", metavar="SPACE", help="label space of the head; left out, an encoder is made")
    add("--family", default="auto", choices=("auto", "mae", "timm"), help="naming of the tensors")
    add("--heads", type=int, metavar="N", help="attention heads, for sizes that are not registered")
    add("--eps", type=float, metavar="E", help="epsilon of LayerNorm (both families: 1e-6)")
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
    add("--license", default="not stated", metavar="TEXT", help="licence of the weights")
    add(
        "--dry-run",
        action="store_true",
        help="print what would be made and each key left out; write nothing",
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
    if bundle or (os.path.isdir(options.source) and options.normalize is None):
        lines = _export(parser, options)
    else:
        lines = _import(options)
    print("\n".join(lines))
    done = f"written in {time.monotonic() - begin:.1f} s"
    if options.dry_run:
        taken = os.path.lexists(options.out) and not options.overwrite
        done = "exists already and would be refused" if taken else "would be written"
    print(f"{options.out}: {done}")
    return 0


def _export(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    meant = ("source", "out", "family", "overwrite")
    for name, value in vars(options).items():
        if name not in meant and value != parser.get_default(name):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is for a checkpoint, {options.source} is a bundle")
    from fer_jax.convert.export import export_file

    return export_file(
        options.source, options.out, family=options.family, overwrite=options.overwrite
    )


def _import(options: argparse.Namespace) -> list[str]:
    os.stat(options.source)  # a wrong path is said before anything is asked for
    if options.normalize is None:
        raise UsageError("--normalize is missing: imagenet or mae_face, as the model was trained")
    from fer_jax.convert.release import ReleaseOptions, convert_file, plan_file

    release = ReleaseOptions(
        normalize=options.normalize,
        labels=options.labels,
        family=options.family,
        num_heads=options.heads,
        norm_eps=options.eps,
        image_size=options.image_size,
        pool=options.pool,
        position_resize=options.position_resize,
        resize=options.resize,
        template=options.template,
        license=options.license,
    )
    if options.dry_run:
        return plan_file(options.source, release).lines(every_key=True)
    return convert_file(options.source, options.out, release, overwrite=options.overwrite).lines()
