// What the types' EIGHT are made of. A row of a matrix is what `kernel::pack` makes of the file's blocks; of 256 weights (columns 128 half +
// 32 quad + 8 step + i) a lane, which has one quad of them, takes 4 QUADS + WORDS + AFFINE + SHORTS numbers `own`. Planes of a row, one
// after the other, each with all its super-blocks: QUADS times four words of every lane, WORDS times one word, AFFINE times one word of
// the lanes that have GROUP columns, SHORTS times 16 bits, TAIL bytes with the factors of the whole. What a type does not have it does not
// define; `rest.h` does.
//   W                       the matrix
//   EIGHT(own, half, step)  puts weights as pairs into `pair`: number i low, i + 4 high; FACTOR times the first of the tail is left out
//   AFFINE                  0, or 2: scale (low) and bias of a half's columns, in f16
//   LEAST                   whether `least` is to be subtracted of each, times the tail's second
//   AHEAD                   whether the next super-block is read before this one is multiplied, for up to 16 rows: it pays where one is large
//   GRID, CODES             whether there is a codebook of so many words in the group's memory, read by CODE
//   TABLES                  tables of sixteen bytes, read by PICKED
//   TO                      bits moved from a place to another         MAGIC   1024 in both f16, under which a code is 1024 more
//   TIMES                   a pair times a constant of both            WHOLE, SIGNED   a number below 1024, a byte minus 128, as pairs
//   UNDER                   codes under MAGIC that begin at bit `at` as numbers, of up to 10 - at bits    SCALED   a code times scale plus bias
//   E2M1                    eight numbers of four bits as pairs, divided by 2^14: exponent and mantissa in their places of an f16
//   SPREAD                  EIGHT of IQ2 and IQ3: two words of four magnitudes, signs, and the number of an odd scale
//   LOOKED                  eight nibbles' bytes of a table
//   SIGN                    the sign bits of numbers i and i + 4 of eight    EVEN    eight signs from seven, as many as make them even
#define MAGIC 0x64006400u
#define NUMBERS (4 * QUADS + WORDS + AFFINE + SHORTS)
#define TO(word, from, to) ((from) > (to) ? (word) >> ((from) - (to)) : (word) << ((to) - (from)))
#define TIMES(pair, factor) pair_fma(pair, factor, 0)
#define WHOLE(n) pair_fma((n) * 0x10001u + MAGIC, 0x3c003c00, 0xe400e400)
#define SIGNED(n) pair_fma((n) * 0x10001u + MAGIC, 0x3c003c00, 0xe480e480)
#define BYTE(word, i) ((word) >> 8 * (i) & 255)
#define NIBBLE(word, i) ((word) >> 4 * (i) & 15)
#define EVEN(seven) ((seven) | (ones(seven) & 1) << 7)
#define SIGN(signs, i) ((signs) * 0x1001u << (15 - (i)) & 0x80008000u)
#define STRIDE ((n_super * (64 * QUADS + 16 * WORDS + 512 * AFFINE / GROUP + 8 * SHORTS + TAIL) + 15) / 16)
#define TAKE(own, from, super, quad) \
  UNROLL \
  for (uint i = 0; i < QUADS; i++) { \
    const uint4 four = LOAD4(W, (from) + (4 * (super) + (quad)) * QUADS + i); \
    own[4 * i] = four.x; \
    own[4 * i + 1] = four.y; \
    own[4 * i + 2] = four.z; \
    own[4 * i + 3] = four.w; \
  } \
  UNROLL \
  for (uint i = 0; i < WORDS; i++) own[4 * QUADS + i] = W[4 * ((from) + 4 * QUADS * n_super + (super) * WORDS + i) + (quad)]; \
  UNROLL \
  for (uint i = 0; i < AFFINE; i++) { \
    own[4 * QUADS + WORDS + i] = \
        W[4 * ((from) + (4 * QUADS + WORDS) * n_super) + ((super) * AFFINE + i) * (128 / GROUP) + (quad) * 32 / GROUP]; \
  } \
  if (SHORTS == 1) { \
    own[NUMBERS - 1] = W[4 * ((from) + (4 * QUADS + WORDS) * n_super) + 2 * (super) + (quad) / 2] >> 16 * ((quad) % 2) & 0xffff; \
  }
#define FACTORS(from, super) \
  W[4 * ((from) + (4 * QUADS + WORDS) * n_super) + 2 * SHORTS * n_super + (TAIL == 4 ? (super) : (super) / 2)] \
      >> (TAIL == 4 ? 0 : 16 * ((super) % 2))
#define UNDER(at, codes) pair_fma(codes, (15 - (at)) * 0x04000400u, (57 - (at)) * 0x04000400u)
#define SCALED(own, half_block, code) \
  pair_fma(code, (own[4 * QUADS + WORDS + half_block] & 0xffff) * 0x10001u, (own[4 * QUADS + WORDS + half_block] >> 16) * 0x10001u)
#define E2M1(values, word) \
  const uint more = masked((word) >> 3, 0x0e0e0e0e, (word) << 7 & 0x80808080); \
  const uint values[4] = {(word) & 0x8e008e00, (word) << 8 & 0x8e008e00, more & 0xff00ff00, more << 8 & 0xff00ff00};
#define SPREAD(first, second, signs, scale) \
  const uint bytes[2] = {first, second}, sign = signs, s = WHOLE(2 * (scale) + 1); \
  UNROLL \
  for (uint i = 0; i < 4; i++) { \
    const uint value = i % 2 == 0 ? bytes_even(bytes[i / 2]) : bytes_odd(bytes[i / 2]); \
    pair[i] = pair_fma(value, s, TIMES(s, 0xe400e400)) ^ SIGN(sign, i); \
  }
#define LOOKED(table, word) {PICKED(table, word), PICKED(table, (word) >> 16)}
