"""Files beside every floor: atomic writing, images, checkpoints, counter-based random numbers."""
