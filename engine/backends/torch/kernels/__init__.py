"""CPU kernels in C++ for processors with AVX-512 BF16: attention and 3 x 3 convolution."""
