"""Process groups of a layout, and collective I/O."""
