"""CUDA kernels in Triton, imported when the first CUDA tensor comes."""
