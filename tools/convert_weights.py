"""`fer-jax convert` from a checkout that is not installed: the same arguments, proof and exit code.

python tools/convert_weights.py mae_pretrain_vit_base.pth backbone --normalize imagenet
python tools/convert_weights.py --help
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fer_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
