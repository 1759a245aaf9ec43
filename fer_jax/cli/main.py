"""`fer-jax COMMAND`: finds the command's module, calls its `main(argv)`, turns errors to a line."""

import errno
import importlib
import os
import sys
from collections.abc import Sequence

from fer_jax import __version__
from fer_jax.errors import FerJaxError, Preempted, UsageError

COMMANDS = {
    "convert": "a PyTorch checkpoint (.pth, .safetensors) -> a bundle, and back",
    "inspect": "what a checkpoint or a bundle holds",
    "doctor": "what is in Aff-Wild2, and what is wrong with it",
    "prepare": "pictures and labels -> a data set that trains fast",
    "pretrain": "an encoder from faces without labels, by hiding most of them",
    "distill": "a data set whose soft labels are a teacher's",
    "train": "fine-tune a bundle or a fresh model on a data set",
    "extract": "the features of every face of a data set",
    "fuse": "train a fusion of the features of two views",
    "smooth": "predictions smoothed over time, or the best filter found",
    "evaluate": "score a bundle on a data set, or predictions of frames",
    "card": "the model card of a bundle, with its scores",
    "ablate": "what each piece of the method is worth, as one grid",
    "predict": "name the expression of every face in pictures and videos",
    "summarize": "predictions of videos -> tables for statistics, and a picture",
    "submit": "the official file of the challenge, from crops or predictions",
    "export": "a bundle -> one file that JAX alone runs",
    "plan": "what a run needs on TPUs, before they are rented",
    "demo": "from drawn faces to predictions, in minutes",
    "bench": "time and memory on this machine, beside their bounds",
}


def usage() -> str:
    """The text of `fer-jax --help`."""
    lines = ["usage: fer-jax COMMAND [options]", "", "Facial expression recognition in JAX.", ""]
    lines += ["commands:"]
    lines += [f"  {name:10} {what}" for name, what in COMMANDS.items()]
    lines += ["", "`fer-jax COMMAND --help` explains one. `fer-jax --version` prints the version."]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Runs one command.

    Args:
        argv: the command's name and its arguments, without the program's name.

    Returns:
        The exit code: 0 done, 1 a failure, 2 wrong use, 75 stopped by SIGTERM and to be started
        again, 130 interrupted.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"fer-jax {__version__}")
        return 0
    name, *arguments = argv
    try:
        if name not in COMMANDS:
            raise UsageError(f"no command {name!r}; one of {', '.join(COMMANDS)}")
        command = importlib.import_module(f"fer_jax.cli.{name}")
        return command.main(arguments)
    except SystemExit as exit_:  # argparse has printed its one line
        return exit_.code if isinstance(exit_.code, int) else 2
    except FerJaxError as error:
        print(f"fer-jax {name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # `fer-jax ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = error.filename or "no file named"
        print(
            f"fer-jax {name}: {where}: {error.strerror or error}; {_remedy(error)}", file=sys.stderr
        )
        return 1
    except Preempted as notice:
        print(f"fer-jax {name}: {notice}", file=sys.stderr)
        return os.EX_TEMPFAIL
    except KeyboardInterrupt:
        print(f"fer-jax {name}: interrupted", file=sys.stderr)
        return 130


def _remedy(error: OSError) -> str:
    remedies = {
        errno.ENOSPC: "free some space or write elsewhere",
        errno.EDQUOT: "free some space or write elsewhere",
        errno.ENOENT: "check the path",
        errno.EACCES: "check the permissions",
        errno.EROFS: "write elsewhere",
    }
    return remedies.get(error.errno, "check the path and the disk")


def run() -> None:
    """The console script `fer-jax`."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
