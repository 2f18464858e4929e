"""librdkafka's mock cluster, which speaks Kafka's protocol over TCP and fails on order: no real Kafka, which needs a
Java machine."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PRODUCE, METADATA = 0, 3  # numbers of requests in Kafka's protocol


def _library() -> Any:
    import confluent_kafka

    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    library: Any = ctypes.CDLL(str(next(folder.glob("librdkafka*"))))
    library.rd_kafka_conf_new.restype = ctypes.c_void_p
    library.rd_kafka_new.restype = ctypes.c_void_p
    library.rd_kafka_new.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    library.rd_kafka_destroy.argtypes = [ctypes.c_void_p]
    library.rd_kafka_destroy.restype = None
    library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_new.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.rd_kafka_mock_cluster_destroy.argtypes = [ctypes.c_void_p]
    library.rd_kafka_mock_cluster_destroy.restype = None
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    library.rd_kafka_mock_cluster_bootstraps.argtypes = [ctypes.c_void_p]
    library.rd_kafka_mock_topic_create.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]
    library.rd_kafka_mock_push_request_errors_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int16,
        ctypes.c_size_t,
        ctypes.POINTER(ctypes.c_int),
    ]
    library.rd_kafka_mock_push_request_errors_array.restype = None
    for name in ("set_down", "set_up"):
        getattr(library, f"rd_kafka_mock_broker_{name}").argtypes = [ctypes.c_void_p, ctypes.c_int32]
    return library


class KafkaMock:
    """One broker; a context manager: then it is gone."""

    def __init__(self) -> None:
        self._library = _library()

    def __enter__(self) -> Self:
        reason = ctypes.create_string_buffer(200)
        self._client = self._library.rd_kafka_new(0, self._library.rd_kafka_conf_new(), reason, len(reason))
        assert self._client, reason.value
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, 1)
        self.server = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)

    def topic(self, name: str, partitions: int = 1) -> None:
        """Make a topic."""
        assert self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1) == 0

    def fail(self, request: int, errors: Sequence[int]) -> None:
        """Answer the next requests of a kind with these errors."""
        array = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, request, len(errors), array)

    def down(self) -> None:
        """Take no connections, and end those there are."""
        self._library.rd_kafka_mock_broker_set_down(self._cluster, -1)

    def up(self) -> None:
        """Take connections again."""
        self._library.rd_kafka_mock_broker_set_up(self._cluster, -1)

    def records(self, topic: str, count: int, limit_s: float = 10.0) -> list[tuple[str, dict[str, str], bytes]]:
        """The first records of a topic: key, headers, value; of all partitions, each in its order."""
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.server, "group.id": "test", "enable.auto.commit": False})
        try:
            partitions = consumer.list_topics(topic, 10).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
            found: list[tuple[str, dict[str, str], bytes]] = []
            while len(found) < count:
                messages = consumer.consume(count - len(found), limit_s)
                assert messages, f"{len(found)} of {count} records of {topic}"
                for message in messages:
                    assert message.error() is None, message.error()
                    about: Any = message.headers() or []  # pairs, says the library's documentation
                    headers = {name: value.decode() for name, value in about}
                    key, value = message.key(), message.value()
                    assert isinstance(key, bytes)
                    assert isinstance(value, bytes)
                    found.append((key.decode(), headers, value))
            return found
        finally:
            consumer.close()
