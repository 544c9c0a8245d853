// What `blocks_matmul` multiplies as f16, for products with many rows and for look-ups. Group: 256 times 64 weights of a lane, 8 waves.
//
//   w [n_row, STRIDE * 4] u32    codes: the type's codebook, u32    sizes [n_row, n_in]    y: pairs of weights [n_row, n_in / 2]
#define CODE(i) codes[i]
const uint n_in = sizes[1], n_super = (n_in + 255) / 256;
const uint at = group_x * 256 + wave * 32 + lane, row = at / (4 * n_super), super = at / 4 % n_super, quad = at % 4;
#if TABLES == 1
TABLE(table, codes, 0);
#endif
#if TABLES == 2
TABLE(table, codes, 0);
TABLE(table2, codes, 1);
#endif
if (row < sizes[0]) {
  uint own[NUMBERS];
  TAKE(own, row * STRIDE, super, quad)
  const uint factors = TAIL > 0 ? FACTORS(row * STRIDE, super) : 0;
  const float factor = TAIL > 0 ? FACTOR * half_bits(factors & 0xffff) : FACTOR;
  UNROLL
  for (uint half_block = 0; half_block < 2; half_block++) {
    UNROLL
    for (uint step = 0; step < 4; step++) {
      const uint column = 256 * super + 128 * half_block + 32 * quad + 8 * step;
      uint pair[4], least = 0;
      EIGHT(own, half_block, step)
      const float less = LEAST == 1 ? half_bits(factors >> 16) * pair_low(least) : 0.0f;
      float eight[8];
      UNROLL
      for (uint i = 0; i < 4; i++) {
        eight[i] = factor * pair_low(pair[i]) - less;
        eight[i + 4] = factor * pair_high(pair[i]) - less;
      }
      if (column < n_in) {
        UNROLL
        for (uint i = 0; i < 4; i++) y[(row * n_in + column) / 2 + i] = half_pair(eight[2 * i], eight[2 * i + 1]);
      }
    }
  }
}
#undef CODE
