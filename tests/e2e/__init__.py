"""The service as its users meet it. A package, so that the service that its tests share ends with them."""
