"""Two networks measured side by side, and what to make of it."""
