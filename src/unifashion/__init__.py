"""UniFashion: one model for fashion retrieval, captioning and try-on."""

__version__ = "0.1.0"
