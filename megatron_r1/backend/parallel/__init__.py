"""Process groups of a layout, and collectives that fail on every rank together."""
