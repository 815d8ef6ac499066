"""The language model that writes captions from Q-Former queries, the diffusion head, and captioning of images."""
