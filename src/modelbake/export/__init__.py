"""Reference models into ONNX artifacts and goldens, one module per family; torch is imported here and nowhere else."""
