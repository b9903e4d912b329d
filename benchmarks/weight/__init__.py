"""An attacker: searches, for every route and format, the request of allowed size that costs the service most."""
