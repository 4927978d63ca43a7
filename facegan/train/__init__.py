"""The training: the loop, the step and everything a step is made of."""
