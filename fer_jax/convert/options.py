"""What a checkpoint cannot say of itself, and what is wished to differ from it."""

import dataclasses

from fer_jax.convert.families import FAMILY_NAMES
from fer_jax.errors import UsageError
from fer_jax.labels import LabelSpace
from fer_jax.models.config import DTYPES, POOLS
from fer_jax.ops.resize import POSITION_KERNELS

MAX_IMAGE_SIZE = 4096  # pixels; far above what attention over all patches can bear


@dataclasses.dataclass(frozen=True)
class Options:
    """How a file's tensors are to be understood, and what is to be made of them.

    Attributes:
        family: a name of `families.FAMILY_NAMES`, or `auto`.
        labels: what the outputs of the file's head mean; None leaves its head out.
        map_to: the label space of the result, whose classes are picked from the head's by name.
        fresh_head: the label space of a new, untrained head in place of the file's.
        decoder: keep MAE's decoder.
        num_heads: attention heads; None takes them from the registered sizes.
        decoder_heads: the same of MAE's decoder; None takes 16 for its usual width of 512.
        norm_pix: whether the decoder predicts patches normalised each by itself.
        norm_eps: of every LayerNorm; None takes the family's.
        image_size: side of the input in pixels; None keeps the file's.
        pool: `cls` | `avg`; None goes by the norms that the file holds.
        position_resize: a name of `ops.resize.POSITION_KERNELS`.
        dtype: of the parameters: `float32` | `bfloat16` | `float16`.

    Raises:
        UsageError: an unknown name, a number out of its range, or wishes that contradict each
            other.
    """

    family: str = "auto"
    labels: LabelSpace | None = None
    map_to: LabelSpace | None = None
    fresh_head: LabelSpace | None = None
    decoder: bool = False
    num_heads: int | None = None
    decoder_heads: int | None = None
    norm_pix: bool | None = None
    norm_eps: float | None = None
    image_size: int | None = None
    pool: str | None = None
    position_resize: str = "bicubic"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.family not in ("auto", *FAMILY_NAMES):
            raise UsageError(f"no family {self.family!r}; one of auto, {', '.join(FAMILY_NAMES)}")
        for flag, value, known in (
            ("--dtype", self.dtype, DTYPES),
            ("--pool", self.pool, (None, *POOLS)),
            ("--position-resize", self.position_resize, POSITION_KERNELS),
        ):
            if value not in known:
                names = ", ".join(name for name in known if name)
                raise UsageError(f"{flag} {value!r} must be one of {names}")
        if self.norm_eps is not None and not 0 < self.norm_eps < 1:  # NaN does not lie there
            raise UsageError(f"--eps {self.norm_eps} must lie between 0 and 1")
        if self.image_size is not None and not 1 <= self.image_size <= MAX_IMAGE_SIZE:
            raise UsageError(
                f"--image-size {self.image_size} must lie between 1 and {MAX_IMAGE_SIZE}"
            )
        for flag, heads in (("--heads", self.num_heads), ("--decoder-heads", self.decoder_heads)):
            if heads is not None and heads < 1:
                raise UsageError(f"{flag} {heads} must be 1 or more")
        if self.map_to is not None and self.labels is None:
            raise UsageError("--map-labels needs --labels, which says what the head's outputs mean")
        if self.fresh_head is not None and self.labels is not None:
            raise UsageError("--fresh-head makes a new head, --labels keeps the file's: pass one")
        if self.decoder and (self.labels or self.fresh_head):
            raise UsageError("--decoder keeps a model for pre-training, which has no labels")

    @property
    def result_labels(self) -> LabelSpace | None:
        """What the outputs of the result mean."""
        return self.fresh_head or self.map_to or self.labels
