"""The model of a family in a layout, built from Megatron's modules and our own."""
