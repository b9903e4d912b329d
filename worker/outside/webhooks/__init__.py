"""Standard Webhooks: how a message is signed, when it is sent, and a way to send it that reaches no private address."""

from worker.outside.webhooks.schedule import Outcome, delay_before, outcome_of
from worker.outside.webhooks.signing import signed_headers
from worker.outside.webhooks.transport import Answer, deliver

__all__ = ["Answer", "Outcome", "delay_before", "deliver", "outcome_of", "signed_headers"]
