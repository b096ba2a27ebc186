"""Model families, one file each; the registry finds them."""
