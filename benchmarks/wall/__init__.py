"""The cost of the wall around serving: an API behind it against one that answers predictions itself, side by side."""
