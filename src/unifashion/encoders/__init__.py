"""Encoders: models that turn images, texts and composed queries into comparable vectors."""
