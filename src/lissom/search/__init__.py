"""Search: limits and a goal in, the next recipe to try out."""
