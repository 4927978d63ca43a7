"""From a set to an endless, ordered stream of uint8 batches: open, stage, order, gather, verify."""
