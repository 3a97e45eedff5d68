"""Read checkpoints safely, recognise their layout, load them strictly, and find the right one in a work dir."""
