"""What a set is on disk: the stored-PNG record, its tar, the index, the transform that made the pictures."""
