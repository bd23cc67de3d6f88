"""A student learns from its teacher: what one batch teaches, the loop around it, and what a run leaves."""
