"""Core ML packages (.mlpackage) on any machine: read, checked, and their ML Programs run without Apple's runtime."""
