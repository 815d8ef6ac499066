"""Captions of garment photos by a vision-language model: prompts, backends, leak guard, resumable journal, editing."""
