// A pair of codes of 8 bits, each plus 128, under 0x64: an f16 that is 1024 more than its byte.
#define INTEGERS(pair) pair_fma(pair, 0x3c003c00, 0xe480e480)
