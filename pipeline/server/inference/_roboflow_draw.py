"""What a model said, drawn on a copy of the picture: boxes, names, masks, keypoints. For threads, not for the loop."""

from __future__ import annotations

import colorsys
import io
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.contracts.result import Classification, Detections, Prediction, SemanticMask, label_of

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

    from pipeline.contracts.frame import Picture

JPEG_QUALITY = 90
MAX_STROKE_PX = 64
LabelText = Literal["Class", "Confidence", "Class and Confidence", "Index", "Area", "Dimensions"]

_MASK_OPACITY = 0.5
_FONT_PX_PER_STROKE = 4
_MIN_FONT_PX = 12


def color_of(class_id: int) -> tuple[int, int, int]:
    """RGB, 0..255: far apart for neighbouring classes (steps of the golden ratio around the colour circle)."""
    red, green, blue = colorsys.hsv_to_rgb(class_id * 0.618034 % 1.0, 0.85, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def scene_of(picture: Picture) -> Image.Image:
    """A copy of the picture that may be drawn on."""
    from PIL import Image

    return Image.fromarray(picture.rgb())


def annotated(picture: Picture, prediction: Prediction, *, stroke_px: int = 1, labels: bool = False) -> Image.Image:
    """Everything that the prediction has to show, on a copy of the picture."""
    scene = scene_of(picture)
    match prediction:
        case Detections():
            scene = draw_masks(scene, prediction)
            draw_boxes(scene, prediction, stroke_px)
            draw_keypoints(scene, prediction, stroke_px)
            if labels:
                draw_labels(scene, prediction, "Class", stroke_px)
        case Classification():
            if len(prediction.scores):
                top = int(prediction.scores.argmax())
                _write(scene, (0, 0), label_of(prediction.names, top), color_of(top), _font_px(stroke_px))
        case SemanticMask():
            scene = _blend(scene, [(prediction.class_map == i, int(i)) for i in np.unique(prediction.class_map) if i])
        case _:
            pass
    return scene


def draw_boxes(scene: Image.Image, found: Detections, stroke_px: int = 1) -> None:
    """A frame around each object."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(scene)
    for index, box in enumerate(_drawable(found, scene)):
        if box is not None:
            draw.rectangle(box, outline=color_of(int(found.class_id[index])), width=_stroke(stroke_px))


def draw_labels(scene: Image.Image, found: Detections, text: LabelText = "Class", stroke_px: int = 1) -> None:
    """What each object is, above its top left corner."""
    font_px = _font_px(stroke_px)
    for index, box in enumerate(_drawable(found, scene)):
        if box is not None:
            left, top = box[0], max(0.0, box[1] - font_px - 2)
            _write(scene, (left, top), _text_of(found, index, text), color_of(int(found.class_id[index])), font_px)


def draw_masks(scene: Image.Image, found: Detections) -> Image.Image:
    """Each object's pixels tinted; a new picture."""
    if found.masks is None:
        return scene
    return _blend(scene, [(mask, int(found.class_id[index])) for index, mask in enumerate(found.masks)])


def draw_keypoints(scene: Image.Image, found: Detections, stroke_px: int = 1) -> None:
    """A dot on each keypoint."""
    if found.keypoints is None:
        return
    from PIL import ImageDraw

    draw, radius = ImageDraw.Draw(scene), _stroke(stroke_px) + 1
    for index, points in enumerate(found.keypoints):
        for x, y, confidence in points.tolist():
            if np.isfinite((x, y, confidence)).all() and confidence > 0:
                box = (x - radius, y - radius, x + radius, y + radius)
                draw.ellipse(box, fill=color_of(int(found.class_id[index])))


def jpeg(scene: Image.Image) -> bytes:
    """The picture as a JPEG file."""
    buffer = io.BytesIO()
    scene.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _drawable(found: Detections, scene: Image.Image) -> list[tuple[float, float, float, float] | None]:
    """Each box within the picture, left to right and top to bottom; None for what is no box of it."""
    limits = np.array([scene.width, scene.height, scene.width, scene.height], np.float32) - 1
    boxes: list[tuple[float, float, float, float] | None] = []
    for xyxy in found.xyxy:
        left, top, right, bottom = np.clip(xyxy, 0, limits).tolist()
        # False for NaN, too.
        boxes.append((left, top, right, bottom) if left <= right and top <= bottom else None)
    return boxes


def _text_of(found: Detections, index: int, text: LabelText) -> str:
    confidence = f"{float(found.confidence[index]):.2f}"
    width, height = (found.xyxy[index, 2:] - found.xyxy[index, :2]).tolist()
    match text:
        case "Confidence":
            return confidence
        case "Class and Confidence":
            return f"{found.label(index)} {confidence}"
        case "Index":
            return str(index)
        case "Area":
            return str(int(width * height))
        case "Dimensions":
            return f"{int(width)} x {int(height)}"
        case _:
            return found.label(index)


def _write(scene: Image.Image, at: tuple[float, float], text: str, color: tuple[int, int, int], font_px: int) -> None:
    from PIL import ImageDraw, ImageFont

    draw = ImageDraw.Draw(scene)
    font = ImageFont.load_default(font_px)
    draw.rectangle(draw.textbbox(at, text, font=font), fill=color)
    draw.text(at, text, fill=(0, 0, 0), font=font)


def _blend(scene: Image.Image, regions: list[tuple[npt.NDArray[np.bool_], int]]) -> Image.Image:
    from PIL import Image

    pixels = np.array(scene)
    for mask, class_id in regions:
        if mask.shape == pixels.shape[:2]:
            color = np.array(color_of(class_id), np.float32)
            pixels[mask] = (pixels[mask] * (1 - _MASK_OPACITY) + color * _MASK_OPACITY).astype(np.uint8)
    return Image.fromarray(pixels)


def _stroke(stroke_px: int) -> int:
    return max(1, min(stroke_px, MAX_STROKE_PX))


def _font_px(stroke_px: int) -> int:
    return max(_MIN_FONT_PX, _FONT_PX_PER_STROKE * _stroke(stroke_px))
