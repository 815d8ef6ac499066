"""The language model that writes captions from Q-Former queries, the drawing head, and captioning of images."""
