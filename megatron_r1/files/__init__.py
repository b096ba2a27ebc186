"""Files that others wrote: whether they can be read, and JSON read strictly."""
