// NF4 and FP4 of bitsandbytes: the table's values are f16, their low and high bytes in tables of their own.
#define QUADS 2
#define WORDS 1
#define TABLES 2
#define EIGHT(own, half_block, step) \
  const uint s = (own[8] >> 16 * half_block & 0xffff) * 0x10001u, word = own[4 * half_block + step]; \
  const uint low[2] = LOOKED(table, word), high[2] = LOOKED(table2, word); \
  UNROLL \
  for (uint i = 0; i < 4; i++) { \
    const uint value = i % 2 == 0 ? zip_even(low[i / 2], high[i / 2]) : zip_odd(low[i / 2], high[i / 2]); \
    pair[i] = TIMES(value, s); \
  }
