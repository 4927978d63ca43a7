"""What people look at after a run: the page, its charts, the figures of the reference systems."""
