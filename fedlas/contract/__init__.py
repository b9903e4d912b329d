"""The contract: every shape that passes between library, worker, service and client, written once.

A module is a noun: `records` and `events` are answers, `requests` and `options` are sent, `profiles` describe files,
`plan` and `report` are results, `problems` are errors. All need pydantic and nothing else.
"""

from fedlas.extras import require

require("client", "pydantic")
