"""What stands on the core and could be deleted without harming it; no app imports another one's inside."""
