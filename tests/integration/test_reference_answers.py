"""Real models beyond plain detection, against answers that were worked out apart from the code under test."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from pipeline.backends._onnx.feed import HostFeed
from pipeline.backends.onnx import OnnxBackend, OnnxBackendConfig
from pipeline.contracts.frame import Frame, Wishes
from pipeline.contracts.result import Classification, Detections, Prediction
from pipeline.models.picture import VideoPicture
from pipeline.testing import PluginContext

PICTURES = ("bus.jpg", "zidane.jpg", "astronaut.png", "chelsea.png")


def frame_of(path: Path, wishes: Wishes | None = None) -> Frame:
    with av.open(str(path)) as container:
        picture = VideoPicture(next(container.decode(video=0)))
    return Frame("test", 0, 0.0, 0.0, "pts", picture, 0.0, wishes=wishes)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of all backends here: what the first start of a model finds out holds for the others."""
    return tmp_path_factory.mktemp("data")


@contextlib.contextmanager
def opened(model: Path, kept: Path, **keys: Any) -> Iterator[OnnxBackend]:
    config = OnnxBackendConfig(model=model, device="cpu", workers=1, input_shape="square", **keys)
    backend = config.build(PluginContext(data_dir=kept))
    try:
        backend.open()
        yield backend
    finally:
        backend.close()


class Overheard:
    """Stands before a session, and keeps what it answered last."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.outputs: list[npt.NDArray[np.float32]] = []

    def run(self, names: Any, feeds: Any) -> list[npt.NDArray[np.float32]]:
        self.outputs = self._session.run(names, feeds)
        return self.outputs

    def get_providers(self) -> list[str]:
        return []

    def io_binding(self) -> Any:
        raise NotImplementedError

    def run_with_iobinding(self, iobinding: Any) -> None:
        raise NotImplementedError


def masks_by_opencv(
    outputs: list[npt.NDArray[np.float32]], found: Detections, width: int, height: int
) -> npt.NDArray[np.bool_]:
    """What `process_mask_native` of ultralytics does, with OpenCV's resize in place of PyTorch's.

    Which row of the output an object came from is found by its score.
    """
    cv2 = pytest.importorskip("cv2", reason="OpenCV (dependency group: dev) is not installed")
    (rows,), (prototypes,) = outputs
    scale = min(640 / width, 640 / height)
    across, down = round(width * scale), round(height * scale)
    left, top = (640 - across) / 8, (640 - down) / 8  # half of the padding, in cells of four pixels
    masks = np.zeros((len(found), height, width), np.bool_)
    for index, (x1, y1, x2, y2) in enumerate(found.xyxy):
        scores = rows[4 + int(found.class_id[index])]
        row = int(np.abs(scores - found.confidence[index]).argmin())
        small = (rows[84:, row] @ prototypes.reshape(32, -1)).reshape(160, 160)
        inside = small[round(top) : 160 - round(top), round(left) : 160 - round(left)]
        large = cv2.resize(inside, (width, height), interpolation=cv2.INTER_LINEAR) > 0
        y, x = np.ogrid[:height, :width]
        masks[index] = large & (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    return masks


def test_masks_are_those_of_the_reference_way(shared_data: Path, kept: Path) -> None:
    with opened(shared_data / "models" / "yolo11n-seg_640.onnx", kept) as backend:
        assert backend.info().task == "instance-segmentation"
        loaded = backend._loaded
        assert loaded is not None
        feed = loaded._feed
        assert isinstance(feed, HostFeed)
        feed._session = overheard = Overheard(feed._session)
        seen = 0
        for name in PICTURES:
            of = frame_of(shared_data / "images" / name)
            (found,) = backend.infer([of])
            assert isinstance(found, Detections)
            assert found.masks is not None
            width, height = of.picture.size
            for index, wanted in enumerate(masks_by_opencv(overheard.outputs, found, width, height)):
                mask = found.masks[index]
                assert (mask & wanted).sum() / (mask | wanted).sum() > 0.98, (name, found.label(index))
                seen += 1
        assert seen >= 9


def test_a_wish_below_the_configured_threshold_is_granted(shared_data: Path, kept: Path) -> None:
    with opened(shared_data / "models" / "yolo11n-seg_640.onnx", kept, confidence=0.8) as backend:
        counts = []
        for wishes in (None, Wishes(confidence=0.01), Wishes(confidence=0.01, classes=("bus",))):
            (found,) = backend.infer([frame_of(shared_data / "images" / "bus.jpg", wishes)])
            assert isinstance(found, Detections)
            assert found.masks is not None
            assert len(found.masks) == len(found)
            counts.append(len(found))
        assert counts[0] == 4
        assert counts[1] > 20
        assert 1 <= counts[2] < counts[1]


def faces(answer: Prediction) -> list[tuple[list[int], dict[str, list[int]]]]:
    assert isinstance(answer, Detections)
    assert answer.keypoints is not None
    points = answer.keypoints[..., :2].round().astype(int).tolist()
    boxes = answer.xyxy.round().astype(int).tolist()
    return [(box, dict(zip(answer.keypoint_names, some, strict=True))) for box, some in zip(boxes, points, strict=True)]


def test_faces_are_those_that_opencvs_own_detector_finds(shared_data: Path, kept: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV (dependency group: dev) is not installed")
    model = shared_data / "models" / "yunet_n_320.onnx"
    with opened(model, kept, confidence=0.8, iou_threshold=0.3) as backend:
        for name in ("zidane.jpg", "astronaut.png"):
            path = shared_data / "images" / name
            picture = cv2.imread(str(path))
            height, width = picture.shape[:2]
            scale = 320 / max(height, width)
            small = cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_LINEAR)
            square = np.zeros((320, 320, 3), np.uint8)
            square[: small.shape[0], : small.shape[1]] = small
            reference = cv2.FaceDetectorYN.create(str(model), "", (320, 320), 0.8, 0.3)
            _, wanted = reference.detect(square)
            answered = faces(backend.infer([frame_of(path)])[0])
            assert len(answered) == len(wanted) >= 1
            for (box, points), row in zip(answered, wanted[np.argsort(-wanted[:, 14])] / scale, strict=True):
                x, y, w, h, *landmarks = row[:14].tolist()
                assert np.abs(np.array(box) - (x, y, x + w, y + h)).max() < 0.03 * w + 2
                assert np.abs(np.array(list(points.values())) - np.reshape(landmarks, (5, 2))).max() < 0.03 * w + 2
            assert answered[0][1]["right_eye"][0] < answered[0][1]["left_eye"][0], "the person's right, our left"


def test_a_quantised_classifier_knows_a_cat_and_a_bus(shared_data: Path, kept: Path) -> None:
    with opened(shared_data / "models" / "efficientnet_lite0_uint8.onnx", kept) as backend:
        assert backend.info().task == "classification"
        cats, vehicles = {281, 282, 283, 284, 285}, {654, 779, 874}  # ImageNet: tabby to Egyptian cat; (trolley) buses
        for name, wanted in (("chelsea.png", cats), ("bus.jpg", vehicles)):
            (answer,) = backend.infer([frame_of(shared_data / "images" / name)])
            assert isinstance(answer, Classification)
            assert answer.scores.shape == (1000,)
            best = np.argsort(-answer.scores)[:2].tolist()
            assert set(best) <= wanted, (name, best)
            assert 0.5 < answer.scores.sum() < 1.01
