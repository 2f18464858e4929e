"""As much of a Supervisely platform as models need that are asked about pictures by their ids, in memory."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TOKEN = "a" * 128
API = "/public/api/v3/"

Reply = tuple[int, bytes, str]


@dataclass
class PlatformData:
    """What lies there. `answer` is what its HTTP API says; whoever serves it may call from any thread.

    Attributes:
        pictures: files by id.
        videos: files by id.
        datasets: the pictures' ids of each dataset; all belong to project 5, videos to dataset 30 of project 6.
        per_page: so many on each page of a list.
        asked: method, question and token of all that was asked.
    """

    pictures: dict[int, bytes] = field(default_factory=dict)
    videos: dict[int, bytes] = field(default_factory=dict)
    datasets: dict[int, list[int]] = field(default_factory=dict)
    per_page: int = 2
    asked: list[tuple[str, dict[str, Any], str | None]] = field(default_factory=list)

    def methods(self) -> list[str]:
        """What was asked, without the rest of it."""
        return [method for method, _, _ in self.asked]

    def answer(self, path: str, question: Mapping[str, Any], token: str | None) -> Reply:
        """Status, body and Content-Type."""
        method = path.removeprefix(API)
        self.asked.append((method, dict(question), token))
        if token != TOKEN:
            return _json({"error": "Unauthorized"}, 401)
        reply = _json({"error": "not found"}, 404)
        number = question.get("id")
        match method:
            case "images.info" if number in self.pictures:
                reply = _json(self._picture(number))
            case "images.download" if number in self.pictures:
                reply = 200, self.pictures[number], "image/jpeg"
            case "videos.info" if number in self.videos:
                reply = _json({"id": number, "name": f"{number}.mp4", "datasetId": 30, "projectId": 6})
            case "videos.download" if number in self.videos:
                reply = 200, self.videos[number], "video/mp4"
            case "datasets.info" if number in self.datasets or number == 30:
                reply = _json(self._dataset(number))
            case "projects.info" if number in (5, 6):
                reply = _json({"id": number, "name": "streets", "type": "images" if number == 5 else "videos"})
            case "datasets.list" if question.get("projectId") == 5:
                assert question["recursive"] is True
                reply = self._page([self._dataset(each) for each in sorted(self.datasets)], question)
            case "images.list" if question.get("datasetId") in self.datasets:
                reply = self._page([self._picture(each) for each in self.datasets[question["datasetId"]]], question)
        return reply

    def _picture(self, number: int) -> dict[str, Any]:
        home = next(dataset for dataset, pictures in self.datasets.items() if number in pictures)
        return {"id": number, "name": f"{number}.jpg", "datasetId": home, "width": 1, "height": 1, "meta": {}}

    def _dataset(self, number: int) -> dict[str, Any]:
        count = len(self.datasets.get(number, ()))
        project = 6 if number == 30 else 5
        return {"id": number, "projectId": project, "name": "first", "imagesCount": count, "itemsCount": count}

    def _page(self, entities: list[dict[str, Any]], question: Mapping[str, Any]) -> Reply:
        page = question.get("page", 1)
        first = (page - 1) * self.per_page
        found = entities[first : first + self.per_page]
        pages = -(-len(entities) // self.per_page)
        about = {"total": len(entities), "perPage": self.per_page, "pagesCount": pages}
        return _json({"entities": found, **about})


def _json(document: object, status: int = 200) -> Reply:
    return status, json.dumps(document).encode(), "application/json"
