"""`webhook`: results and events as signed HTTP requests."""

from typing import ClassVar, Literal

from pipeline.contracts.component import Context
from sinks._webhook_keys import WebhookKeys
from sinks._webhook_sender import WebhookSender


class WebhookSinkConfig(WebhookKeys):
    """Results and events as requests to a server of yours, signed as Standard Webhooks."""

    takes_events: ClassVar[bool] = True

    type: Literal["webhook"] = "webhook"

    def build(self, ctx: Context) -> WebhookSender:  # type: ignore[override]  # the topology puts a spool in front
        """Make the sender."""
        return WebhookSender(self, ctx)
