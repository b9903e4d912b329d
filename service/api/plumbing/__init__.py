"""The plumbing of the API: what every resource uses, and what a request passes before it reaches one."""
