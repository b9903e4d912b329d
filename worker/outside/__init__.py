"""The code outside of the sandbox: claims, leases, children, and publishing."""
