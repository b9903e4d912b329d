"""What runs outside of the sandbox: claims, leases, children, and what is published."""
