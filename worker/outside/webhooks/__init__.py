"""Standard Webhooks: how a message is signed, when it is sent, and a way to send it that reaches no private address."""
