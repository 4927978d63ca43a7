"""How good the generated faces are: each metric a pure function over uint8 images."""
