"""CPU kernels in C++ for processors with AVX-512 BF16: attention and 3 x 3 convolution.

`build` compiles and loads them and decides which processors use them; `attention` and `convolution`
install them into a network.
"""
