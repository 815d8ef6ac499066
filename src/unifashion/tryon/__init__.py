"""UNIStableVITON: a diffusion model that puts a garment (photo or sketch, and words) on a person; api.py is the short way."""
