"""What the wall around serving costs: an API behind it against one that answers predictions itself, side by side."""
