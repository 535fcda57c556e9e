"""Core ML packages (.mlpackage) on any machine: read, checked, and their ML Programs run without Apple's runtime."""

# What a replay through coreml.runner shows, and what it does not.
PROVES = "graph, weights and quantization verified; Apple's runtime not exercised"
