"""The HTTP server of one run: what it shows, whose orders it takes, who may ask."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.config.settings import ConfigProblems, InferenceConfig, ServerConfig, Settings
from pipeline.contracts.clock import Clock
from pipeline.contracts.errors import ConfigError
from pipeline.runtime.asking import Asking
from pipeline.runtime.control import Control
from pipeline.runtime.status import Check, Status
from pipeline.runtime.supervisor import Supervisor
from pipeline.telemetry.events import Events
from pipeline.telemetry.metrics import Metrics
from pipeline.version import version

if TYPE_CHECKING:
    from pipeline.server.access import Access, Token
    from pipeline.server.inference._supervisely_platform import PlatformAddress
    from pipeline.server.inference.mount import Inference
    from pipeline.server.inference.streams import Streams


@contextlib.asynccontextmanager
async def serve(
    settings: Settings,
    supervisor: Supervisor,
    metrics: Metrics,
    events: Events,
    clock: Clock,
    *,
    control: Control | None = None,
    asking: Asking | None = None,
    redact: Callable[[str], str] = lambda text: text,
) -> AsyncIterator["Access | None"]:
    """The HTTP server, from before the first component is opened until after the last has ended.

    With `asking`, clients may use the models in the ways that `[server.inference]` says.
    Gives who may ask, so that a reload can change the tokens: `access.replace(tokens_of(new.server))`.
    """
    if settings.server.address is None:
        yield None
        return
    from pipeline.config.tls import tls_context
    from pipeline.server.access import Access
    from pipeline.server.app import Server
    from pipeline.server.views import Commands, Health

    def health(checks: Sequence[Check], sources: list[dict[str, Any]] | None = None) -> Health:
        found = {check.name: (check.note or "ok") if check.ok else check.detail for check in checks}
        return Health(all(check.ok for check in checks), found, sources)

    status = Status(supervisor, version(), clock, redact)
    access = Access(tokens_of(settings.server), clock, exposed=settings.server.is_exposed)
    inference = None
    if asking is not None and settings.server.inference.enabled:
        from pipeline.server.inference.streams import Streams

        streams = Streams(control, status.whole, supervisor, settings.server.sources_by_api)
        inference = _inference(settings.server.inference, asking, metrics, streams)
    try:
        server = Server(
            settings.server.address,
            metrics=metrics.exposition,
            status=status.whole,
            live=lambda: health(status.live()),
            ready=lambda: health(status.ready(), status.brief_sources()),
            commands=Commands(control, events, settings.server.sources_by_api, _source_schema),
            access=access,
            hosts=settings.server.hosts,
            tls=tls_context(settings.server),
            inference=inference,
            version=version(),
        )
        await server.start()
    except ConfigError as error:
        raise ConfigProblems([settings.blame("core", "", error)]) from error
    events.listening(server.url)
    if inference is not None:
        events.offering([name for name, backend in settings.backends.items() if backend.serve])
    if settings.server.is_exposed and settings.server.tls_cert is None:
        events.note("server", "other machines can listen in on tokens and status: set tls_cert and tls_key")
    try:
        yield access
    finally:
        await server.close()


def _inference(config: InferenceConfig, asking: Asking, metrics: Metrics, streams: "Streams") -> "Inference":
    """The models, offered in every protocol that is not off."""
    from pipeline.server.inference.dialects import make_dialects
    from pipeline.server.inference.limits import InferenceLimits
    from pipeline.server.inference.mount import Inference
    from pipeline.server.inference.pictures import PictureReader
    from pipeline.server.inference.service import Service

    limits = InferenceLimits(
        config.max_body_bytes,
        config.max_pixels,
        config.max_pictures,
        config.max_waiting,
        config.timeout_s,
        config.allow_urls,
        config.url_hosts,
        config.allow_private_urls,
    )
    pictures = PictureReader(limits)
    service = Service(asking, pictures, limits)
    mounted = make_dialects(
        service,
        {
            "huggingface": config.huggingface,
            "supervisely": config.supervisely,
            "kserve": config.kserve,
            "roboflow": config.roboflow,
        },
        {
            "roboflow": {"streams": streams, "workflows": config.workflows},
            "supervisely": {"platform": _platform(config)},
        },
    )
    for each in mounted:
        metrics.offer(each.dialect.name)
    return Inference(service, mounted, observe=metrics.answered, close=pictures.close)


def _platform(config: InferenceConfig) -> "PlatformAddress | None":
    """Where pictures lie that Supervisely clients name by id; None: nowhere."""
    from pipeline.server.inference._supervisely_platform import PlatformAddress

    if config.supervisely_platform is None:
        return None
    token = config.supervisely_token
    return PlatformAddress(config.supervisely_platform, None if token is None else token.get_secret_value())


def tokens_of(server: ServerConfig) -> "list[Token]":
    """The tokens of `[server.tokens]`, as the server keeps them: without the secrets."""
    from pipeline.server.access import Token

    return [
        Token.of(name, token.token.get_secret_value(), token.scopes, token.expires)
        for name, token in server.tokens.items()
    ]


def _source_schema() -> Mapping[str, Any]:
    from pipeline.config.schema import source_schema
    from pipeline.registry import Registry

    return source_schema(Registry.load())
