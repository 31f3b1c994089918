"""Files: written whole or not at all, and checked before anything of them is taken over."""
