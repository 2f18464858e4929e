"""`Reader`: what one model is fed and how its answers are read; pure, the same for models here and elsewhere."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts.backend import ModelInfo
from pipeline.contracts.frame import Picture, Size, Wishes
from pipeline.contracts.result import NO_TIMINGS, Detections, Prediction, Timings
from pipeline.models import pixels, scores
from pipeline.models.choice import Choice, fixed
from pipeline.models.description import ModelDescription
from pipeline.models.families import Family
from pipeline.models.heads import Candidates, DecodeAll, HeadOptions
from pipeline.models.letterbox import Placement, points_to_frame, to_frame
from pipeline.models.nms import nms
from pipeline.models.onnx_file import TensorInfo
from pipeline.models.preprocess import InputBuffer
from pipeline.models.rules import MAX_RULES, ReadSettings, Rules, settle
from pipeline.models.segments import MAX_MASK_BYTES, object_masks

Array = npt.NDArray[Any]


class Reader:
    """One model's way in and out. Made by a backend once it knows all about the model; used by any thread.

    Args:
        model: the model; its `choice` is settled.
        settings: the config's part.

    Raises:
        ValueError: the model's family is not known yet: it needs a trial run.
    """

    def __init__(self, model: ModelDescription, settings: ReadSettings | None = None) -> None:
        if model.choice is None:
            raise ValueError(f"{model.name}: the family of the model is not known yet")
        self.model = model
        self.choice = model.choice
        self.outputs: tuple[str, ...] = tuple(output.name for output in self.choice.outputs)
        """Names of the outputs to ask the model for; `read` wants them in this order."""
        self._settings = settings or ReadSettings()
        self._read = {
            "boxes": self._boxes,
            "scores": self._scores,
            "pixels": self._pixels,
            "vector": self._vector,
        }[self.choice.family.kind]
        self._decode = _decode_of(self.choice.family)
        self._rules = settle(model, self.choice, self._settings, Wishes())
        self._wished: dict[Wishes, Rules] = {}
        self._lock = threading.Lock()

    @property
    def info(self) -> ModelInfo:
        """What others need to know of the model."""
        model = self.model
        size = None if model.dynamic_size else model.input_size
        return ModelInfo(model.task, model.labels, size, model.keypoints)

    def reading(self, choice: Choice) -> "Reader":
        """Another reader with the same settings, for outputs that come in another form."""
        return Reader(replace(self.model, choice=choice), self._settings)

    def confidence(self, wishes: Wishes | None) -> float:
        """The threshold that counts for a picture with these wishes."""
        return (self._rules if wishes is None else self._for(wishes)).head.confidence

    def place(self, frame: Size, input_size: Size | None = None) -> Placement:
        """Where a frame of this size lies in the input, of the model's usual size if none is given."""
        return self.model.preprocess.place(frame, input_size or self.model.input_size)

    def buffer(self, input_size: Size, batch: int) -> InputBuffer:
        """A new input tensor for so many frames."""
        model = self.model
        return InputBuffer(
            model.preprocess, input_size, model.image.dtype, channels_last=model.channels_last, batch=batch
        )

    def feeds(self, tensor: Array, input_size: Size) -> dict[str, Array]:
        """All inputs of the model by name, when `tensor` holds the pictures."""
        return self.model.feeds(tensor, input_size)

    def prepare(self, pictures: Sequence[Picture]) -> dict[str, Array]:
        """All inputs of the model by name, for these pictures, in memory of their own.

        Raises:
            ValueError, OSError: a picture cannot be converted.
        """
        size = self.model.input_size
        buffer = self.buffer(size, self.model.fixed_batch or len(pictures))
        for row, picture in enumerate(pictures):
            buffer.put(row, picture, self.place(picture.size))
        return self.feeds(buffer.tensor, size)

    def read(
        self,
        outputs: Sequence[Array],
        placement: Placement,
        frame: Size,
        wishes: Wishes | None = None,
        timings: Callable[[], Timings] | None = None,
    ) -> Prediction:
        """What the model says about one picture.

        Args:
            outputs: one frame's, without the batch axis, in the order of `self.outputs`.
            placement: where the frame lay in the input.
            frame: its size: boxes, masks and keypoints come in its pixels.
            wishes: what is asked for this picture alone.
            timings: asked when all is read.

        Raises:
            ValueError: a vector is none.
        """
        rules = self._rules if wishes is None else self._for(wishes)
        return self._read(outputs, placement, frame, rules, timings or _no_timings)

    def read_batch(
        self, outputs: Mapping[str, Array], frames: Sequence[Size], wishes: Sequence[Wishes | None]
    ) -> list[Prediction]:
        """What a model elsewhere says about the pictures that `prepare` was given, once its answer was looked at.

        Raises:
            ValueError: an output is missing, or of another shape or type than the model has, or they do not fit
                together.
        """
        rows = self.model.fixed_batch or len(frames)
        arrays = [_checked(outputs, output, rows) for output in self.choice.outputs]
        try:
            return [
                self.read([array[row] for array in arrays], self.place(frame), frame, wish)
                for row, (frame, wish) in enumerate(zip(frames, wishes, strict=True))
            ]
        except IndexError as error:  # sides that the model leaves open, and that are not alike
            shapes = ", ".join(str(list(array.shape)) for array in arrays)
            raise ValueError(f"the outputs do not fit together: {shapes}") from error

    def _boxes(
        self, outputs: Sequence[Array], placement: Placement, frame: Size, rules: Rules, timings: Callable[[], Timings]
    ) -> Detections:
        family = self.choice.family
        found = self._decode(outputs, placement.input_size, rules.head)
        if rules.keep is not None:
            found = _of_classes(found, rules.keep)
        if family.needs_nms:
            kept = nms(
                found.xyxy,
                found.scores,
                None if rules.class_agnostic_nms else found.class_ids,
                iou_threshold=rules.iou_threshold,
                max_detections=rules.max_detections,
            )
        else:
            kept = np.argsort(-found.scores, kind="stable")[: rules.max_detections]
        boxes = to_frame(found.xyxy[kept], placement, frame)
        solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        if not solid.all():  # without boxes that lie in the padding
            boxes, kept = boxes[solid], kept[solid]
        if found.extras is None:
            return Detections(boxes, found.scores[kept], found.class_ids[kept], self.model.labels, timings=timings())
        if self.model.task == "instance-segmentation":
            most = max(1, MAX_MASK_BYTES // (frame.width * frame.height))
            boxes, kept = boxes[:most], kept[:most]
            masks = object_masks(found.extras[kept], outputs[1], boxes, placement, frame)
            return Detections(
                boxes, found.scores[kept], found.class_ids[kept], self.model.labels, masks, timings=timings()
            )
        return Detections(
            boxes,
            found.scores[kept],
            found.class_ids[kept],
            self.model.labels,
            keypoints=self._keypoints(found.extras[kept], found.scores[kept], placement, frame, rules),
            timings=timings(),
            keypoint_names=self.model.keypoints,
        )

    def _keypoints(
        self,
        extras: npt.NDArray[np.float32],
        of_boxes: npt.NDArray[np.float32],
        placement: Placement,
        frame: Size,
        rules: Rules,
    ) -> npt.NDArray[np.float32]:
        """float32 (K, P, 3): x, y in pixels of the frame, and confidence; NaN, all three, where none was found."""
        number, values = self.choice.points
        points = extras.reshape(len(extras), number, values)
        found = np.empty((len(extras), number, 3), np.float32)
        found[..., :2] = points_to_frame(points[..., :2], placement, frame)
        # A model without scores of its own for the points is as sure of them as of the object.
        found[..., 2] = points[..., 2] if values > 2 else of_boxes[:, None]
        sure = np.isfinite(points).all(axis=2) & (found[..., 2] >= rules.keypoint_confidence)
        found[~sure] = np.nan
        return found

    def _scores(
        self, outputs: Sequence[Array], placement: Placement, frame: Size, rules: Rules, timings: Callable[[], Timings]
    ) -> Prediction:
        del placement, frame, rules
        return scores.classification(outputs[0], self.choice.values, self.model.labels, timings)

    def _pixels(
        self, outputs: Sequence[Array], placement: Placement, frame: Size, rules: Rules, timings: Callable[[], Timings]
    ) -> Prediction:
        del rules
        return pixels.semantic_mask(
            outputs[0], self.choice.values, self.model.labels, placement=placement, frame=frame, timings=timings
        )

    def _vector(
        self, outputs: Sequence[Array], placement: Placement, frame: Size, rules: Rules, timings: Callable[[], Timings]
    ) -> Prediction:
        del placement, frame, rules
        return scores.embedding(outputs[0], timings)

    def _for(self, wishes: Wishes) -> Rules:
        wishes = replace(wishes, texts=())
        with self._lock:
            rules = self._wished.get(wishes)
            if rules is None:
                if len(self._wished) >= MAX_RULES:
                    self._wished.clear()
                rules = self._wished[wishes] = settle(self.model, self.choice, self._settings, wishes)
        return rules


def _decode_of(family: Family) -> DecodeAll:
    one, several = family.decode, family.decode_all
    if several is not None or one is None:
        return several or _nothing
    return lambda outputs, input_size, options: one(outputs[0], input_size, options)


def _nothing(outputs: Sequence[Array], input_size: Size, options: HeadOptions) -> Candidates:
    raise RuntimeError(f"a family without boxes was asked for some: {len(outputs)} {input_size} {options}")


def _no_timings() -> Timings:
    return NO_TIMINGS


def _of_classes(found: Candidates, keep: npt.NDArray[np.bool_]) -> Candidates:
    class_ids = found.class_ids
    known = (class_ids >= 0) & (class_ids < len(keep))
    wanted = known & keep[np.where(known, class_ids, 0)]
    extras = None if found.extras is None else found.extras[wanted]
    return Candidates(found.xyxy[wanted], found.scores[wanted], class_ids[wanted], extras)


def _checked(outputs: Mapping[str, Array], wanted: TensorInfo, rows: int) -> Array:
    """An output of a model elsewhere, which may send what it likes."""
    array = outputs.get(wanted.name)
    if array is None:
        raise ValueError(f"the answer has no output {wanted.label!r}")
    shape = (rows, *(wanted.shape or ())[1:])
    fits = array.ndim == len(shape) and all(
        own == side for own, side in zip(array.shape, shape, strict=True) if fixed(side) is not None
    )
    if array.ndim == 4:
        fits = fits and array.size > 0
    kinds = "f" if "float" in wanted.dtype else "fui"
    if not fits or array.dtype.kind not in kinds:
        raise ValueError(f"an output is {array.dtype} {list(array.shape)} and not {replace(wanted, shape=shape)}")
    return array
