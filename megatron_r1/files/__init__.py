"""Files on disk: what others wrote, read strictly; what a run holds; writes that are whole or absent."""
