// Two codes of 8 bits, each plus 128, as a pair of f16: with 0x64 above it a byte is 1024 more than its number.
#define INTEGERS(low, high) pair_fma(((low) & 255) | ((high) & 255) << 16 | 0x64006400, 0x3c003c00, 0xe480e480)
