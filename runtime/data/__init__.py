"""From a source on disk to arrays: read, split, fit on the training rows, prepare, batch."""
