"""Log lines: how often they come."""
