#define QUADS 2
#define WORDS 1
#define TABLES 1
#define EIGHT(own, half_block, step) \
  const uint s = (own[8] >> 16 * half_block & 0xffff) * 0x10001u, bytes[2] = LOOKED(table, own[4 * half_block + step]); \
  UNROLL \
  for (uint i = 0; i < 4; i++) { \
    const uint value = i % 2 == 0 ? bytes_even(bytes[i / 2]) : bytes_odd(bytes[i / 2]); \
    pair[i] = TIMES(pair_fma(value, 0x3c003c00, 0xe480e480), s); \
  }
