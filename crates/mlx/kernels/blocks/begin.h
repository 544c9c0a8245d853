// What EIGHT of all types uses: byte j of the block, the f16 and the 32 bits at its even byte j, an i8 of the codebook; signs of eight
// from a code of seven, the last making their number even; eight magnitudes with signs.
#define BYTE(j) (uint(w[at + (j) / 2]) >> 8 * ((j) % 2) & 255)
#define HALF(j) half_bits(uint(w[at + (j) / 2]))
#define WORD(j) (uint(w[at + (j) / 2]) | uint(w[at + (j) / 2 + 1]) << 16)
#define SIGNED(code) float(int((codes[(code) / 4] >> 8 * ((code) % 4) & 255) ^ 128) - 128)
#define EVEN(s) ((s) | (((s) ^ (s) >> 1 ^ (s) >> 2 ^ (s) >> 3 ^ (s) >> 4 ^ (s) >> 5 ^ (s) >> 6) & 1) << 7)
#define SPREAD(scale, low, high, signs) \
  for (uint i = 0; i < 8; i++) { \
    const float size = (scale) * float((i < 4 ? (low) : (high)) >> 8 * (i % 4) & 255); \
    eight[i] = ((signs) >> i & 1) == 1 ? -size : size; \
  }
