"""What the Supervisely platform is asked for pictures, videos and projects by their ids, and what it answers.

Format: supervisely 6.74.51, `ImageApi`, `VideoApi`, `DatasetApi`, `ProjectApi`. Every question is a POST of JSON to
`/public/api/v3/METHOD`; a download answers with the file itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline.wire.document import integer, items, mapping, text

API: Final = "/public/api/v3/"
PICTURE_INFO, PICTURE_FILE, PICTURES = "images.info", "images.download", "images.list"
VIDEO_INFO, VIDEO_FILE = "videos.info", "videos.download"
DATASET_INFO, DATASETS = "datasets.info", "datasets.list"
PROJECT_INFO: Final = "projects.info"
"""The methods that are asked."""
PER_PAGE: Final = 500
MAX_PER_PAGE: Final = 100_000
MAX_PAGES: Final = 1_000_000
PICTURES_KIND: Final = "images"
"""The type of a project that holds pictures."""

_MOST: Final = 2**53


@dataclass(frozen=True, slots=True)
class Item:
    """A picture or a video as the platform knows it.

    Attributes:
        id: its own.
        name: of the file.
        dataset_id: where it lies.
    """

    id: int
    name: str
    dataset_id: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset as the platform knows it.

    Attributes:
        id: its own.
        project_id: where it lies.
        count: pictures in it; None: it does not say.
    """

    id: int
    project_id: int
    count: int | None


def encode_info(item_id: int) -> dict[str, Any]:
    """The question for what is known of a picture or a video; links are the platform's own business."""
    return {"id": item_id, "forceMetadataForLinks": False}


def encode_pictures(dataset_id: int, page: int) -> dict[str, Any]:
    """The question for a page, from 1, of the pictures in a dataset."""
    return {"datasetId": dataset_id, "forceMetadataForLinks": False, **_page(page)}


def encode_datasets(project_id: int, page: int) -> dict[str, Any]:
    """The question for a page, from 1, of the datasets of a project, those within others included."""
    return {"projectId": project_id, "recursive": True, **_page(page)}


def _page(page: int) -> dict[str, Any]:
    return {"filter": [], "sort": "id", "sort_order": "asc", "page": page, "per_page": PER_PAGE}


def decode_item(document: object, wanted_id: int | None = None, dataset_id: int | None = None) -> Item:
    """A picture or a video.

    Args:
        document: what the platform says about it.
        wanted_id: that it must have.
        dataset_id: whose list it is from; None: it says itself.

    Raises:
        ValueError: it is none, or another one.
    """
    item = mapping(document, "a picture")
    found = _id(item, "id")
    if wanted_id is not None and found != wanted_id:
        raise ValueError("the answer is about another picture")
    return Item(found, text(item.get("name"), "a name"), dataset_id or _id(item, "datasetId"))


def decode_dataset(document: object, wanted_id: int | None = None) -> Dataset:
    """A dataset.

    Raises:
        ValueError: it is none, or another one.
    """
    item = mapping(document, "a dataset")
    found = _id(item, "id")
    if wanted_id is not None and found != wanted_id:
        raise ValueError("the answer is about another dataset")
    counts = (item.get(key) for key in ("itemsCount", "imagesCount"))
    count = next((integer(value, "a count", 0, _MOST) for value in counts if value is not None), None)
    return Dataset(found, _id(item, "projectId"), count)


def decode_kind(document: object) -> str:
    """What a project holds: "images", "videos" and the like.

    Raises:
        ValueError: it is no project.
    """
    return text(mapping(document, "a project").get("type"), "the project's type")


def decode_page(document: object) -> tuple[list[Any], int]:
    """What stands on a page, and how many pages there are.

    Raises:
        ValueError: it is none.
    """
    page = mapping(document, "a page")
    entities = items(page.get("entities"), "entities", MAX_PER_PAGE)
    return entities, integer(page.get("pagesCount"), "pagesCount", 0, MAX_PAGES)


def _id(item: Mapping[str, Any], name: str) -> int:
    return integer(item.get(name), name, 1, _MOST)
