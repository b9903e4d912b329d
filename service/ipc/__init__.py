"""Between the processes of one service: channels over inherited socket pairs, and the documents that cross them."""
