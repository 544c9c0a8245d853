#define QUADS 2
#define SHORTS 1
#define TAIL 2
#define TABLES 1
#define EIGHT(own, half_block, step) \
  const uint s = SIGNED(BYTE(own[8], half_block)), bytes[2] = LOOKED(table, own[4 * half_block + step]); \
  UNROLL \
  for (uint i = 0; i < 4; i++) { \
    const uint value = i % 2 == 0 ? bytes_even(bytes[i / 2]) : bytes_odd(bytes[i / 2]); \
    pair[i] = pair_fma(value, s, TIMES(s, 0xe480e480)); \
  }
