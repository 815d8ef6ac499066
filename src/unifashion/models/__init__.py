"""The network: vision tower, Q-Former, heads and losses."""
