"""Standard Webhooks: how a message is signed, when it is sent, and a way to send it that reaches no private address."""

from worker.outside.webhooks.schedule import AttemptOutcome, attempt_outcome, delay_before
from worker.outside.webhooks.signing import signed_headers
from worker.outside.webhooks.transport import WebhookResponse, deliver

__all__ = ["AttemptOutcome", "WebhookResponse", "attempt_outcome", "delay_before", "deliver", "signed_headers"]
