"""The model of a family in a layout, out of Megatron's modules and ours."""
