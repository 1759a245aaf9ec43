"""What becomes of frames: how faces are found in them, and how their rows become a table."""

import dataclasses

from fer_jax.errors import FerJaxError
from fer_jax.predict.confidence import stored_calibration
from fer_jax.predict.finish import Finishing
from fer_jax.predict.frame_faces import FaceSearch
from fer_jax.predict.recognizer import Recognizer
from fer_jax.predict.time_filter import TableFilter, as_stored, stored_filter


@dataclasses.dataclass(frozen=True)
class Reading:
    """What becomes of frames.

    Attributes:
        search: how faces are found.
        filter: over time; None is the bundle's own.
        abstain: rows with a confidence below it have no label.
        causal: fill only from what came before; see `predict.finish.Finishing`.
    """

    search: FaceSearch = dataclasses.field(default_factory=FaceSearch)
    filter: TableFilter | None = None
    abstain: float = 0.0
    causal: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.abstain < 1:
            raise FerJaxError(f"abstain={self.abstain} must be at least 0 and below 1")

    def finishing(self, recognizer: Recognizer, video: str) -> Finishing:
        """How rows of a video become its table.

        Args:
            recognizer: whose bundle's smoothing and calibration are used.
            video: the table's column `video`.
        """
        bundle = recognizer.bundle
        filter_ = stored_filter(bundle.smoothing) if self.filter is None else self.filter
        of_frames, of_smoothed, _ = stored_calibration(bundle.calibration, as_stored(filter_))
        return Finishing(
            classes=recognizer.classes,
            video=video,
            filter=filter_,
            every=self.search.every,
            causal=self.causal,
            calibrate_frames=of_frames,
            calibrate_smoothed=of_smoothed,
            abstain=self.abstain,
        )

    def confidence_note(self, recognizer: Recognizer) -> str:
        """One sentence that says what a confidence refers to."""
        bundle = recognizer.bundle
        filter_ = stored_filter(bundle.smoothing) if self.filter is None else self.filter
        return stored_calibration(bundle.calibration, as_stored(filter_))[2]
