"""The pages for people: rendered here, readable without JavaScript, and behind the same keys as the API."""
