"""What is built on the core and can be deleted without affecting it; no app imports another app."""
