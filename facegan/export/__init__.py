"""A trained generator as something that others can use without this software: a web page, ONNX, a Hub folder."""
